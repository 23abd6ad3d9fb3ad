package ai.knapsack

import ai.knapsack.internal.Cancel
import ai.knapsack.internal.Native
import ai.knapsack.internal.typed
import ai.knapsack.internal.workers
import kotlinx.coroutines.channels.Channel
import kotlinx.coroutines.channels.awaitClose
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.buffer
import kotlinx.coroutines.flow.callbackFlow
import kotlinx.coroutines.flow.first
import java.util.concurrent.locks.ReentrantLock
import java.util.function.Consumer
import kotlin.concurrent.withLock

/** A conversation with a model. Answers of one session come one after the other. */
class ChatSession internal constructor(
    private val models: LocalModels,
    private val model: String,
    transcript: List<Message>,
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
     * The answer, piece by piece. It ends once: with [Event.Finished] or with an exception. Cancelling the collector stops the
     * computation. Cold: each collector asks anew. The computation never waits for the collector.
     */
    @JvmOverloads
    fun stream(prompt: String, options: GenerationOptions = GenerationOptions()): Flow<Event> = callbackFlow {
        val cancel = begin()
        workers.execute {
            val failure = runCatching {
                val answer = answer(prompt, options, cancel) { piece -> trySend(Event.Text(piece)).isSuccess }
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

    /** The whole answer, for Java: blocks, so call it off the main thread. [onText] gets each piece on this thread. */
    @JvmOverloads
    fun answerBlocking(
        prompt: String,
        options: GenerationOptions = GenerationOptions(),
        onText: Consumer<String> = Consumer { },
    ): Answer = answer(prompt, options, begin()) { piece ->
        onText.accept(piece)
        true
    }

    private fun begin(): Cancel = synchronized(running) {
        if (closed) throw KnapsackError.Closed("the session was closed")
        Cancel().also { running += it }
    }

    private fun answer(prompt: String, options: GenerationOptions, cancel: Cancel, onText: (String) -> Boolean): Answer = try {
        turn.withLock {
            val before = transcript
            val request = before + Message(Role.USER, prompt)
            val text = StringBuilder()
            models.refreshMemory()
            val numbers = typed {
                cancel.use { flag ->
                    models.handle.use { models ->
                        Native.answer(
                            models, model, IntArray(request.size) { request[it].role.ordinal },
                            Array(request.size) { request[it].content }, options.maxTokens ?: 0, options.numbers,
                            options.seed != null, options.seed ?: 0, options.stop.toTypedArray(),
                            context == ContextPolicy.FAIL, flag,
                        ) { piece ->
                            text.append(piece)
                            onText(piece)
                        }
                    }
                }
            }
            val reason = FinishReason.values()[numbers[0].toInt()]
            // A reset meanwhile wins.
            if ((reason == FinishReason.STOP || reason == FinishReason.LENGTH) && transcript === before) {
                transcript = request + Message(Role.ASSISTANT, text.toString())
            }
            Answer(text.toString(), reason, usage(numbers))
        }
    } finally {
        synchronized(running) { running -= cancel }
    }

    private fun usage(numbers: LongArray) = Usage(
        numbers[1].toInt(), numbers[2].toInt(), numbers[3].toInt(), numbers[4].toInt(), numbers[5] / 1e9, numbers[6] / 1e9,
    )

    /** Forgets the conversation, but not the instructions. */
    fun reset() {
        transcript = start
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
