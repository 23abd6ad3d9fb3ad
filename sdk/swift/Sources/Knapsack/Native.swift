import CKnapsack
import Foundation

extension String {
    init(_ string: KnapsackStr) {
        self = String(decoding: UnsafeBufferPointer(start: string.data, count: string.len), as: UTF8.self)
    }

    func withKnapsackStr<R>(_ body: (KnapsackStr) throws -> R) rethrows -> R {
        var copy = self
        return try copy.withUTF8 { try body(KnapsackStr(data: $0.baseAddress, len: $0.count)) }
    }
}

/// A value that several threads use.
final class Guarded<Value>: @unchecked Sendable {
    private let lock = NSLock()
    private var value: Value

    init(_ value: Value) { self.value = value }

    func with<R>(_ body: (inout Value) throws -> R) rethrows -> R {
        lock.lock()
        defer { lock.unlock() }
        return try body(&value)
    }
}

/// Where the log of the whole process goes.
enum LogHook {
    final class Sink: Sendable {
        let line: @Sendable (LogLevel, String, String) -> Void
        init(_ line: @escaping @Sendable (LogLevel, String, String) -> Void) { self.line = line }
    }
    /// Every sink that was ever set: a line may be on its way to one while another is set.
    private static let sinks = Guarded<[Sink]>([])

    static func set(_ level: LogLevel, _ line: (@Sendable (LogLevel, String, String) -> Void)?) {
        guard let line else { return knapsack_set_log(0, nil, nil) }
        let sink = Sink(line)
        sinks.with { $0.append(sink) }
        knapsack_set_log(
            level.rawValue,
            { context, level, part, text in
                let sink = Unmanaged<Sink>.fromOpaque(context!).takeUnretainedValue()
                sink.line(LogLevel(rawValue: level) ?? .trace, String(part), String(text))
            }, Unmanaged.passUnretained(sink).toOpaque())
    }
}

/// A flag that ends a running call.
final class Cancel: @unchecked Sendable {
    // The C interface lets any thread use it.
    let pointer = knapsack_cancel_new()!
    private let state = Guarded<(raised: Bool, also: (@Sendable () -> Void)?)>((false, nil))

    func raise() {
        knapsack_cancel_raise(pointer)
        let also = state.with { state in
            state.raised = true
            return state.also
        }
        also?()
    }

    var isRaised: Bool { state.with { $0.raised } }

    /// What else is to be done then; at once when it is raised already.
    func onRaise(_ also: (@Sendable () -> Void)?) {
        let raised = state.with { state in
            state.also = also
            return state.raised
        }
        if raised { also?() }
    }

    deinit { knapsack_cancel_free(pointer) }
}

/// Where calls block: threads of our own, never those of Swift's cooperative pool, which has as many as there are cores.
enum Workers {
    static let queue = DispatchQueue(label: "ai.knapsack.work", qos: .userInitiated, attributes: .concurrent)

    /// Runs a blocking call, which the task's cancellation ends.
    static func run<T: Sendable>(_ body: @escaping @Sendable (Cancel) throws -> T) async throws -> T {
        let cancel = Cancel()
        return try await withTaskCancellationHandler {
            try Task.checkCancellation()
            return try await withCheckedThrowingContinuation { continuation in
                queue.async { continuation.resume(with: Result { try body(cancel) }) }
            }
        } onCancel: {
            cancel.raise()
        }
    }
}

/// The models as the C interface has them. Whoever is inside a call holds this object, so it is freed after the last one.
final class Native: @unchecked Sendable {
    // The C interface lets any thread use it.
    private let pointer: OpaquePointer
    let events: EventHub
    private let transport: Transport?

    init(_ package: ModelPackage, _ options: Options, storage: URL?) throws {
        guard knapsack_abi_version() == UInt32(KNAPSACK_ABI_VERSION) else {
            throw KnapsackError.libraryUnusable("this package was made for another version of the runtime")
        }
        let (events, transport) = (EventHub(), storage.map { _ in Transport() })
        var open = KnapsackOpen()
        open.size = MemoryLayout<KnapsackOpen>.size
        open.budget = options.memoryBudget ?? 0
        open.background = options.background.rawValue
        open.on_event = { context, kind, id, value, text in
            Unmanaged<EventHub>.fromOpaque(context!).takeUnretainedValue().tell(kind, String(id), value, String(text))
        }
        open.event_context = Unmanaged.passUnretained(events).toOpaque()
        if let transport { open.transport = transport.functions }
        var library = ""
        switch package.libraries {
        case .table(let address): open.table = UnsafeRawPointer(bitPattern: address)
        case .file(let path): library = path
        }
        var error: OpaquePointer?
        let opened = package.bundle.path.withKnapsackStr { bundle in
            (storage?.path ?? "").withKnapsackStr { storage in
                library.withKnapsackStr { library in
                    (open.bundle, open.storage, open.library) = (bundle, storage, library)
                    return knapsack_open(&open, &error)
                }
            }
        }
        guard let opened else { throw taken(error) }
        (pointer, self.events, self.transport) = (opened, events, transport)
    }

    deinit {
        // Both outlive it: callbacks of the last calls use them.
        withExtendedLifetime((events, transport)) { knapsack_close(pointer) }
    }

    private func call(_ body: (OpaquePointer, inout OpaquePointer?) -> Bool) throws {
        var error: OpaquePointer?
        guard body(pointer, &error) else { throw taken(error) }
    }

    func models() throws -> [ModelInfo] {
        final class List { var models: [ModelInfo] = [] }
        let list = List()
        try withExtendedLifetime(list) {
            try call {
                knapsack_models(
                    $0,
                    { context, model in
                        let model = model!.pointee
                        let revision = String(model.revision)
                        Unmanaged<List>.fromOpaque(context!).takeUnretainedValue().models.append(
                            ModelInfo(
                                id: String(model.id), memory: model.memory, context: model.context == 0 ? nil : Int(model.context),
                                downloadSize: model.download, revision: revision.isEmpty ? nil : revision))
                    }, Unmanaged.passUnretained(list).toOpaque(), &$1)
            }
        }
        return list.models
    }

    func state(_ id: String) throws -> ModelState {
        var state = KnapsackState()
        try id.withKnapsackStr { id in try call { knapsack_state($0, id, &state, &$1) } }
        switch state.kind {
        case 0: return .bundled
        case 1: return .ready
        case 2: return .missing(bytes: state.total)
        default: return .partial(done: state.done, total: state.total)
        }
    }

    func prepare(_ id: String, over network: Network, _ cancel: Cancel, _ progress: @escaping (UInt64, UInt64) -> Bool) throws {
        final class Sink {
            let progress: (UInt64, UInt64) -> Bool
            init(_ progress: @escaping (UInt64, UInt64) -> Bool) { self.progress = progress }
        }
        let sink = Sink(progress)
        transport?.network.with { $0 = network }
        try withExtendedLifetime(sink) {
            try id.withKnapsackStr { id in
                try call {
                    knapsack_prepare(
                        $0, id, cancel.pointer,
                        { Unmanaged<Sink>.fromOpaque($0!).takeUnretainedValue().progress($1, $2) },
                        Unmanaged.passUnretained(sink).toOpaque(), &$1)
                }
            }
        }
    }

    func wanted(_ id: String) throws -> [WantedFile] {
        final class List { var files: [WantedFile] = [] }
        let list = List()
        try withExtendedLifetime(list) {
            try id.withKnapsackStr { id in
                try call {
                    knapsack_wanted(
                        $0, id,
                        { context, file in
                            let file = file!.pointee
                            guard let url = URL(string: String(file.url)) else { return }
                            Unmanaged<List>.fromOpaque(context!).takeUnretainedValue().files.append(
                                WantedFile(url: url, path: String(file.path), size: file.bytes, isHere: file.have))
                        }, Unmanaged.passUnretained(list).toOpaque(), &$1)
                }
            }
        }
        return list.files
    }

    func adopt(_ id: String, _ path: String, _ file: URL) throws -> Bool {
        var complete = false
        try id.withKnapsackStr { id in
            try path.withKnapsackStr { path in
                try file.path.withKnapsackStr { file in try call { knapsack_adopt($0, id, path, file, &complete, &$1) } }
            }
        }
        return complete
    }

    func place(_ id: String, _ path: String, _ file: URL) throws -> Bool {
        var complete = false
        try id.withKnapsackStr { id in
            try path.withKnapsackStr { path in
                try file.path.withKnapsackStr { file in try call { knapsack_place($0, id, path, file, &complete, &$1) } }
            }
        }
        return complete
    }

    func place(_ id: String, _ path: String, _ descriptor: Int32, _ length: UInt64) throws -> Bool {
        var complete = false
        try id.withKnapsackStr { id in
            try path.withKnapsackStr { path in
                try call { knapsack_place_range($0, id, path, descriptor, 0, length, &complete, &$1) }
            }
        }
        return complete
    }

    func verify(_ id: String) throws -> Int {
        var wrong: UInt64 = 0
        try id.withKnapsackStr { id in try call { knapsack_verify($0, id, &wrong, &$1) } }
        return Int(wrong)
    }

    func complete(_ request: String, _ cancel: Cancel, _ onEvent: @escaping (String) -> Bool) throws {
        final class Sink {
            let push: (String) -> Bool
            init(_ push: @escaping (String) -> Bool) { self.push = push }
        }
        let sink = Sink(onEvent)
        try withExtendedLifetime(sink) {
            try request.withKnapsackStr { request in
                try call {
                    knapsack_complete(
                        $0, request, cancel.pointer,
                        { Unmanaged<Sink>.fromOpaque($0!).takeUnretainedValue().push(String($1)) },
                        Unmanaged.passUnretained(sink).toOpaque(), &$1)
                }
            }
        }
    }

    func remove(_ id: String) throws -> Bool {
        var removed = false
        try id.withKnapsackStr { id in try call { knapsack_remove($0, id, &removed, &$1) } }
        return removed
    }

    func fits(_ id: String) throws {
        try id.withKnapsackStr { id in try call { knapsack_fits($0, id, &$1) } }
    }

    func load(_ id: String, _ cancel: Cancel) throws {
        try id.withKnapsackStr { id in try call { knapsack_load($0, id, cancel.pointer, &$1) } }
    }

    func unload(_ id: String) throws -> Bool {
        var unloaded = false
        try id.withKnapsackStr { id in try call { knapsack_unload($0, id, &unloaded, &$1) } }
        return unloaded
    }

    func pin(_ id: String, _ pinned: Bool) {
        try? id.withKnapsackStr { id in try call { knapsack_pin($0, id, pinned, &$1) } }
    }

    func saveState(_ id: String, _ request: String, _ context: ContextPolicy, _ file: URL, _ cancel: Cancel) throws {
        try id.withKnapsackStr { id in
            try request.withKnapsackStr { request in
                try file.path.withKnapsackStr { file in
                    try call { knapsack_save_state($0, id, request, context.rawValue, file, cancel.pointer, &$1) }
                }
            }
        }
    }

    func restoreState(_ id: String, _ file: URL, _ cancel: Cancel) throws {
        try id.withKnapsackStr { id in
            try file.path.withKnapsackStr { file in try call { knapsack_restore_state($0, id, file, cancel.pointer, &$1) } }
        }
    }

    func releaseMemory(critical: Bool) -> UInt64 { knapsack_memory_pressure(pointer, critical) }
    func pause() { knapsack_pause(pointer) }
    func resume() { knapsack_resume(pointer) }

    /// One step of an answer: up to its end, or to calls of tools.
    func answer(
        _ id: String, _ request: String, _ context: ContextPolicy, _ cancel: Cancel, _ onPiece: @escaping (UInt32, String) -> Bool
    ) throws -> (FinishReason, Usage) {
        final class Sink {
            let push: (UInt32, String) -> Bool
            init(_ push: @escaping (UInt32, String) -> Bool) { self.push = push }
        }
        let sink = Sink(onPiece)
        var answer = KnapsackAnswer()
        answer.size = MemoryLayout<KnapsackAnswer>.size
        try withExtendedLifetime(sink) {
            try id.withKnapsackStr { id in
                try request.withKnapsackStr { request in
                    try call {
                        knapsack_answer(
                            $0, id, request, context.rawValue, cancel.pointer,
                            { Unmanaged<Sink>.fromOpaque($0!).takeUnretainedValue().push($1, String($2)) },
                            Unmanaged.passUnretained(sink).toOpaque(), &answer, &$1)
                    }
                }
            }
        }
        let usage = Usage(
            promptTokens: Int(answer.prompt_tokens), reusedTokens: Int(answer.reused_tokens),
            generatedTokens: Int(answer.generated_tokens), thinkingTokens: Int(answer.thinking_tokens),
            droppedMessages: Int(answer.dropped_messages), prefillTime: Double(answer.prefill_ns) / 1e9,
            decodeTime: Double(answer.decode_ns) / 1e9)
        return (FinishReason(rawValue: answer.finish) ?? .stop, usage)
    }
}

/// Gives every event to everybody who listens.
final class EventHub: Sendable {
    private let listeners = Guarded<[UUID: AsyncStream<ModelEvent>.Continuation]>([:])

    func subscribe() -> AsyncStream<ModelEvent> {
        AsyncStream(bufferingPolicy: .bufferingNewest(256)) { continuation in
            let key = UUID()
            listeners.with { $0[key] = continuation }
            continuation.onTermination = { [weak self] _ in self?.listeners.with { $0[key] = nil } }
        }
    }

    func tell(_ kind: UInt32, _ id: String, _ value: UInt64, _ text: String) {
        let event: ModelEvent
        switch kind {
        case 0: event = .loading(id, fraction: Double(value) / 1e6)
        case 1: event = .loaded(id, bytes: value)
        case 2: event = .evicted(id, bytes: value, reason: .room)
        case 3: event = .evicted(id, bytes: value, reason: .pressure)
        case 4: event = .evicted(id, bytes: value, reason: .unloaded)
        case 5: event = .failed(id, message: text)
        default: return
        }
        for listener in listeners.with({ Array($0.values) }) { listener.yield(event) }
    }

    deinit {
        for listener in listeners.with({ Array($0.values) }) { listener.finish() }
    }
}
