package ai.knapsack

import ai.knapsack.internal.LogSink
import ai.knapsack.internal.Native
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

/** One turn of a conversation. */
data class Message(val role: Role, val content: String)

/**
 * How one answer is generated; what is null is the model's own.
 *
 * @property temperature 0 takes the most likely token always
 * @property seed the same seed gives the same answer
 * @property stop strings that end the answer, besides the model's own
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
) {
    init {
        if (maxTokens != null && maxTokens <= 0) throw KnapsackError.InvalidOption("maxTokens is $maxTokens")
        val numbers = listOf(temperature, topP, repetitionPenalty, presencePenalty, frequencyPenalty)
        if (numbers.any { it != null && it.isNaN() }) throw KnapsackError.InvalidOption("an option is not a number")
    }

    internal val numbers: FloatArray
        get() = floatArrayOf(
            temperature ?: Float.NaN, topP ?: Float.NaN, repetitionPenalty ?: Float.NaN, presencePenalty ?: Float.NaN,
            frequencyPenalty ?: Float.NaN,
        )
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
 * What an answer took.
 *
 * @property reusedTokens tokens of the prompt that were in the cache already
 * @property droppedMessages messages that were left out because the conversation has outgrown the context
 * @property prefillSeconds until the first token
 * @property decodeSeconds from there on
 */
data class Usage(
    val promptTokens: Int,
    val reusedTokens: Int,
    val generatedTokens: Int,
    val droppedMessages: Int,
    val prefillSeconds: Double,
    val decodeSeconds: Double,
)

/** A whole answer. */
data class Answer(val text: String, val finishReason: FinishReason, val usage: Usage)

/** What a stream of an answer gives: pieces of text, and at the end, once, the answer. */
sealed interface Event {
    /** A piece. */
    data class Text(val text: String) : Event

    /** The end. */
    data class Finished(val answer: Answer) : Event
}
