import Foundation

#if canImport(UIKit) && !os(watchOS)
    import UIKit
#endif

/// The models that an app ships, on this device.
///
/// ```swift
/// import Knapsack
/// import KnapsackModels
///
/// let models = try LocalModels(KnapsackModels.package)
/// let chat = try await models.session("tiny-assistant", instructions: "Answer briefly.")
/// for try await event in chat.stream("What is 37 plus 48?") {
///     if case .text(let piece) = event { print(piece, terminator: "") }
/// }
/// ```
///
/// Models are loaded when they are first needed and freed when the memory is needed for something else; a session survives that
/// and loads its model again. All methods may be called from any task.
public final class LocalModels: Sendable {
    private let native: Native
    /// In the order of the manifest.
    public let models: [ModelInfo]
    private let observers = Guarded<[any NSObjectProtocol]>([])

    /// Opens the models of a package.
    /// - Throws: ``KnapsackError``: a package that is missing, damaged, or made by another version.
    public init(_ package: ModelPackage, options: Options = .init()) throws {
        let storage = options.storage ?? Self.defaultStorage
        native = try Native(package, options, storage: storage)
        models = try native.models()
        if models.contains(where: { $0.downloadSize > 0 }), let storage { Self.excludeFromBackup(storage) }
        if options.observesApp { observeApp() }
    }

    deinit {
        for observer in observers.with({ $0 }) { NotificationCenter.default.removeObserver(observer) }
    }

    /// Whether a model can be used at once.
    public func state(of id: ModelInfo.ID) throws -> ModelState { try native.state(id) }

    /// Downloads a model, or what is still missing of it. Ends when every byte is verified and in place; a bundled model ends at
    /// once. What was fetched stays when the stream is cancelled or fails, and the next call goes on from there.
    public func prepare(_ id: ModelInfo.ID, over network: Network = .any) -> AsyncThrowingStream<DownloadProgress, any Error> {
        let (native, cancel) = (native, Cancel())
        return AsyncThrowingStream(bufferingPolicy: .bufferingNewest(1)) { continuation in
            continuation.onTermination = { if case .cancelled = $0 { cancel.raise() } }
            Workers.queue.async {
                let started = Date()
                var first: UInt64?
                do {
                    try native.prepare(id, over: network, cancel) { done, total in
                        let before = first ?? done
                        first = before
                        let seconds = max(Date().timeIntervalSince(started), 1e-3)
                        // After a file that was wrong there may be less than before.
                        let rate = done > before ? Double(done - before) / seconds : 0
                        let step = DownloadProgress(done: done, total: total, bytesPerSecond: rate)
                        if case .terminated = continuation.yield(step) { return false }
                        return true
                    }
                    continuation.finish()
                } catch {
                    continuation.finish(throwing: error)
                }
            }
        }
    }

    /// The files of a model, for an app that downloads by the system: background tasks of a `URLSession`, or asset packs. Each that
    /// is not here is to be given to ``adopt(_:for:as:)``.
    public func wanted(_ id: ModelInfo.ID) throws -> [WantedFile] { try native.wanted(id) }

    /// Takes a file that the system downloaded: it is moved, checked, and the model can be used when it was the last.
    /// - Returns: whether it was the last.
    /// - Throws: ``KnapsackError/wrongContent(_:)`` for a file that is not the packaged one; it is removed and still wanted.
    public func adopt(_ file: URL, for id: ModelInfo.ID, as path: String) async throws -> Bool {
        try await Workers.run { [native] _ in try native.adopt(id, path, file) }
    }

    /// Uses the files of a model's asset packs where the system put them: nothing is copied. To be called after each start, when the
    /// packs are here; `location` says where a file lies whose path is relative to all packs, such as
    /// `AssetPackManager.shared.url(for:)`.
    /// - Throws: what `location` throws, and ``KnapsackError/wrongContent(_:)`` for a file of another size than the packaged one.
    public func usePacks(of id: ModelInfo.ID, at location: (String) throws -> URL) throws {
        for file in try native.wanted(id) {
            _ = try native.place(id, file.path, location("knapsack/\(id)/\(file.path)"))
        }
    }

    /// The same by open files: `descriptor` opens a file by its path in all packs, such as `AssetPackManager.shared.descriptor(for:)`,
    /// and closes it no sooner than this returns.
    /// - Throws: as ``usePacks(of:at:)``.
    public func usePacks(of id: ModelInfo.ID, descriptor: (String) throws -> Int32) throws {
        for file in try native.wanted(id) {
            _ = try native.place(id, file.path, descriptor("knapsack/\(id)/\(file.path)"), file.size)
        }
    }

    /// Answers a request of OpenAI's chat completions: `chat.completion.chunk` objects as JSON where the request streams, otherwise one
    /// `chat.completion`. A model that is not here is downloaded first. The message of an error is the JSON that OpenAI's clients expect.
    public func complete(openAI request: Data) -> AsyncThrowingStream<Data, any Error> {
        let (native, cancel) = (native, Cancel())
        return AsyncThrowingStream { continuation in
            continuation.onTermination = { if case .cancelled = $0 { cancel.raise() } }
            Workers.queue.async {
                do {
                    try native.complete(String(decoding: request, as: UTF8.self), cancel) { event in
                        if case .terminated = continuation.yield(Data(event.utf8)) { return false }
                        return true
                    }
                    continuation.finish()
                } catch {
                    continuation.finish(throwing: error)
                }
            }
        }
    }

    /// Checks every byte of a downloaded model. Files that are wrong are removed; ``prepare(_:over:)`` fetches them again.
    /// - Returns: how many were wrong.
    public func verify(_ id: ModelInfo.ID) async throws -> Int {
        try await Workers.run { [native] _ in try native.verify(id) }
    }

    /// Removes a downloaded model from this device.
    /// - Returns: whether there was anything.
    @discardableResult
    public func remove(_ id: ModelInfo.ID) async throws -> Bool {
        try await Workers.run { [native] _ in try native.remove(id) }
    }

    /// Whether the model would fit into the memory budget when nothing else is in use: to be asked before a download.
    /// - Throws: ``KnapsackError/notEnoughMemory(needed:available:holders:)``.
    public func fits(_ id: ModelInfo.ID) throws { try native.fits(id) }

    /// Loads a model ahead of its first answer.
    public func load(_ id: ModelInfo.ID) async throws {
        try await Workers.run { [native] cancel in try native.load(id, cancel) }
    }

    /// Begins a conversation, and loads the model.
    ///
    /// Several sessions of one model share its memory and its cache: alternating between them costs the prompt each time.
    /// `tools` are what the model may call while it answers; its template must take tools.
    public func session(
        _ id: ModelInfo.ID, instructions: String? = nil, history: [Message] = [], tools: [Tool] = [],
        context: ContextPolicy = .dropOldest
    ) async throws -> ChatSession {
        try await load(id)
        let system = instructions.map { [Message(.system, $0)] } ?? []
        return ChatSession(native, id, system + history, tools, context)
    }

    /// Frees a loaded model.
    /// - Returns: whether it was loaded.
    @discardableResult
    public func unload(_ id: ModelInfo.ID) async throws -> Bool {
        try await Workers.run { [native] _ in try native.unload(id) }
    }

    /// Keeps a model from being evicted for another's sake, or lets it go again.
    public func pin(_ id: ModelInfo.ID, _ pinned: Bool = true) { native.pin(id, pinned) }

    /// What happens to models from now on. Each access is a listener of its own.
    public var events: AsyncStream<ModelEvent> { native.events.subscribe() }

    /// Frees models that are not in use.
    /// - Parameter critical: whether the most recently used one and pinned ones go too.
    /// - Returns: their bytes.
    @discardableResult
    public func releaseMemory(critical: Bool) -> UInt64 { native.releaseMemory(critical: critical) }

    /// The app goes to the background: running answers end with ``FinishReason/backgrounded``, as ``Options/background`` says.
    /// Returns when nothing computes any more.
    public func pause() { native.pause() }

    /// The app is back.
    public func resume() { native.resume() }

    private static var defaultStorage: URL? {
        FileManager.default.urls(for: .applicationSupportDirectory, in: .userDomainMask).first?
            .appendingPathComponent("knapsack", isDirectory: true)
    }

    private static func excludeFromBackup(_ storage: URL) {
        #if !os(Linux)
            try? FileManager.default.createDirectory(at: storage, withIntermediateDirectories: true)
            var (folder, values) = (storage, URLResourceValues())
            values.isExcludedFromBackup = true
            try? folder.setResourceValues(values)
        #endif
    }

    private func observeApp() {
        #if canImport(UIKit) && !os(watchOS)
            let center = NotificationCenter.default
            let (native, queue) = (native, OperationQueue.main)
            observers.with {
                $0 = [
                    center.addObserver(forName: UIApplication.didEnterBackgroundNotification, object: nil, queue: queue) { _ in
                        native.pause()
                    },
                    center.addObserver(forName: UIApplication.willEnterForegroundNotification, object: nil, queue: queue) { _ in
                        native.resume()
                    },
                    center.addObserver(forName: UIApplication.didReceiveMemoryWarningNotification, object: nil, queue: queue) { _ in
                        // Freeing takes a moment, and the main thread has none.
                        Workers.queue.async { _ = native.releaseMemory(critical: true) }
                    },
                ]
            }
        #endif
    }
}
