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
    public enum Role: String, Sendable, Codable { case system, user, assistant, tool }
    public var role: Role
    public var content: String
    /// What the model thought before it said this. Templates leave it out of the conversation as their model wants it.
    public var reasoning: String?
    /// The tools that the model called.
    public var toolCalls: [ToolCall]
    /// Of a tool's result: the call that it answers.
    public var toolCallID: String?
    /// Of a tool's result: the tool's name.
    public var name: String?

    public init(_ role: Role, _ content: String, reasoning: String? = nil, toolCalls: [ToolCall] = []) {
        (self.role, self.content, self.reasoning, self.toolCalls) = (role, content, reasoning, toolCalls)
    }

    /// What a tool gave.
    public init(result: String, of call: ToolCall) {
        self.init(.tool, result)
        (toolCallID, name) = (call.id, call.name)
    }

    public init(from decoder: any Decoder) throws {
        let values = try decoder.container(keyedBy: CodingKeys.self)
        role = try values.decode(Role.self, forKey: .role)
        content = try values.decode(String.self, forKey: .content)
        reasoning = try values.decodeIfPresent(String.self, forKey: .reasoning)
        toolCalls = try values.decodeIfPresent([ToolCall].self, forKey: .toolCalls) ?? []
        toolCallID = try values.decodeIfPresent(String.self, forKey: .toolCallID)
        name = try values.decodeIfPresent(String.self, forKey: .name)
    }

    var json: JSON {
        .object([
            "role": .text(role.rawValue), "content": .text(content), "reasoning_content": reasoning.map(JSON.text),
            "tool_calls": toolCalls.isEmpty ? nil : .array(toolCalls.map(\.json)), "tool_call_id": toolCallID.map(JSON.text),
            "name": name.map(JSON.text),
        ])
    }
}

/// How one answer is generated; what is nil is the model's own. In which order the numbers work is told in `docs/serving.md`.
public struct GenerationOptions: Sendable, Equatable {
    /// Most tokens.
    public var maxTokens: Int?
    /// 0 takes the most likely token always.
    public var temperature: Float?
    /// Draws from this many of the most likely tokens; 0: from all.
    public var topK: Int?
    public var topP: Float?
    /// Leaves out tokens that are less likely than this share of the most likely one.
    public var minP: Float?
    public var repetitionPenalty: Float?
    public var presencePenalty: Float?
    public var frequencyPenalty: Float?
    /// Added to the logits of tokens.
    public var logitBias: [UInt32: Float]
    /// The same seed gives the same answer.
    public var seed: UInt64?
    /// Strings that end the answer, besides the model's own; at most four.
    public var stop: [String]
    /// Tokens that end the answer, besides the model's own.
    public var stopTokens: [UInt32]
    /// The form of the answer.
    public var form: AnswerForm?
    /// Whether the model thinks before it answers, where it can; nil: as its template has it.
    public var thinking: Bool?
    /// Tokens after which a model that thinks has to answer.
    public var maxThinkingTokens: Int?
    /// Log probabilities of each token and of so many of its most likely rivals, 0 to 20: ``Answer/tokens``.
    public var logProbs: Int?
    /// Which of the session's tools the model may or must call.
    public var toolChoice: ToolChoice
    /// Whether it may call several at once.
    public var parallelToolCalls: Bool

    public init(
        maxTokens: Int? = nil, temperature: Float? = nil, topK: Int? = nil, topP: Float? = nil, minP: Float? = nil,
        repetitionPenalty: Float? = nil, presencePenalty: Float? = nil, frequencyPenalty: Float? = nil,
        logitBias: [UInt32: Float] = [:], seed: UInt64? = nil, stop: [String] = [], stopTokens: [UInt32] = [],
        form: AnswerForm? = nil, thinking: Bool? = nil, maxThinkingTokens: Int? = nil, logProbs: Int? = nil,
        toolChoice: ToolChoice = .auto, parallelToolCalls: Bool = true
    ) {
        self.maxTokens = maxTokens
        self.temperature = temperature
        self.topK = topK
        self.topP = topP
        self.minP = minP
        self.repetitionPenalty = repetitionPenalty
        self.presencePenalty = presencePenalty
        self.frequencyPenalty = frequencyPenalty
        self.logitBias = logitBias
        self.seed = seed
        self.stop = stop
        self.stopTokens = stopTokens
        self.form = form
        self.thinking = thinking
        self.maxThinkingTokens = maxThinkingTokens
        self.logProbs = logProbs
        self.toolChoice = toolChoice
        self.parallelToolCalls = parallelToolCalls
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

/// What an answer took, all its steps together where tools were called.
public struct Usage: Sendable, Equatable {
    public internal(set) var promptTokens = 0
    /// Those of them that were in the cache already.
    public internal(set) var reusedTokens = 0
    public internal(set) var generatedTokens = 0
    /// Those of them that the model thought with.
    public internal(set) var thinkingTokens = 0
    /// Messages that were left out because the conversation has outgrown the context.
    public internal(set) var droppedMessages = 0
    /// Seconds until the first token.
    public internal(set) var prefillTime: TimeInterval = 0
    /// Seconds from there on.
    public internal(set) var decodeTime: TimeInterval = 0

    mutating func add(_ other: Usage) {
        promptTokens += other.promptTokens
        reusedTokens += other.reusedTokens
        generatedTokens += other.generatedTokens
        thinkingTokens += other.thinkingTokens
        droppedMessages = max(droppedMessages, other.droppedMessages)
        prefillTime += other.prefillTime
        decodeTime += other.decodeTime
    }
}

/// A token of an answer, and what the model thought of it.
public struct TokenLogProb: Sendable, Equatable {
    /// A token and the natural logarithm of its probability.
    public struct Candidate: Sendable, Equatable {
        /// Its bytes as text; a token may be a part of a character.
        public let text: String
        public let logProb: Double
    }
    public let chosen: Candidate
    /// The most likely tokens.
    public let top: [Candidate]
}

/// A whole answer.
public struct Answer: Sendable, Equatable {
    public internal(set) var text = ""
    /// What the model thought before.
    public internal(set) var reasoning = ""
    /// The tools that it called on the way.
    public internal(set) var toolCalls: [ToolCall] = []
    /// Its tokens, where ``GenerationOptions/logProbs`` asked for them.
    public internal(set) var tokens: [TokenLogProb] = []
    public internal(set) var finishReason = FinishReason.stop
    public internal(set) var usage = Usage()
}

/// What a stream of an answer gives: pieces, and at the end, once, the answer.
public enum Event: Sendable, Equatable {
    case text(String)
    /// More of what the model thinks before it answers.
    case thinking(String)
    /// A token was chosen; only where log probabilities were asked for.
    case token(TokenLogProb)
    /// The model calls a tool of the session's, which runs now.
    case toolCall(ToolCall)
    /// What the tool gave.
    case toolResult(ToolCall, String)
    case finished(Answer)
}
