package ai.knapsack.internal

/** The runtime. Every call blocks; handles are used as [Handle] allows. */
internal object Native {
    /** The interface that this library was written for. */
    private const val ABI = 3

    init {
        // On a device the app brings the library; hosts say where it is.
        System.getProperty("ai.knapsack.library")?.let { System.load(it) } ?: System.loadLibrary("knapsack")
        check(abiVersion() == ABI) { "libknapsack.so has interface ${abiVersion()}, this library needs $ABI" }
    }

    @JvmStatic external fun abiVersion(): Int

    @JvmStatic external fun open(
        bundle: String, library: String, storage: String, budget: Long, background: Int, filesOfHost: Boolean, host: Host,
    ): Long

    @JvmStatic external fun setLog(level: Int, sink: LogSink?)

    @JvmStatic external fun close(models: Long)

    @JvmStatic external fun models(models: Long): Array<String>

    @JvmStatic external fun figures(models: Long): LongArray

    @JvmStatic external fun state(models: Long, id: String): LongArray

    @JvmStatic external fun prepare(models: Long, id: String, cancel: Long, sink: ProgressSink)

    @JvmStatic external fun wanted(models: Long, id: String): Array<String>

    @JvmStatic external fun wantedFigures(models: Long, id: String): LongArray

    @JvmStatic external fun adopt(models: Long, id: String, path: String, file: String): Boolean

    @JvmStatic external fun place(models: Long, id: String, path: String, file: String): Boolean

    @JvmStatic external fun placeSlice(models: Long, id: String, path: String, descriptor: Int, offset: Long, length: Long): Boolean

    @JvmStatic external fun verify(models: Long, id: String): Int

    @JvmStatic external fun complete(models: Long, request: String, cancel: Long, sink: TextSink)

    @JvmStatic external fun remove(models: Long, id: String): Boolean

    @JvmStatic external fun fits(models: Long, id: String)

    @JvmStatic external fun load(models: Long, id: String, cancel: Long)

    @JvmStatic external fun unload(models: Long, id: String): Boolean

    @JvmStatic external fun pin(models: Long, id: String, pinned: Boolean)

    @JvmStatic external fun releaseMemory(models: Long, critical: Boolean): Long

    @JvmStatic external fun setBudget(models: Long, available: Long, threshold: Long)

    @JvmStatic external fun pause(models: Long)

    @JvmStatic external fun resume(models: Long)

    @JvmStatic external fun cancelNew(): Long

    @JvmStatic external fun cancelRaise(cancel: Long)

    @JvmStatic external fun cancelFree(cancel: Long)

    @JvmStatic external fun saveState(models: Long, id: String, request: String, whenFull: Int, file: String, cancel: Long)

    @JvmStatic external fun restoreState(models: Long, id: String, file: String, cancel: Long)

    @JvmStatic external fun answer(
        models: Long, id: String, request: String, whenFull: Int, cancel: Long, sink: PieceSink,
    ): LongArray
}

/** A piece of an answer: 0 text, 1 a thought, 2 a call of a tool, 3 a token; false ends it. */
internal fun interface PieceSink {
    fun piece(kind: Int, text: String): Boolean
}

/** An event as JSON; false ends the answer. */
internal fun interface TextSink {
    fun text(piece: String): Boolean
}

/** A line of the log. */
internal fun interface LogSink {
    fun line(level: Int, part: String, text: String)
}

/** How far a download is; false stops it. */
internal fun interface ProgressSink {
    fun step(done: Long, total: Long): Boolean
}

/** What the native side asks and tells, from any thread. */
internal interface Host {
    fun event(kind: Int, id: String, value: Long, text: String)

    /** Null: no answer. */
    fun get(url: String, from: Long): Body?

    /** Descriptor, offset and length of a file of the package. */
    fun slice(path: String): LongArray?

    /** A byte more than [most] where a file of the package has more. */
    fun read(path: String, most: Int): ByteArray?
}

/** The bytes of a download. */
internal interface Body {
    fun status(): Int

    /** Seconds that the server asks to wait, or 0. */
    fun wait(): Long

    /** 0: the end. Throws when the connection breaks. */
    fun read(buffer: ByteArray, most: Int): Int

    fun end()
}

/** What the native side throws; the app sees [ai.knapsack.KnapsackError]. */
internal class NativeFailure(
    val code: Int, message: String, val first: Long, val second: Long, val holders: Array<String>, val figures: LongArray,
) : Exception(message)

/** A native object. It is freed when it is closed and nobody is inside of it any more, so it may be closed while it is used. */
internal class Handle(private val pointer: Long, private val closed: () -> Throwable, private val free: (Long) -> Unit) {
    private var users = 0
    private var open = true

    fun <T> use(body: (Long) -> T): T {
        synchronized(this) {
            if (!open) throw closed()
            users++
        }
        try {
            return body(pointer)
        } finally {
            if (synchronized(this) { --users == 0 && !open }) free(pointer)
        }
    }

    /** False when it was closed already. */
    fun close(): Boolean {
        val last = synchronized(this) {
            if (!open) return false
            open = false
            users == 0
        }
        if (last) free(pointer)
        return true
    }
}
