package ai.knapsack

import ai.knapsack.internal.LogSink
import ai.knapsack.internal.Native
import ai.knapsack.internal.fields
import java.io.File

/**
 * What `knapsack package` wrote and the app ships: the app config, the weights that are bundled, and the models.
 *
 * @property library the shared library with the models; the system finds it by its name in the app
 */
class ModelPackage private constructor(internal val place: String, internal val files: PackageFiles?, val library: String) {
    /** The package's folder `bundle` is a folder on this device too. */
    @JvmOverloads
    constructor(bundle: File, library: String = "libmodel_android.so") : this(bundle.path, null, library)

    /** The files of that folder are somewhere else, such as in the assets of an app. */
    @JvmOverloads
    constructor(files: PackageFiles, library: String = "libmodel_android.so") : this(files.place, files, library)
}

/** The files of a package, by their paths in its folder `bundle`. Called from any thread; what is thrown is a failed load. */
interface PackageFiles {
    /** What messages call the place. */
    val place: String

    /** Where a file lies uncompressed in another; null: there is none of that name, or it is compressed. */
    fun slice(path: String): FileSlice?

    /** The first [most] bytes of a file, or all; null: there is none of that name. */
    fun read(path: String, most: Int): ByteArray?
}

/**
 * Bytes of an open file, which are mapped and never copied.
 *
 * @property descriptor given away with this: the runtime closes it
 */
class FileSlice(val descriptor: Int, val offset: Long, val length: Long)

/** How important a line of the log is. */
enum class LogLevel { OFF, ERROR, WARNING, INFO, DEBUG, TRACE }

/** Is told what happens inside, from any thread. */
fun interface LogListener {
    /** [part] is the part of the runtime that says it. */
    fun line(level: LogLevel, part: String, text: String)
}

/** What happens inside: nobody is told until an app asks. */
object KnapsackLog {
    /** Gives every line up to [level] to [listener] from now on, in the whole process; null: to nobody. */
    @JvmStatic
    fun listen(level: LogLevel, listener: LogListener?) =
        Native.setLog(level.ordinal, listener?.let { LogSink { number, part, text -> it.line(LogLevel.values()[number], part, text) } })
}

/**
 * How [LocalModels] works.
 *
 * @property storage where downloaded models are kept; null: nothing is downloaded
 * @property memoryBudget bytes that loaded models may take together; null: what the system grants, asked again before each load
 * @property background what stops while the app is in the background
 */
class Options @JvmOverloads constructor(
    val storage: File? = null,
    val memoryBudget: Long? = null,
    val background: BackgroundPolicy = BackgroundPolicy.PROCEED,
)

/** What [LocalModels.pause] stops. */
enum class BackgroundPolicy {
    /** Work on the GPU. */
    STOP_GPU,

    /** Every answer. */
    STOP_ALL,

    /** Nothing: Android lets a process in the background compute as long as it lives. */
    PROCEED,
}

/**
 * One model of the package.
 *
 * @property memory bytes that it takes when it is loaded
 * @property context most tokens of a conversation; null: there is no end
 * @property downloadSize bytes to download before its first use; 0 when it is bundled
 * @property revision the revision that was packaged, where its source has one
 */
data class ModelInfo(val id: String, val memory: Long, val context: Int?, val downloadSize: Long, val revision: String?)

/** Whether a model can be used at once. */
sealed interface ModelState {
    /** Part of the app. */
    data object Bundled : ModelState

    /** Downloaded, verified, in place. */
    data object Ready : ModelState

    /** Not downloaded. */
    data class Missing(val bytes: Long) : ModelState

    /** A download was begun. */
    data class Partial(val done: Long, val total: Long) : ModelState
}

/**
 * A file of a model that is to be downloaded.
 *
 * @property path its name in the model
 */
data class WantedFile(val url: String, val path: String, val size: Long, val isHere: Boolean)

/**
 * How far a download is.
 *
 * @property done bytes that are here, earlier runs included
 * @property bytesPerSecond of this run so far
 */
data class DownloadProgress(val done: Long, val total: Long, val bytesPerSecond: Double) {
    /** 0 to 1. */
    val fraction: Double get() = if (total == 0L) 1.0 else done.toDouble() / total
}

/** What happened to a model. */
sealed interface ModelEvent {
    val id: String

    /** It is being loaded; [fraction] is 0 to 1. */
    data class Loading(override val id: String, val fraction: Double) : ModelEvent

    /** It is there. */
    data class Loaded(override val id: String, val bytes: Long) : ModelEvent

    /** It was freed. */
    data class Evicted(override val id: String, val bytes: Long, val reason: EvictionReason) : ModelEvent

    /** It could not be loaded. */
    data class Failed(override val id: String, val message: String) : ModelEvent
}

/** Why a model was freed: another needed the room, the system needs memory, the app asked for it. */
enum class EvictionReason { ROOM, PRESSURE, UNLOADED }

/** Who says a message. */
enum class Role { SYSTEM, USER, ASSISTANT, TOOL }

/**
 * One turn of a conversation.
 *
 * @property reasoning what the model thought before it said this; templates leave it out of the conversation as their model wants it
 * @property toolCalls the tools that the model called
 * @property toolCallId of a tool's result: the call that it answers
 * @property name of a tool's result: the tool's name
 */
data class Message @JvmOverloads constructor(
    val role: Role,
    val content: String,
    val reasoning: String? = null,
    val toolCalls: List<ToolCall> = emptyList(),
    val toolCallId: String? = null,
    val name: String? = null,
) {
    internal val json: Map<String, Any>
        get() = fields(
            "role" to role.name.lowercase(java.util.Locale.ROOT), "content" to content, "reasoning_content" to reasoning,
            "tool_calls" to toolCalls.takeIf { it.isNotEmpty() }?.map { it.json }, "tool_call_id" to toolCallId, "name" to name,
        )

    companion object {
        /** What a tool gave. */
        @JvmStatic
        fun result(call: ToolCall, result: String): Message = Message(Role.TOOL, result, toolCallId = call.id, name = call.name)
    }
}

/**
 * How one answer is generated; what is null is the model's own. In which order the numbers work is told in `docs/serving.md`.
 *
 * @property temperature 0 takes the most likely token always
 * @property topK draws from this many of the most likely tokens; 0: from all
 * @property minP leaves out tokens that are less likely than this share of the most likely one
 * @property logitBias added to the logits of tokens
 * @property seed the same seed gives the same answer
 * @property stop strings that end the answer, besides the model's own; at most four
 * @property stopTokens tokens that end the answer, besides the model's own
 * @property form the form of the answer
 * @property thinking whether the model thinks before it answers, where it can; null: as its template has it
 * @property maxThinkingTokens tokens after which a model that thinks has to answer
 * @property logProbs log probabilities of each token and of so many of its most likely rivals, 0 to 20: [Answer.tokens]
 * @property toolChoice which of the session's tools the model may or must call
 * @property parallelToolCalls whether it may call several at once
 */
data class GenerationOptions @JvmOverloads constructor(
    val maxTokens: Int? = null,
    val temperature: Float? = null,
    val topP: Float? = null,
    val repetitionPenalty: Float? = null,
    val presencePenalty: Float? = null,
    val frequencyPenalty: Float? = null,
    val seed: Long? = null,
    val stop: List<String> = emptyList(),
    val topK: Int? = null,
    val minP: Float? = null,
    val logitBias: Map<Int, Float> = emptyMap(),
    val stopTokens: List<Int> = emptyList(),
    val form: AnswerForm? = null,
    val thinking: Boolean? = null,
    val maxThinkingTokens: Int? = null,
    val logProbs: Int? = null,
    val toolChoice: ToolChoice = ToolChoice.Auto,
    val parallelToolCalls: Boolean = true,
) {
    init {
        if (maxTokens != null && maxTokens <= 0) throw KnapsackError.InvalidOption("maxTokens is $maxTokens")
        val counts = mapOf("topK" to topK, "maxThinkingTokens" to maxThinkingTokens, "logProbs" to logProbs)
        for ((name, count) in counts) if (count != null && count < 0) throw KnapsackError.InvalidOption("$name is $count")
        val numbers = listOf(temperature, topP, minP, repetitionPenalty, presencePenalty, frequencyPenalty) + logitBias.values
        if (numbers.any { it != null && !it.isFinite() }) throw KnapsackError.InvalidOption("an option is not a number")
    }
}

/** What a session does when its conversation has outgrown the model's context. */
enum class ContextPolicy {
    /** The oldest turns are left out; [Usage.droppedMessages] says how many messages. */
    DROP_OLDEST,

    /** [KnapsackError.PromptTooLong]. */
    FAIL,
}

/** Why an answer ended. */
enum class FinishReason {
    /** The model stopped. */
    STOP,

    /** `maxTokens`, or the end of the context. */
    LENGTH,

    /** The session was closed. */
    CANCELLED,

    /** The app went to the background. */
    BACKGROUNDED,
}

/**
 * What an answer took, all its steps together where tools were called.
 *
 * @property reusedTokens tokens of the prompt that were in the cache already
 * @property thinkingTokens generated tokens that the model thought with
 * @property droppedMessages messages that were left out because the conversation has outgrown the context
 * @property prefillSeconds until the first token
 * @property decodeSeconds from there on
 */
data class Usage(
    val promptTokens: Int,
    val reusedTokens: Int,
    val generatedTokens: Int,
    val thinkingTokens: Int,
    val droppedMessages: Int,
    val prefillSeconds: Double,
    val decodeSeconds: Double,
) {
    internal operator fun plus(other: Usage) = Usage(
        promptTokens + other.promptTokens, reusedTokens + other.reusedTokens, generatedTokens + other.generatedTokens,
        thinkingTokens + other.thinkingTokens, maxOf(droppedMessages, other.droppedMessages), prefillSeconds + other.prefillSeconds,
        decodeSeconds + other.decodeSeconds,
    )
}

/**
 * A token of an answer, and what the model thought of it.
 *
 * @property top the most likely tokens
 */
data class TokenLogProb(val chosen: Candidate, val top: List<Candidate>) {
    /**
     * A token and the natural logarithm of its probability.
     *
     * @property text its bytes as text; a token may be a part of a character
     */
    data class Candidate(val text: String, val logProb: Double)
}

/**
 * A whole answer.
 *
 * @property reasoning what the model thought before
 * @property toolCalls the tools that it called on the way
 * @property tokens its tokens, where [GenerationOptions.logProbs] asked for them
 */
data class Answer(
    val text: String,
    val reasoning: String,
    val toolCalls: List<ToolCall>,
    val tokens: List<TokenLogProb>,
    val finishReason: FinishReason,
    val usage: Usage,
)

/** What a stream of an answer gives: pieces, and at the end, once, the answer. */
sealed interface Event {
    /** A piece. */
    data class Text(val text: String) : Event

    /** More of what the model thinks before it answers. */
    data class Thinking(val text: String) : Event

    /** A token was chosen; only where log probabilities were asked for. */
    data class Token(val token: TokenLogProb) : Event

    /** The model calls a tool of the session's, which runs now. */
    data class Calls(val call: ToolCall) : Event

    /** What the tool gave. */
    data class ToolResult(val call: ToolCall, val result: String) : Event

    /** The end. */
    data class Finished(val answer: Answer) : Event
}
