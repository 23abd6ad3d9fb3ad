import Foundation

/// A JSON value as it is written: keys keep their order, which is the order in which a model fills a schema.
indirect enum JSON: Sendable, Equatable {
    case null
    case bool(Bool)
    case integer(Int64)
    case number(Double)
    case text(String)
    case array([JSON])
    case pairs([Pair])
    /// Is JSON already.
    case written(String)

    struct Pair: Sendable, Equatable {
        let key: String
        let value: JSON
    }

    /// An object of the keys that have a value.
    static func object(_ entries: KeyValuePairs<String, JSON?>) -> JSON {
        .pairs(entries.compactMap { key, value in value.map { Pair(key: key, value: $0) } })
    }

    /// As text; numbers are finite.
    var serialized: String {
        switch self {
        case .null: "null"
        case .bool(let value): value ? "true" : "false"
        case .integer(let value): String(value)
        case .number(let value): "\(value)"
        case .text(let value): Self.quoted(value)
        case .array(let items): "[" + items.map(\.serialized).joined(separator: ",") + "]"
        case .pairs(let pairs): "{" + pairs.map { Self.quoted($0.key) + ":" + $0.value.serialized }.joined(separator: ",") + "}"
        case .written(let text): text
        }
    }

    private static func quoted(_ value: String) -> String {
        var text = "\""
        for scalar in value.unicodeScalars {
            switch scalar {
            case "\"": text += "\\\""
            case "\\": text += "\\\\"
            case "\n": text += "\\n"
            case _ where scalar.value < 0x20: text += String(format: "\\u%04x", scalar.value)
            default: text.unicodeScalars.append(scalar)
            }
        }
        return text + "\""
    }
}
