import Foundation

/// A JSON Schema: the form of an answer, or of the arguments of a tool.
///
/// ```swift
/// let book: Schema = .object(["title": .string(maxLength: 80), "pages": .integer(in: 1...5000), "kind": .oneOf(["novel", "poems"])])
/// ```
///
/// The model fills an object in the order of its properties. What a schema asks for and no token mask can ensure is refused before
/// anything is generated: ``KnapsackError/invalidOption(_:)`` names it.
public struct Schema: Sendable, Equatable {
    let json: JSON

    private init(_ json: JSON) { self.json = json }

    /// A schema as its JSON text (draft 2020-12).
    public init(json text: String) { self.init(.written(text)) }

    /// Text. `pattern` is a regular expression, `format` one of JSON Schema's, such as `date`.
    public static func string(minLength: Int? = nil, maxLength: Int? = nil, pattern: String? = nil, format: String? = nil) -> Schema {
        Schema(
            .object([
                "type": .text("string"), "minLength": minLength.map { .integer(Int64($0)) },
                "maxLength": maxLength.map { .integer(Int64($0)) }, "pattern": pattern.map(JSON.text), "format": format.map(JSON.text),
            ]))
    }

    /// A whole number.
    public static func integer(in range: ClosedRange<Int>? = nil) -> Schema {
        Schema(
            .object([
                "type": .text("integer"), "minimum": range.map { .integer(Int64($0.lowerBound)) },
                "maximum": range.map { .integer(Int64($0.upperBound)) },
            ]))
    }

    /// A number. The bounds are finite.
    public static func number(in range: ClosedRange<Double>? = nil) -> Schema {
        Schema(
            .object([
                "type": .text("number"), "minimum": range.map { .number($0.lowerBound) },
                "maximum": range.map { .number($0.upperBound) },
            ]))
    }

    public static let boolean = Schema(.object(["type": .text("boolean")]))

    /// One of these texts.
    public static func oneOf(_ values: [String]) -> Schema { Schema(.object(["enum": .array(values.map(JSON.text))])) }

    /// The raw values of an enumeration.
    public static func oneOf<T: CaseIterable & RawRepresentable>(_ type: T.Type) -> Schema where T.RawValue == String {
        oneOf(T.allCases.map(\.rawValue))
    }

    /// A list.
    public static func array(of item: Schema, count: ClosedRange<Int>? = nil) -> Schema {
        Schema(
            .object([
                "type": .text("array"), "items": item.json, "minItems": count.map { .integer(Int64($0.lowerBound)) },
                "maxItems": count.map { .integer(Int64($0.upperBound)) },
            ]))
    }

    /// An object with these properties and no others; those that are `optional` may be left out.
    public static func object(_ properties: KeyValuePairs<String, Schema>, optional: Set<String> = []) -> Schema {
        let required = properties.map(\.key).filter { !optional.contains($0) }
        return Schema(
            .object([
                "type": .text("object"), "properties": .pairs(properties.map { JSON.Pair(key: $0.key, value: $0.value.json) }),
                "required": .array(required.map(JSON.text)), "additionalProperties": .bool(false),
            ]))
    }

    /// One of several.
    public static func any(of schemas: [Schema]) -> Schema { Schema(.object(["anyOf": .array(schemas.map(\.json))])) }

    /// The same, or null.
    public var orNull: Schema { .any(of: [self, Schema(.object(["type": .text("null")]))]) }
}

/// A type that an answer can have.
///
/// ```swift
/// struct Book: Structured {
///     let title: String
///     let pages: Int
///     static let schema: Schema = .object(["title": .string(maxLength: 80), "pages": .integer(in: 1...5000)])
/// }
/// let book = try await chat.respond(to: "Invent a book.", as: Book.self)
/// ```
///
/// The schema is written by hand: whatever it allows must decode.
public protocol Structured: Decodable, Sendable {
    static var schema: Schema { get }
}

/// The form of an answer.
public enum AnswerForm: Sendable, Equatable {
    /// Any JSON object.
    case json
    case schema(Schema)
    /// Text that a regular expression matches as a whole.
    case regex(String)
    /// A grammar: Lark as llguidance reads it, or llama.cpp's GBNF.
    case grammar(String)

    /// The field of a request that asks for it.
    var field: JSON.Pair {
        switch self {
        case .json: JSON.Pair(key: "response_format", value: .object(["type": .text("json_object")]))
        case .schema(let schema): JSON.Pair(key: "json_schema", value: schema.json)
        case .regex(let pattern): JSON.Pair(key: "regex", value: .text(pattern))
        case .grammar(let grammar): JSON.Pair(key: "grammar", value: .text(grammar))
        }
    }
}
