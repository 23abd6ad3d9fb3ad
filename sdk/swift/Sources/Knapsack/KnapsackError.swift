import CKnapsack
import Foundation

/// Why something did not work. Cancellation is Swift's `CancellationError`.
public enum KnapsackError: Error, Sendable, Equatable {
    /// The package has no such model.
    case noSuchModel(String)
    /// The bundled files are missing or damaged.
    case packageUnusable(String)
    /// The app does not contain the model's library.
    case libraryMissing(String)
    /// The model's library is damaged or of another version.
    case libraryUnusable(String)
    /// The model is to be downloaded first: ``LocalModels/prepare(_:over:)``.
    case notDownloaded(String)
    /// The download failed.
    case network(NetworkProblem)
    /// The disk is too full.
    case notEnoughSpace(needed: UInt64, available: UInt64)
    /// A file from the network is not the one that was packaged.
    case wrongContent(String)
    /// The memory budget is too small for the model beside those that are in use.
    case notEnoughMemory(needed: UInt64, available: UInt64, holders: [Holder])
    /// The model is in use.
    case inUse(String)
    /// The prompt is longer than the model's context.
    case promptTooLong(tokens: Int, context: Int)
    /// The model's chat template or tokenizer.
    case template(String)
    /// An option is outside its range, or the session is closed.
    case invalidOption(String)
    /// The answer ended before it had its form: `maxTokens`, the end of the context, or a model that never stops calling tools.
    case incompleteAnswer(String)
    /// The app is in the background.
    case backgrounded
    /// A saved state cannot be read or written, is damaged, or is of another model, version or kind of device.
    case savedStateUnusable(String)
    /// The GPU or the CPU failed.
    case deviceFailed(String)
    /// A bug in Knapsack.
    case internalError(String)
}

/// What the network did.
public struct NetworkProblem: Sendable, Equatable {
    /// The server's answer, if there was one.
    public let status: Int?
    /// Seconds that the server asks to wait.
    public let retryAfter: TimeInterval?
    /// For a log.
    public let message: String
}

/// A model that holds a part of the memory budget.
public struct Holder: Sendable, Equatable {
    public enum Hold: UInt32, Sendable { case idle = 0, pinned, inUse, loading }
    public let modelID: ModelInfo.ID
    public let bytes: UInt64
    public let hold: Hold
}

extension KnapsackError: LocalizedError {
    public var errorDescription: String? {
        switch self {
        case .noSuchModel(let text), .packageUnusable(let text), .libraryMissing(let text), .libraryUnusable(let text),
            .notDownloaded(let text), .wrongContent(let text), .inUse(let text), .template(let text), .invalidOption(let text),
            .incompleteAnswer(let text), .savedStateUnusable(let text), .deviceFailed(let text), .internalError(let text):
            text
        case .network(let problem): problem.message
        case .notEnoughSpace(let needed, let available): "\(needed) bytes are needed on the disk, \(available) are free"
        case .notEnoughMemory(let needed, let available, _): "the model needs \(needed) bytes of memory, \(available) can be had"
        case .promptTooLong(let tokens, let context): "the prompt has \(tokens) tokens, the context \(context)"
        case .backgrounded: "the app is in the background"
        }
    }
}

/// Takes an error of the C interface over.
func taken(_ error: OpaquePointer?) -> any Error {
    guard let error else { return KnapsackError.internalError("a call failed without saying why") }
    defer { knapsack_error_free(error) }
    let message = String(knapsack_error_message(error))
    let (first, second) = (knapsack_error_number(error, 0), knapsack_error_number(error, 1))
    switch knapsack_error_code(error) {
    case 2: return KnapsackError.invalidOption(message)
    case 3: return KnapsackError.packageUnusable(message)
    case 4: return KnapsackError.noSuchModel(message)
    case 5: return KnapsackError.libraryMissing(message)
    case 6: return KnapsackError.libraryUnusable(message)
    case 7: return KnapsackError.notDownloaded(message)
    case 8:
        return KnapsackError.network(
            NetworkProblem(
                status: first == 0 ? nil : Int(first), retryAfter: second == 0 ? nil : TimeInterval(second), message: message))
    case 9: return KnapsackError.notEnoughSpace(needed: first, available: second)
    case 10: return KnapsackError.wrongContent(message)
    case 11: return KnapsackError.notEnoughMemory(needed: first, available: second, holders: holders(error))
    case 12: return KnapsackError.inUse(message)
    case 13: return KnapsackError.deviceFailed(message)
    case 14: return KnapsackError.promptTooLong(tokens: Int(first), context: Int(second))
    case 15: return KnapsackError.template(message)
    case 16: return CancellationError()
    case 17: return KnapsackError.backgrounded
    case 18: return KnapsackError.savedStateUnusable(message)
    default: return KnapsackError.internalError(message)
    }
}

private func holders(_ error: OpaquePointer) -> [Holder] {
    var found: [Holder] = []
    var holder = KnapsackHolder()
    while knapsack_error_holder(error, found.count, &holder) {
        found.append(Holder(modelID: String(holder.model_id), bytes: holder.bytes, hold: .init(rawValue: holder.how) ?? .idle))
    }
    return found
}
