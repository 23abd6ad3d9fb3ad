package ai.knapsack

/** Why something did not work. Cancellation is Kotlin's `CancellationException`. */
sealed class KnapsackError(message: String) : Exception(message) {
    /** The package has no such model. */
    class NoSuchModel(message: String) : KnapsackError(message)

    /** The bundled files are missing or damaged. */
    class PackageUnusable(message: String) : KnapsackError(message)

    /** The app does not contain the model's library. */
    class LibraryMissing(message: String) : KnapsackError(message)

    /** The model's library is damaged or of another version. */
    class LibraryUnusable(message: String) : KnapsackError(message)

    /** The model is to be downloaded first: [LocalModels.prepare]. */
    class NotDownloaded(message: String) : KnapsackError(message)

    /** The download failed. [status] is the server's answer, if there was one; [retryAfter] the seconds that it asks to wait. */
    class Network(val status: Int?, val retryAfter: Long?, message: String) : KnapsackError(message)

    /** The disk is too full; bytes. */
    class NotEnoughSpace(val needed: Long, val available: Long, message: String) : KnapsackError(message)

    /** A file from the network is not the one that was packaged. */
    class WrongContent(message: String) : KnapsackError(message)

    /** The memory budget is too small for the model beside those that are in use; bytes. */
    class NotEnoughMemory(val needed: Long, val available: Long, val holders: List<Holder>, message: String) : KnapsackError(message)

    /** The model is in use. */
    class InUse(message: String) : KnapsackError(message)

    /** The prompt is longer than the model's context. */
    class PromptTooLong(val tokens: Int, val context: Int, message: String) : KnapsackError(message)

    /** The model's chat template or tokenizer. */
    class Template(message: String) : KnapsackError(message)

    /** An option is outside its range. */
    class InvalidOption(message: String) : KnapsackError(message)

    /** The answer ended before it had its form: `maxTokens`, the end of the context, or a model that never stops calling tools. */
    class IncompleteAnswer(message: String) : KnapsackError(message)

    /** The session or the models were closed. */
    class Closed(message: String) : KnapsackError(message)

    /** The app is in the background. */
    class Backgrounded(message: String) : KnapsackError(message)

    /** A saved state cannot be read or written, is damaged, or is of another model, version or kind of device. */
    class SavedStateUnusable(message: String) : KnapsackError(message)

    /** The GPU or the CPU failed. */
    class DeviceFailed(message: String) : KnapsackError(message)

    /** A bug in Knapsack. */
    class Internal(message: String) : KnapsackError(message)
}

/** A model that holds a part of the memory budget. */
data class Holder(val id: String, val bytes: Long, val hold: Hold) {
    enum class Hold { IDLE, PINNED, IN_USE, LOADING }
}
