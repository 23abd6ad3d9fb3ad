package ai.knapsack

import ai.knapsack.internal.Body
import ai.knapsack.internal.Cancel
import ai.knapsack.internal.Handle
import ai.knapsack.internal.Host
import ai.knapsack.internal.Native
import ai.knapsack.internal.blocking
import ai.knapsack.internal.download
import ai.knapsack.internal.typed
import ai.knapsack.internal.workers
import kotlinx.coroutines.channels.BufferOverflow
import kotlinx.coroutines.channels.Channel
import kotlinx.coroutines.channels.awaitClose
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.MutableSharedFlow
import kotlinx.coroutines.flow.SharedFlow
import kotlinx.coroutines.flow.asSharedFlow
import kotlinx.coroutines.flow.buffer
import kotlinx.coroutines.flow.callbackFlow
import kotlinx.coroutines.flow.conflate
import java.io.File

/**
 * The models that an app ships, on this device.
 *
 * ```kotlin
 * val models = LocalModels(context)
 * val chat = models.session("tiny-assistant", instructions = "Answer briefly.")
 * chat.stream("What is 37 plus 48?").collect { if (it is Event.Text) print(it.text) }
 * ```
 *
 * Models are loaded when they are first needed and freed when the memory is needed for something else; a session survives that
 * and loads its model again. All methods may be called from any thread.
 *
 * @throws KnapsackError a package that is missing, damaged, or made by another version
 */
class LocalModels @JvmOverloads constructor(pkg: ModelPackage, options: Options = Options()) : AutoCloseable {
    private val published = MutableSharedFlow<ModelEvent>(extraBufferCapacity = 256, onBufferOverflow = BufferOverflow.DROP_OLDEST)
    private val closing = mutableListOf<() -> Unit>()

    /** What is free, and below which the system ends apps: bytes. Asked before each load, where only the app can ask it. */
    @Volatile
    internal var systemMemory: (() -> Pair<Long, Long>)? = null

    /** What happens to models from now on. */
    val events: SharedFlow<ModelEvent> = published.asSharedFlow()

    internal val handle: Handle = Handle(
        typed {
            Native.open(
                pkg.place, pkg.library, options.storage?.path.orEmpty(), options.memoryBudget ?: 0,
                options.background.ordinal, pkg.files != null, Callbacks(published, pkg.files),
            )
        },
        { KnapsackError.Closed("the models were closed") },
        Native::close,
    )

    /** In the order of the manifest. */
    val models: List<ModelInfo> = typed {
        handle.use { models ->
            val (texts, figures) = Native.models(models) to Native.figures(models)
            List(texts.size / 2) {
                val (memory, context, size) = figures.slice(3 * it until 3 * it + 3)
                ModelInfo(texts[2 * it], memory, context.toInt().takeIf { it > 0 }, size, texts[2 * it + 1].ifEmpty { null })
            }
        }
    }

    /** Whether a model can be used at once. */
    fun state(id: String): ModelState {
        val (kind, done, total) = typed { handle.use { Native.state(it, id) } }
        return when (kind) {
            0L -> ModelState.Bundled
            1L -> ModelState.Ready
            2L -> ModelState.Missing(total)
            else -> ModelState.Partial(done, total)
        }
    }

    /**
     * Downloads a model, or what is still missing of it. Completes when every byte is verified and in place; a bundled model
     * completes at once. What was fetched stays when the collector is cancelled or the download fails, and the next one goes on
     * from there. Cold: each collector is a download, and a second one waits for the first.
     */
    fun prepare(id: String): Flow<DownloadProgress> = callbackFlow {
        val cancel = Cancel()
        workers.execute {
            val started = System.nanoTime()
            var first = -1L
            val failure = runCatching {
                typed {
                    cancel.use { flag ->
                        handle.use { models ->
                            Native.prepare(models, id, flag) { done, total ->
                                if (first < 0) first = done
                                val seconds = maxOf(System.nanoTime() - started, 1_000_000) / 1e9
                                // After a file that was wrong there may be less than before.
                                val rate = maxOf(0, done - first) / seconds
                                !trySend(DownloadProgress(done, total, rate)).isClosed
                            }
                        }
                    }
                }
            }
            close(failure.exceptionOrNull())
        }
        awaitClose { cancel.raise() }
    }.conflate()

    /**
     * The files of a model, for an app that downloads by the system (`WorkManager`, `DownloadManager`, Play). Each that is not here is
     * to be given to [adopt].
     */
    fun wanted(id: String): List<WantedFile> = typed {
        handle.use { models ->
            val (texts, figures) = Native.wanted(models, id) to Native.wantedFigures(models, id)
            List(texts.size / 2) { WantedFile(texts[2 * it], texts[2 * it + 1], figures[2 * it], figures[2 * it + 1] != 0L) }
        }
    }

    /**
     * Takes a file that the system downloaded: it is moved, checked, and the model can be used when it was the last, which is what
     * this returns.
     *
     * @throws KnapsackError.WrongContent a file that is not the packaged one; it is removed and still wanted
     */
    suspend fun adopt(file: File, id: String, path: String): Boolean =
        blocking { handle.use { Native.adopt(it, id, path, file.path) } }

    /**
     * Uses the files of a model's packs where Play put them: nothing is copied. To be called after each start, when the packs are here;
     * [folders] are what `AiPackManager.getPackLocation(name).assetsPath()` (or `AssetPackManager`) says for each pack of the model.
     * Packs that are installed with the app need no call.
     *
     * @return whether the model is complete now
     * @throws KnapsackError.WrongContent a file of another size than the packaged one
     */
    fun usePacks(id: String, folders: List<File>): Boolean {
        var complete = false
        for (file in wanted(id)) {
            val found = folders.map { File(it, "knapsack/$id/${file.path}") }.firstOrNull { it.isFile } ?: continue
            complete = typed { handle.use { Native.place(it, id, file.path, found.path) } }
        }
        return complete
    }

    /**
     * The same for packs that lie nowhere as files: [slice] opens a file by its path in its pack, such as by `AssetManager.openFd`; null
     * where there is none.
     *
     * @return whether the model is complete now
     * @throws KnapsackError.WrongContent a file of another size than the packaged one
     */
    fun usePacks(id: String, slice: (String) -> FileSlice?): Boolean {
        var complete = false
        for (file in wanted(id)) {
            val found = slice("knapsack/$id/${file.path}") ?: continue
            complete = typed {
                handle.use { Native.placeSlice(it, id, file.path, found.descriptor, found.offset, found.length) }
            }
        }
        return complete
    }

    /**
     * Answers a request of OpenAI's chat completions: `chat.completion.chunk` objects as JSON where the request streams, otherwise one
     * `chat.completion`. A model that is not here is downloaded first. The message of an error is the JSON that OpenAI's clients expect.
     */
    fun complete(openAI: String): Flow<String> = callbackFlow {
        val cancel = Cancel()
        workers.execute {
            val failure = runCatching {
                refreshMemory()
                typed { cancel.use { flag -> handle.use { Native.complete(it, openAI, flag) { event -> trySend(event).isSuccess } } } }
            }
            close(failure.exceptionOrNull())
        }
        awaitClose { cancel.raise() }
    }.buffer(Channel.UNLIMITED)

    /**
     * Checks every byte of a downloaded model. Files that are wrong are removed; [prepare] fetches them again.
     *
     * @return how many were wrong
     */
    suspend fun verify(id: String): Int = blocking { handle.use { Native.verify(it, id) } }

    /** Removes a downloaded model from this device; false when there was nothing. */
    suspend fun remove(id: String): Boolean = blocking { handle.use { Native.remove(it, id) } }

    /**
     * Whether the model would fit into the memory budget when nothing else is in use: to be asked before a download.
     *
     * @throws KnapsackError.NotEnoughMemory it would not
     */
    fun fits(id: String) {
        refreshMemory()
        typed { handle.use { Native.fits(it, id) } }
    }

    /** Loads a model ahead of its first answer. */
    suspend fun load(id: String): Unit = blocking { cancel ->
        refreshMemory()
        handle.use { Native.load(it, id, cancel) }
    }

    /**
     * Begins a conversation, and loads the model.
     *
     * Several sessions of one model share its memory and its cache: alternating between them costs the prompt each time.
     *
     * @param tools what the model may call while it answers; its template must take tools
     */
    suspend fun session(
        id: String,
        instructions: String? = null,
        history: List<Message> = emptyList(),
        context: ContextPolicy = ContextPolicy.DROP_OLDEST,
        tools: List<Tool> = emptyList(),
    ): ChatSession {
        load(id)
        return newSession(id, instructions, history, context, tools)
    }

    /** The same for Java: begins a conversation, which loads its model with the first answer. */
    @JvmOverloads
    fun newSession(
        id: String,
        instructions: String? = null,
        history: List<Message> = emptyList(),
        context: ContextPolicy = ContextPolicy.DROP_OLDEST,
        tools: List<Tool> = emptyList(),
    ): ChatSession =
        ChatSession(this, id, listOfNotNull(instructions?.let { Message(Role.SYSTEM, it) }) + history, tools, context)

    /** Frees a loaded model; false when it is not loaded. */
    suspend fun unload(id: String): Boolean = blocking { handle.use { Native.unload(it, id) } }

    /** Keeps a model from being evicted for another's sake, or lets it go again. */
    @JvmOverloads
    fun pin(id: String, pinned: Boolean = true) = typed { handle.use { Native.pin(it, id, pinned) } }

    /** Frees models that are not in use; the most recently used one and pinned ones only where it is [critical]. Returns bytes. */
    fun releaseMemory(critical: Boolean): Long = handle.use { Native.releaseMemory(it, critical) }

    /** The app goes to the background: see [Options.background]. Returns when nothing computes any more. */
    fun pause() = handle.use { Native.pause(it) }

    /** The app is back. */
    fun resume() = handle.use { Native.resume(it) }

    internal fun refreshMemory() {
        val (available, threshold) = systemMemory?.invoke() ?: return
        handle.use { Native.setBudget(it, available, threshold) }
    }

    internal fun onClose(action: () -> Unit) {
        synchronized(closing) { closing += action }
    }

    /** Frees everything, as soon as the calls that are running have ended. */
    override fun close() {
        if (handle.close()) synchronized(closing) { closing.toList() }.forEach { it() }
    }
}

private class Callbacks(
    private val published: MutableSharedFlow<ModelEvent>,
    private val files: PackageFiles?,
) : Host {
    override fun event(kind: Int, id: String, value: Long, text: String) {
        val event = when (kind) {
            0 -> ModelEvent.Loading(id, value / 1e6)
            1 -> ModelEvent.Loaded(id, value)
            2, 3, 4 -> ModelEvent.Evicted(id, value, EvictionReason.values()[kind - 2])
            5 -> ModelEvent.Failed(id, text)
            else -> return
        }
        published.tryEmit(event)
    }

    override fun get(url: String, from: Long): Body? = download(url, from)

    override fun slice(path: String): LongArray? =
        files?.slice(path)?.let { longArrayOf(it.descriptor.toLong(), it.offset, it.length) }

    override fun read(path: String, most: Int): ByteArray? = files?.read(path, most + 1)
}
