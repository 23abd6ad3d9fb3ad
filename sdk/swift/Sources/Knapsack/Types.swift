import Foundation

/// What `knapsack package` wrote and the app ships: the bundled files and the model libraries. The generated package
/// `KnapsackModels` has it as `KnapsackModels.package`.
public struct ModelPackage: Sendable {
    /// The folder that holds the app config, and the weights that are bundled.
    public let bundle: URL
    enum Libraries: Sendable {
        case table(UInt)
        case file(String)
    }
    let libraries: Libraries

    /// A package whose model table is linked into the app. `table` is the address of `knapsack_model_table`.
    public init(bundle: URL, table: UnsafeRawPointer) {
        self.bundle = bundle
        libraries = .table(UInt(bitPattern: table))
    }

    /// A package whose model table is in a shared library, for hosts that have no phone's linker.
    public init(bundle: URL, library: String) {
        self.bundle = bundle
        libraries = .file(library)
    }
}

/// How ``LocalModels`` works.
public struct Options: Sendable {
    /// Where downloaded models are kept; by default `Application Support/knapsack`. Left out of backups.
    public var storage: URL?
    /// Bytes that loaded models may take together; nil: what the system grants the app, asked again before each load.
    public var memoryBudget: UInt64?
    /// What stops while the app is in the background.
    public var background: BackgroundPolicy
    /// Whether to listen to the app's own notifications: memory warnings, background and foreground. Where this is off the app
    /// calls ``LocalModels/pause()``, ``LocalModels/resume()`` and ``LocalModels/releaseMemory(critical:)`` itself.
    public var observesApp: Bool

    public init(
        storage: URL? = nil, memoryBudget: UInt64? = nil, background: BackgroundPolicy = .stopGPU, observesApp: Bool = true
    ) {
        self.storage = storage
        self.memoryBudget = memoryBudget
        self.background = background
        self.observesApp = observesApp
    }
}

/// How important a line of the log is.
public enum LogLevel: UInt32, Sendable, Comparable {
    case error = 1, warning, info, debug, trace

    public static func < (left: LogLevel, right: LogLevel) -> Bool { left.rawValue < right.rawValue }
}

/// What happens inside: nobody is told until an app asks.
public enum KnapsackLog {
    /// Gives every line up to `level` to `line` from now on, in the whole process: for `os.Logger`. `line` takes the level, the part of the
    /// runtime that says it, and the text, on any thread.
    public static func listen(_ level: LogLevel = .info, _ line: @escaping @Sendable (LogLevel, String, String) -> Void) {
        LogHook.set(level, line)
    }

    /// Nobody is told any more.
    public static func stop() { LogHook.set(.error, nil) }
}

/// What stops while the app is in the background.
public enum BackgroundPolicy: UInt32, Sendable {
    /// Work on the GPU, which iOS forbids there; the CPU goes on.
    case stopGPU = 0
    /// Every answer.
    case stopAll = 1
    /// Nothing: for hosts and for apps that asked for background GPU time.
    case proceed = 2
}

/// One model of the package.
public struct ModelInfo: Sendable, Identifiable, Equatable {
    public let id: String
    /// Bytes that it takes when it is loaded.
    public let memory: UInt64
    /// Most tokens of a conversation; nil: there is no end.
    public let context: Int?
    /// Bytes to download before its first use; 0 when it is bundled.
    public let downloadSize: UInt64
    /// The revision that was packaged, where its source has one.
    public let revision: String?
}

/// Whether a model can be used at once.
public enum ModelState: Sendable, Equatable {
    case bundled
    case ready
    case missing(bytes: UInt64)
    case partial(done: UInt64, total: UInt64)
}

/// A file of a model that is to be downloaded.
public struct WantedFile: Sendable, Equatable {
    public let url: URL
    /// Its name in the model.
    public let path: String
    public let size: UInt64
    public let isHere: Bool
}

/// How far a download is.
public struct DownloadProgress: Sendable, Equatable {
    /// Bytes that are here, earlier runs included.
    public let done: UInt64
    public let total: UInt64
    /// Of this run so far.
    public let bytesPerSecond: Double
    /// 0 to 1.
    public var fraction: Double { total == 0 ? 1 : Double(done) / Double(total) }
}

/// Which networks a download may use.
public enum Network: Sendable {
    case any
    /// Neither cellular nor a personal hotspot, and not in Low Data Mode.
    case unmetered
}

/// What happened to a model.
public enum ModelEvent: Sendable, Equatable {
    case loading(ModelInfo.ID, fraction: Double)
    case loaded(ModelInfo.ID, bytes: UInt64)
    case evicted(ModelInfo.ID, bytes: UInt64, reason: EvictionReason)
    case failed(ModelInfo.ID, message: String)
}

/// Why a model was freed.
public enum EvictionReason: Sendable, Equatable {
    /// Another model needed the room.
    case room
    /// The system needs memory.
    case pressure
    /// The app asked for it.
    case unloaded
}

/// One turn of a conversation.
public struct Message: Sendable, Equatable, Codable {
    public enum Role: String, Sendable, Codable {
        case system, user, assistant, tool
        var number: UInt32 {
            switch self {
            case .system: 0
            case .user: 1
            case .assistant: 2
            case .tool: 3
            }
        }
    }
    public var role: Role
    public var content: String
    public init(_ role: Role, _ content: String) {
        self.role = role
        self.content = content
    }
}

/// How one answer is generated; what is nil is the model's own.
public struct GenerationOptions: Sendable, Equatable {
    /// Most tokens.
    public var maxTokens: Int?
    /// 0 takes the most likely token always.
    public var temperature: Float?
    public var topP: Float?
    public var repetitionPenalty: Float?
    public var presencePenalty: Float?
    public var frequencyPenalty: Float?
    /// The same seed gives the same answer.
    public var seed: UInt64?
    /// Strings that end the answer, besides the model's own.
    public var stop: [String]

    public init(
        maxTokens: Int? = nil, temperature: Float? = nil, topP: Float? = nil, repetitionPenalty: Float? = nil,
        presencePenalty: Float? = nil, frequencyPenalty: Float? = nil, seed: UInt64? = nil, stop: [String] = []
    ) {
        self.maxTokens = maxTokens
        self.temperature = temperature
        self.topP = topP
        self.repetitionPenalty = repetitionPenalty
        self.presencePenalty = presencePenalty
        self.frequencyPenalty = frequencyPenalty
        self.seed = seed
        self.stop = stop
    }
}

/// What a session does when its conversation has outgrown the model's context.
public enum ContextPolicy: UInt32, Sendable {
    /// The oldest turns are left out; ``Usage/droppedMessages`` says how many messages.
    case dropOldest = 0
    /// ``KnapsackError/promptTooLong(tokens:context:)``.
    case fail = 1
}

/// Why an answer ended.
public enum FinishReason: UInt32, Sendable {
    /// The model stopped.
    case stop = 0
    /// `maxTokens`, or the end of the context.
    case length = 1
    /// The session was closed.
    case cancelled = 2
    /// The app went to the background.
    case backgrounded = 3
}

/// What an answer took.
public struct Usage: Sendable, Equatable {
    public let promptTokens: Int
    /// Those of them that were in the cache already.
    public let reusedTokens: Int
    public let generatedTokens: Int
    /// Messages that were left out because the conversation has outgrown the context.
    public let droppedMessages: Int
    /// Seconds until the first token.
    public let prefillTime: TimeInterval
    /// Seconds from there on.
    public let decodeTime: TimeInterval
}

/// A whole answer.
public struct Answer: Sendable, Equatable {
    public let text: String
    public let finishReason: FinishReason
    public let usage: Usage
}

/// What a stream of an answer gives: pieces of text, and at the end, once, the answer.
public enum Event: Sendable, Equatable {
    case text(String)
    case finished(Answer)
}
