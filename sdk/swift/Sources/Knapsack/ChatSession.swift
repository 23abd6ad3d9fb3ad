import Foundation

/// A conversation with a model. Answers of one session come one after the other, in the order in which they were asked for.
public final class ChatSession: Sendable {
    private struct State {
        var transcript: [Message]
        var closed = false
        var running: [ObjectIdentifier: Cancel] = [:]
    }
    private let native: Native
    private let model: ModelInfo.ID
    private let context: ContextPolicy
    private let start: [Message]
    private let state: Guarded<State>
    private let queue = DispatchQueue(label: "ai.knapsack.session", qos: .userInitiated, target: Workers.queue)

    init(_ native: Native, _ model: ModelInfo.ID, _ transcript: [Message], _ context: ContextPolicy) {
        (self.native, self.model, self.context) = (native, model, context)
        start = transcript.filter { $0.role == .system }
        state = Guarded(State(transcript: transcript))
    }

    /// What was said so far. A turn is added when its answer is complete; one that was cancelled leaves no trace.
    public var transcript: [Message] { state.with { $0.transcript } }

    /// The whole answer.
    public func respond(to prompt: String, options: GenerationOptions = .init()) async throws -> Answer {
        for try await event in stream(prompt, options: options) {
            if case .finished(let answer) = event { return answer }
        }
        // The stream ends early only for a consumer that was cancelled.
        throw CancellationError()
    }

    /// The answer, piece by piece. It ends once: with ``Event/finished(_:)`` or with a thrown error. When the consumer is
    /// cancelled or stops iterating the computation stops and nothing more arrives. The computation never waits for the consumer.
    public func stream(_ prompt: String, options: GenerationOptions = .init()) -> AsyncThrowingStream<Event, any Error> {
        let cancel = Cancel()
        let open = state.with { state in
            if !state.closed { state.running[ObjectIdentifier(cancel)] = cancel }
            return !state.closed
        }
        return AsyncThrowingStream { continuation in
            guard open else {
                continuation.finish(throwing: KnapsackError.invalidOption("the session is closed"))
                return
            }
            continuation.onTermination = { if case .cancelled = $0 { cancel.raise() } }
            queue.async { [self] in
                defer { state.with { $0.running[ObjectIdentifier(cancel)] = nil } }
                do {
                    continuation.yield(.finished(try answer(prompt, options, cancel, continuation)))
                    continuation.finish()
                } catch {
                    continuation.finish(throwing: error)
                }
            }
        }
    }

    private func answer(
        _ prompt: String, _ options: GenerationOptions, _ cancel: Cancel,
        _ continuation: AsyncThrowingStream<Event, any Error>.Continuation
    ) throws -> Answer {
        let before = transcript
        let request = before + [Message(.user, prompt)]
        var text = ""
        let (finish, usage) = try native.answer(model, request, options, context, cancel) { piece in
            text += piece
            if case .terminated = continuation.yield(.text(piece)) { return false }
            return true
        }
        if finish == .stop || finish == .length {
            state.with {
                // A reset meanwhile wins.
                if $0.transcript == before { $0.transcript = request + [Message(.assistant, text)] }
            }
        }
        return Answer(text: text, finishReason: finish, usage: usage)
    }

    /// Forgets the conversation, but not the instructions.
    public func reset() { state.with { $0.transcript = start } }

    /// Ends running answers with ``FinishReason/cancelled`` and takes no more. Returns at once.
    public func close() {
        let running = state.with { state in
            state.closed = true
            return Array(state.running.values)
        }
        for cancel in running { cancel.raise() }
    }
}
