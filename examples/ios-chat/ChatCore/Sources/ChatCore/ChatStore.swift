import Foundation
import Knapsack

#if canImport(Observation)
    import Observation
#endif

/// A model as the list shows it.
public struct ModelRow: Identifiable, Equatable, Sendable {
    public let id: String
    /// Bytes when it is loaded.
    public let memory: UInt64
    public var state: ModelState
    /// 0 to 1 while it is downloaded or loaded.
    public var progress: Double?
}

/// A turn as the chat shows it.
public struct Turn: Identifiable, Equatable, Sendable {
    public let id: UUID
    public let role: Message.Role
    public var text: String

    init(_ role: Message.Role, _ text: String) {
        (id, self.role, self.text) = (UUID(), role, text)
    }
}

/// What the app shows and does: models, one conversation, and what went wrong last.
@MainActor
@Observable
public final class ChatStore {
    public private(set) var rows: [ModelRow]
    public private(set) var turns: [Turn] = []
    public private(set) var isAnswering = false
    /// Bytes that loaded models take.
    public private(set) var memoryInUse: UInt64 = 0
    public private(set) var problem: String?
    public private(set) var chosen: String?

    private let models: LocalModels
    private var session: ChatSession?
    private var answer: Task<Void, Never>?

    public init(_ models: LocalModels) {
        self.models = models
        rows = models.models.map { model in
            ModelRow(id: model.id, memory: model.memory, state: (try? models.state(of: model.id)) ?? .missing(bytes: model.downloadSize))
        }
        let events = models.events
        Task { [weak self] in
            for await event in events { self?.show(event) }
        }
    }

    /// Downloads a model; leaving the task's scope stops it, and what was fetched stays.
    public func download(_ id: String) async {
        await noting {
            for try await step in models.prepare(id, over: .unmetered) { update(id) { $0.progress = step.fraction } }
        }
        refresh(id)
    }

    /// Begins a conversation.
    public func choose(_ id: String) async {
        stop()
        await noting {
            session = try await models.session(id, instructions: "Answer briefly.")
            (chosen, turns) = (id, [])
        }
    }

    /// Asks, and shows the answer as it comes.
    public func send(_ prompt: String) {
        guard let session, !isAnswering, !prompt.isEmpty else { return }
        turns += [Turn(.user, prompt), Turn(.assistant, "")]
        let place = turns.count - 1
        isAnswering = true
        answer = Task {
            await noting {
                for try await event in session.stream(prompt) {
                    if case .text(let piece) = event { turns[place].text += piece }
                }
            }
            isAnswering = false
        }
    }

    /// Stops the answer that is running: leaving its stream stops the computation.
    public func stop() {
        answer?.cancel()
        answer = nil
    }

    /// Checks every byte of a downloaded model.
    public func verify(_ id: String) async {
        await noting {
            let wrong = try await models.verify(id)
            if wrong > 0 { problem = "\(wrong) files of \(id) were damaged: download it again" }
        }
        refresh(id)
    }

    /// Removes a downloaded model.
    public func remove(_ id: String) async {
        if chosen == id { (session, chosen) = (nil, nil) }
        await noting { try await models.remove(id) }
        refresh(id)
    }

    private func noting(_ work: () async throws -> Void) async {
        problem = nil
        do {
            try await work()
        } catch is CancellationError {
        } catch {
            problem = String(describing: error)
        }
    }

    private func refresh(_ id: String) {
        update(id) { row in
            row.progress = nil
            if let state = try? models.state(of: id) { row.state = state }
        }
    }

    private func update(_ id: String, _ change: (inout ModelRow) -> Void) {
        if let place = rows.firstIndex(where: { $0.id == id }) { change(&rows[place]) }
    }

    private func show(_ event: ModelEvent) {
        switch event {
        case .loading(let id, let fraction): update(id) { $0.progress = fraction }
        case .loaded(let id, let bytes):
            memoryInUse += bytes
            update(id) { $0.progress = nil }
        case .evicted(_, let bytes, _): memoryInUse -= min(bytes, memoryInUse)
        case .failed(let id, let message):
            problem = message
            update(id) { $0.progress = nil }
        }
    }
}
