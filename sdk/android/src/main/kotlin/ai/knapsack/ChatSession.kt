package ai.knapsack

import ai.knapsack.internal.Cancel
import ai.knapsack.internal.Native
import ai.knapsack.internal.request
import ai.knapsack.internal.tokenLogProb
import ai.knapsack.internal.toolCall
import ai.knapsack.internal.typed
import ai.knapsack.internal.workers
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.channels.Channel
import kotlinx.coroutines.channels.awaitClose
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.buffer
import kotlinx.coroutines.flow.callbackFlow
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.suspendCancellableCoroutine
import java.io.File
import java.util.concurrent.locks.ReentrantLock
import java.util.function.Consumer
import kotlin.concurrent.withLock

/** Most steps of an answer: a model that never stops calling tools would never answer. */
private const val MOST_STEPS = 16

/** A conversation with a model. Answers of one session come one after the other. */
class ChatSession internal constructor(
    private val models: LocalModels,
    private val model: String,
    transcript: List<Message>,
    private val tools: List<Tool>,
    private val context: ContextPolicy,
) : AutoCloseable {
    private val start = transcript.filter { it.role == Role.SYSTEM }
    private val turn = ReentrantLock(true)
    private val running = mutableSetOf<Cancel>()
    private var closed = false

    /** What was said so far. A turn is added when its answer is complete; one that was cancelled leaves no trace. */
    @Volatile
    var transcript: List<Message> = transcript
        private set

    /**
     * The answer, piece by piece. Where the model calls tools of the session's, they run in between, and it goes on with what they gave.
     * It ends once: with [Event.Finished] or with an exception. Cancelling the collector stops the
     * computation. Cold: each collector asks anew. The computation never waits for the collector.
     */
    @JvmOverloads
    fun stream(prompt: String, options: GenerationOptions = GenerationOptions()): Flow<Event> = callbackFlow {
        val cancel = begin()
        workers.execute {
            val failure = runCatching {
                val answer = answer(prompt, options, cancel) { trySend(it).isSuccess }
                trySend(Event.Finished(answer))
            }
            close(failure.exceptionOrNull())
        }
        awaitClose { cancel.raise() }
        // Unlimited: a worker that waits for its collector would hold the model's lock. An answer is small.
    }.buffer(Channel.UNLIMITED)

    /** The whole answer. */
    suspend fun respond(prompt: String, options: GenerationOptions = GenerationOptions()): Answer =
        (stream(prompt, options).first { it is Event.Finished } as Event.Finished).answer

    /**
     * The answer as a value of a type: it always has the form of the type's schema.
     *
     * @throws KnapsackError.IncompleteAnswer the answer ended before its value did
     */
    suspend fun <T> respond(prompt: String, type: Structured<T>, options: GenerationOptions = GenerationOptions()): T =
        value(respond(prompt, options.copy(form = AnswerForm.OfSchema(type.schema))), type)

    /** The same for Java: blocks, so call it off the main thread. */
    @JvmOverloads
    fun <T> respondBlocking(prompt: String, type: Structured<T>, options: GenerationOptions = GenerationOptions()): T =
        value(answerBlocking(prompt, options.copy(form = AnswerForm.OfSchema(type.schema))), type)

    private fun <T> value(answer: Answer, type: Structured<T>): T = when (answer.finishReason) {
        FinishReason.STOP -> type.decode(answer.text)
        FinishReason.LENGTH -> throw KnapsackError.IncompleteAnswer(answer.text)
        FinishReason.CANCELLED -> throw KnapsackError.Closed("the session was closed")
        FinishReason.BACKGROUNDED -> throw KnapsackError.Backgrounded("the app went to the background")
    }

    /** The whole answer, for Java: blocks, so call it off the main thread. [onText] gets each piece on this thread. */
    @JvmOverloads
    fun answerBlocking(
        prompt: String,
        options: GenerationOptions = GenerationOptions(),
        onText: Consumer<String> = Consumer { },
    ): Answer = answer(prompt, options, begin()) {
        if (it is Event.Text) onText.accept(it.text)
        true
    }

    private fun begin(): Cancel = synchronized(running) {
        if (closed) throw KnapsackError.Closed("the session was closed")
        Cancel().also { running += it }
    }

    private fun answer(prompt: String, options: GenerationOptions, cancel: Cancel, on: (Event) -> Boolean): Answer = try {
        turn.withLock {
            cancel.use { flag ->
                val before = transcript
                val messages = (before + Message(Role.USER, prompt)).toMutableList()
                val answer = steps(messages, options, cancel, flag, on)
                // A reset meanwhile wins, and so does whoever cancelled.
                val complete = answer.finishReason == FinishReason.STOP || answer.finishReason == FinishReason.LENGTH
                if (complete && !cancel.isRaised && transcript === before) transcript = messages
                answer
            }
        }
    } finally {
        synchronized(running) { running -= cancel }
    }

    /** What the model says, and what it says to what its tools gave, until it calls none. */
    private fun steps(
        messages: MutableList<Message>,
        options: GenerationOptions,
        cancel: Cancel,
        flag: Long,
        on: (Event) -> Boolean,
    ): Answer {
        var whole: Answer? = null
        repeat(MOST_STEPS) {
            val step = step(messages, options, first = whole == null, flag, on)
            val calls = if (step.finishReason == FinishReason.STOP) step.toolCalls else emptyList()
            messages += Message(Role.ASSISTANT, step.text, step.reasoning.ifEmpty { null }, calls)
            val before = whole
            val answer = step.copy(
                toolCalls = before?.toolCalls.orEmpty() + calls, tokens = before?.tokens.orEmpty() + step.tokens,
                usage = before?.usage?.plus(step.usage) ?: step.usage,
            )
            whole = answer
            if (calls.isEmpty()) return answer
            for (call in calls) {
                val tool = tools.find { it.name == call.name } ?: throw KnapsackError.Internal("the model called ${call.name}")
                val result = try {
                    cancel.wait { tool.call(call.arguments) }
                } catch (cancelled: CancellationException) {
                    if (cancel.isRaised) return answer.copy(finishReason = FinishReason.CANCELLED) else throw cancelled
                }
                messages += Message.result(call, result)
                if (!on(Event.ToolResult(call, result))) cancel.raise()
            }
            if (cancel.isRaised) return answer.copy(finishReason = FinishReason.CANCELLED)
        }
        throw KnapsackError.IncompleteAnswer("the model goes on calling tools")
    }

    /** What the model says until it ends or calls tools. */
    private fun step(
        messages: List<Message>,
        options: GenerationOptions,
        first: Boolean,
        flag: Long,
        on: (Event) -> Boolean,
    ): Answer {
        val (text, reasoning) = StringBuilder() to StringBuilder()
        val (calls, tokens) = mutableListOf<ToolCall>() to mutableListOf<TokenLogProb>()
        val request = options.request(messages, tools, first)
        models.refreshMemory()
        val numbers = typed {
            models.handle.use { models ->
                Native.answer(models, model, request, context.ordinal, flag) { kind, piece ->
                    when (kind) {
                        0 -> on(Event.Text(piece).also { text.append(piece) })
                        1 -> on(Event.Thinking(piece).also { reasoning.append(piece) })
                        2 -> on(Event.Calls(toolCall(piece).also { calls += it }))
                        3 -> on(Event.Token(tokenLogProb(piece).also { tokens += it }))
                        else -> true
                    }
                }
            }
        }
        val reason = FinishReason.values()[numbers[0].toInt()]
        return Answer(text.toString(), reasoning.toString(), calls, tokens, reason, usage(numbers))
    }

    private fun usage(numbers: LongArray) = Usage(
        numbers[1].toInt(), numbers[2].toInt(), numbers[3].toInt(), numbers[7].toInt(), numbers[4].toInt(), numbers[5] / 1e9,
        numbers[6] / 1e9,
    )

    /**
     * Writes what is computed of this conversation into a file, in place of what was there; what is missing is computed first. A session
     * that begins in the same way, in a later run of the app too, goes on from there after [restoreState]: so long instructions are paid
     * for once. [options] are those of the next answer, of which only `thinking` and `toolChoice` count. The file holds the
     * conversation's tokens, so keep it where you would keep its text; the [transcript] is the app's to keep.
     */
    suspend fun saveState(file: File, options: GenerationOptions = GenerationOptions()): Unit = state { models, cancel ->
        val request = options.request(transcript + Message(Role.USER, ""), tools, first = true)
        Native.saveState(models, model, request, context.ordinal, file.path, cancel)
    }

    /**
     * Takes what [saveState] wrote. The session answers as it would without, but need not compute its beginning again, unless the model is
     * freed or answers another session before.
     *
     * @throws KnapsackError.SavedStateUnusable nothing is lost but time: the next answer computes everything
     */
    suspend fun restoreState(file: File): Unit = state { models, cancel ->
        Native.restoreState(models, model, file.path, cancel)
    }

    /** The same for Java: blocks, so call it off the main thread. */
    @JvmOverloads
    fun saveStateBlocking(file: File, options: GenerationOptions = GenerationOptions()): Unit =
        runBlocking { saveState(file, options) }

    /** The same for Java: blocks, so call it off the main thread. */
    fun restoreStateBlocking(file: File): Unit = runBlocking { restoreState(file) }

    /** A call about the state, after the answers that are running, which [close] ends. */
    private suspend fun state(call: (Long, Long) -> Unit) = suspendCancellableCoroutine<Unit> { continuation ->
        val cancel = begin()
        continuation.invokeOnCancellation { cancel.raise() }
        workers.execute {
            val outcome = runCatching {
                turn.withLock {
                    models.refreshMemory()
                    typed { cancel.use { flag -> models.handle.use { call(it, flag) } } }
                }
            }
            synchronized(running) { running -= cancel }
            continuation.resumeWith(outcome)
        }
    }

    /** Forgets the conversation, but not the instructions. */
    fun reset() {
        // A list of its own, so that an answer on its way sees that it is another.
        transcript = ArrayList(start)
    }

    /** Ends running answers with [FinishReason.CANCELLED] and takes no more. Returns at once. */
    override fun close() {
        val answers = synchronized(running) {
            closed = true
            running.toList()
        }
        answers.forEach { it.raise() }
    }
}
