import Foundation

/// Something that a model may call while it answers: a closure of the app's.
///
/// ```swift
/// struct Place: Structured {
///     let city: String
///     static let schema: Schema = .object(["city": .string()])
/// }
/// let weather = Tool("get_weather", "The weather in a city.") { (place: Place) in await forecast(place.city) }
/// let chat = try await models.session("llama", tools: [weather])
/// ```
public struct Tool: Sendable {
    /// 1 to 64 letters, digits, `_`, `-` or `.`.
    public let name: String
    public let description: String
    /// The arguments; the model cannot write others.
    public let parameters: Schema
    let call: @Sendable (String) async throws -> String

    /// A tool that gets its arguments as JSON text. What it returns is told to the model; what it throws ends the answer.
    public init(
        _ name: String, _ description: String, parameters: Schema, call: @escaping @Sendable (_ arguments: String) async throws -> String
    ) {
        (self.name, self.description, self.parameters, self.call) = (name, description, parameters, call)
    }

    /// A tool that gets its arguments as a value.
    public init<Arguments: Structured>(
        _ name: String, _ description: String, call: @escaping @Sendable (Arguments) async throws -> String
    ) {
        self.init(name, description, parameters: Arguments.schema) { arguments in
            try await call(JSONDecoder().decode(Arguments.self, from: Data(arguments.utf8)))
        }
    }

    var json: JSON {
        .object([
            "type": .text("function"),
            "function": .object(["name": .text(name), "description": .text(description), "parameters": parameters.json]),
        ])
    }
}

/// A call of a tool that the model asks for.
public struct ToolCall: Sendable, Equatable, Codable, Identifiable {
    public let id: String
    /// The tool's name.
    public let name: String
    /// JSON text.
    public let arguments: String

    public init(id: String, name: String, arguments: String) { (self.id, self.name, self.arguments) = (id, name, arguments) }

    var json: JSON {
        .object([
            "id": .text(id), "type": .text("function"),
            "function": .object(["name": .text(name), "arguments": .text(arguments)]),
        ])
    }
}

/// Which tools the model may or must call, in its first step; later ones are its own choice.
public enum ToolChoice: Sendable, Equatable {
    /// The model chooses between text and calls.
    case auto
    case none
    /// One or more tools are called.
    case required
    /// This tool is called.
    case tool(String)

    var json: JSON {
        switch self {
        case .auto: .text("auto")
        case .none: .text("none")
        case .required: .text("required")
        case .tool(let name): .object(["type": .text("function"), "function": .object(["name": .text(name)])])
        }
    }
}

/// Runs a closure of the app's from a thread that may block, until the flag is raised.
func waiting<T: Sendable>(_ cancel: Cancel, for body: @escaping @Sendable () async throws -> T) throws -> T {
    let (done, outcome) = (DispatchSemaphore(value: 0), Guarded<Result<T, any Error>?>(nil))
    let task = Task {
        let result: Result<T, any Error>
        do { result = .success(try await body()) } catch { result = .failure(error) }
        outcome.with { $0 = result }
        done.signal()
    }
    cancel.onRaise { task.cancel() }
    done.wait()
    cancel.onRaise(nil)
    guard let result = outcome.with({ $0 }) else { throw CancellationError() }
    return try result.get()
}
