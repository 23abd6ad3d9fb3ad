import Foundation

/// A conversation with a model. Answers of one session come one after the other, in the order in which they were asked for.
public final class ChatSession: Sendable {
    private struct State {
        var transcript: [Message]
        var resets = 0
        var closed = false
        var running: [ObjectIdentifier: Cancel] = [:]
    }
    private let native: Native
    private let model: ModelInfo.ID
    private let context: ContextPolicy
    private let tools: [Tool]
    private let start: [Message]
    private let state: Guarded<State>
    private let queue = DispatchQueue(label: "ai.knapsack.session", qos: .userInitiated, target: Workers.queue)

    /// Most steps of an answer: a model that never stops calling tools would never answer.
    private static let mostSteps = 16

    init(_ native: Native, _ model: ModelInfo.ID, _ transcript: [Message], _ tools: [Tool], _ context: ContextPolicy) {
        (self.native, self.model, self.tools, self.context) = (native, model, tools, context)
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

    /// The answer as a value of a type: it always has the form of the type's schema.
    /// - Throws: ``KnapsackError/incompleteAnswer(_:)`` when the answer ended before its value did; what decoding throws.
    public func respond<T: Structured>(to prompt: String, as type: T.Type, options: GenerationOptions = .init()) async throws -> T {
        var options = options
        options.form = .schema(T.schema)
        let answer = try await respond(to: prompt, options: options)
        switch answer.finishReason {
        case .stop: return try JSONDecoder().decode(T.self, from: Data(answer.text.utf8))
        case .length: throw KnapsackError.incompleteAnswer(answer.text)
        case .cancelled: throw CancellationError()
        case .backgrounded: throw KnapsackError.backgrounded
        }
    }

    /// The answer, piece by piece. Where the model calls tools of the session's, they run in between, and it goes on with what they
    /// gave. It ends once: with ``Event/finished(_:)`` or with a thrown error. When the consumer is
    /// cancelled or stops iterating the computation stops and nothing more arrives. The computation never waits for the consumer.
    public func stream(_ prompt: String, options: GenerationOptions = .init()) -> AsyncThrowingStream<Event, any Error> {
        let cancel = Cancel()
        let open = begin(cancel)
        return AsyncThrowingStream { continuation in
            guard open else {
                continuation.finish(throwing: Self.closed)
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

    private static let closed = KnapsackError.invalidOption("the session is closed")

    /// Lets ``close()`` end a call; false after it.
    private func begin(_ cancel: Cancel) -> Bool {
        state.with { state in
            if !state.closed { state.running[ObjectIdentifier(cancel)] = cancel }
            return !state.closed
        }
    }

    private func answer(
        _ prompt: String, _ options: GenerationOptions, _ cancel: Cancel,
        _ continuation: AsyncThrowingStream<Event, any Error>.Continuation
    ) throws -> Answer {
        let (before, resets) = state.with { ($0.transcript, $0.resets) }
        var messages = before + [Message(.user, prompt)]
        var (answer, steps) = (Answer(), 0)
        steps: while true {
            let step = try self.step(messages, options, first: steps == 0, cancel, continuation)
            answer.usage.add(step.usage)
            answer.tokens += step.tokens
            (answer.text, answer.reasoning, answer.finishReason) = (step.text, step.reasoning, step.finishReason)
            let calls = step.finishReason == .stop ? step.toolCalls : []
            messages.append(
                Message(.assistant, step.text, reasoning: step.reasoning.isEmpty ? nil : step.reasoning, toolCalls: calls))
            if calls.isEmpty { break steps }
            answer.toolCalls += calls
            steps += 1
            guard steps < Self.mostSteps else { throw KnapsackError.incompleteAnswer("the model goes on calling tools") }
            for call in calls {
                guard let tool = tools.first(where: { $0.name == call.name }) else {
                    throw KnapsackError.internalError("the model called \(call.name)")
                }
                let result: String
                do {
                    result = try waiting(cancel) { try await tool.call(call.arguments) }
                } catch where cancel.isRaised {
                    answer.finishReason = .cancelled
                    break steps
                }
                messages.append(Message(result: result, of: call))
                if case .terminated = continuation.yield(.toolResult(call, result)) { cancel.raise() }
            }
            if cancel.isRaised {
                answer.finishReason = .cancelled
                break steps
            }
        }
        if answer.finishReason == .stop || answer.finishReason == .length {
            let said = messages
            state.with {
                // A reset meanwhile wins, and so does whoever cancelled.
                if $0.resets == resets && !cancel.isRaised { $0.transcript = said }
            }
        }
        return answer
    }

    /// What the model says until it ends or calls tools.
    private func step(
        _ messages: [Message], _ options: GenerationOptions, first: Bool, _ cancel: Cancel,
        _ continuation: AsyncThrowingStream<Event, any Error>.Continuation
    ) throws -> Answer {
        var step = Answer()
        let decoder = JSONDecoder()
        let request = try options.request(messages, tools, first: first)
        let (finish, usage) = try native.answer(model, request, context, cancel) { kind, text in
            let event: Event
            switch kind {
            case 0:
                step.text += text
                event = .text(text)
            case 1:
                step.reasoning += text
                event = .thinking(text)
            case 2:
                guard let call = try? decoder.decode(WrittenCall.self, from: Data(text.utf8)).call else { return true }
                step.toolCalls.append(call)
                event = .toolCall(call)
            case 3:
                guard let token = try? decoder.decode(WrittenToken.self, from: Data(text.utf8)).logProb else { return true }
                step.tokens.append(token)
                event = .token(token)
            default: return true
            }
            if case .terminated = continuation.yield(event) { return false }
            return true
        }
        (step.finishReason, step.usage) = (finish, usage)
        return step
    }

    /// Writes what is computed of this conversation into a file, in place of what was there; what is missing is computed first. A
    /// session that begins in the same way, in a later run of the app too, goes on from there after ``restoreState(from:)``: so long
    /// instructions are paid for once. `options` are those of the next answer, of which only `thinking` and `toolChoice` count. The
    /// file holds the conversation's tokens, so keep it where you would keep its text; the ``transcript`` is the app's to keep.
    public func saveState(to file: URL, options: GenerationOptions = .init()) async throws {
        try await inTurn { [self] cancel in
            let request = try options.request(transcript + [Message(.user, "")], tools, first: true)
            try native.saveState(model, request, context, file, cancel)
        }
    }

    /// Takes what ``saveState(to:options:)`` wrote. The session answers as it would without, but need not compute its beginning again,
    /// unless the model is freed or answers another session before.
    /// - Throws: ``KnapsackError/savedStateUnusable(_:)``; nothing is lost but time: the next answer computes everything.
    public func restoreState(from file: URL) async throws {
        try await inTurn { [self] cancel in try native.restoreState(model, file, cancel) }
    }

    /// A call after the answers that are running, which its task's cancellation and ``close()`` end.
    private func inTurn(_ body: @escaping @Sendable (Cancel) throws -> Void) async throws {
        let cancel = Cancel()
        try await withTaskCancellationHandler {
            try Task.checkCancellation()
            guard begin(cancel) else { throw Self.closed }
            try await withCheckedThrowingContinuation { continuation in
                queue.async { [self] in
                    let outcome = Result { try body(cancel) }
                    state.with { $0.running[ObjectIdentifier(cancel)] = nil }
                    continuation.resume(with: outcome)
                }
            }
        } onCancel: {
            cancel.raise()
        }
    }

    /// Forgets the conversation, but not the instructions.
    public func reset() {
        state.with {
            $0.transcript = start
            $0.resets += 1
        }
    }

    /// Ends running answers with ``FinishReason/cancelled`` and takes no more. Returns at once.
    public func close() {
        let running = state.with { state in
            state.closed = true
            return Array(state.running.values)
        }
        for cancel in running { cancel.raise() }
    }
}
