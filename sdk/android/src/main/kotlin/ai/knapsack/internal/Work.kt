package ai.knapsack.internal

import ai.knapsack.Holder
import ai.knapsack.KnapsackError
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.Job
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.suspendCancellableCoroutine
import java.util.concurrent.ExecutorService
import java.util.concurrent.Executors

/** Where calls block: threads of our own. A dispatcher of the app's could be full of its own work, or be starved by ours. */
internal val workers: ExecutorService = Executors.newCachedThreadPool { work ->
    Thread(work, "knapsack").apply { isDaemon = true }
}

/** A flag that ends a running call. */
internal class Cancel {
    private val handle = Handle(Native.cancelNew(), { IllegalStateException("the call has ended") }, Native::cancelFree)
    private val job = Job()

    /** Whether it was raised. */
    val isRaised: Boolean get() = job.isCancelled

    fun raise() {
        job.cancel()
        // The call that it belongs to may have ended in this moment.
        try {
            handle.use(Native::cancelRaise)
        } catch (_: IllegalStateException) {
        }
    }

    /** The one call that it can end. */
    fun <T> use(body: (Long) -> T): T = try {
        handle.use(body)
    } finally {
        handle.close()
    }

    /** Runs a function of the app's from a thread that may block, until the flag is raised. */
    fun <T> wait(body: suspend () -> T): T = runBlocking(job) { body() }
}

/** Runs a blocking call, which the coroutine's cancellation ends. */
internal suspend fun <T> blocking(body: (Long) -> T): T = suspendCancellableCoroutine { continuation ->
    val cancel = Cancel()
    continuation.invokeOnCancellation { cancel.raise() }
    workers.execute { continuation.resumeWith(runCatching { typed { cancel.use(body) } }) }
}

/** Turns what the native side throws into what the app sees. */
internal inline fun <T> typed(body: () -> T): T = try {
    body()
} catch (failure: NativeFailure) {
    throw failure.typed()
}

internal fun NativeFailure.typed(): Throwable {
    val text = message.orEmpty()
    return when (code) {
        2 -> KnapsackError.InvalidOption(text)
        3 -> KnapsackError.PackageUnusable(text)
        4 -> KnapsackError.NoSuchModel(text)
        5 -> KnapsackError.LibraryMissing(text)
        6 -> KnapsackError.LibraryUnusable(text)
        7 -> KnapsackError.NotDownloaded(text)
        8 -> KnapsackError.Network(first.toInt().takeIf { it != 0 }, second.takeIf { it != 0L }, text)
        9 -> KnapsackError.NotEnoughSpace(first, second, text)
        10 -> KnapsackError.WrongContent(text)
        11 -> KnapsackError.NotEnoughMemory(first, second, held(), text)
        12 -> KnapsackError.InUse(text)
        13 -> KnapsackError.DeviceFailed(text)
        14 -> KnapsackError.PromptTooLong(first.toInt(), second.toInt(), text)
        15 -> KnapsackError.Template(text)
        16 -> CancellationException(text)
        17 -> KnapsackError.Backgrounded(text)
        18 -> KnapsackError.SavedStateUnusable(text)
        else -> KnapsackError.Internal(text)
    }
}

private fun NativeFailure.held(): List<Holder> = holders.mapIndexed { index, id ->
    Holder(id, figures[2 * index], Holder.Hold.values()[figures[2 * index + 1].toInt()])
}
