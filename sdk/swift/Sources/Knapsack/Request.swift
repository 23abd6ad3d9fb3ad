import Foundation

extension GenerationOptions {
    /// The request for the next step of an answer. `first`: no tool was called in it yet.
    func request(_ messages: [Message], _ tools: [Tool], first: Bool) throws -> String {
        let choice = first ? toolChoice : .auto
        let given = tools.isEmpty || choice == .none ? nil : tools
        let fields = JSON.object([
            "messages": .array(messages.map(\.json)),
            "max_tokens": try count(maxTokens, "maxTokens", from: 1),
            "max_thinking_tokens": try count(maxThinkingTokens, "maxThinkingTokens"),
            "temperature": try number(temperature, "temperature"),
            "top_k": try count(topK, "topK"),
            "top_p": try number(topP, "topP"),
            "min_p": try number(minP, "minP"),
            "repetition_penalty": try number(repetitionPenalty, "repetitionPenalty"),
            "presence_penalty": try number(presencePenalty, "presencePenalty"),
            "frequency_penalty": try number(frequencyPenalty, "frequencyPenalty"),
            "logit_bias": logitBias.isEmpty ? nil : .pairs(try logitBias.sorted { $0.key < $1.key }.map(bias)),
            "seed": seed.map { .integer(Int64(bitPattern: $0)) },
            "stop": stop.isEmpty ? nil : .array(stop.map(JSON.text)),
            "stop_token_ids": stopTokens.isEmpty ? nil : .array(stopTokens.map { .integer(Int64($0)) }),
            "logprobs": logProbs.map { _ in .bool(true) },
            "top_logprobs": try count(logProbs, "logProbs"),
            "chat_template_kwargs": thinking.map { .object(["enable_thinking": .bool($0)]) },
            "tools": given.map { .array($0.map(\.json)) },
            "tool_choice": given.map { _ in choice.json },
            "parallel_tool_calls": given.map { _ in .bool(parallelToolCalls) },
        ])
        guard let form, case .pairs(let pairs) = fields else { return fields.serialized }
        return JSON.pairs(pairs + [form.field]).serialized
    }

    private func count(_ value: Int?, _ name: String, from least: Int = 0) throws -> JSON? {
        guard let value else { return nil }
        guard value >= least, UInt32(exactly: value) != nil else { throw KnapsackError.invalidOption("\(name) is \(value)") }
        return .integer(Int64(value))
    }

    private func number(_ value: Float?, _ name: String) throws -> JSON? {
        guard let value else { return nil }
        guard value.isFinite else { throw KnapsackError.invalidOption("\(name) is \(value)") }
        return .written("\(value)")
    }

    private func bias(_ entry: (key: UInt32, value: Float)) throws -> JSON.Pair {
        JSON.Pair(key: String(entry.key), value: try number(entry.value, "logitBias") ?? .null)
    }
}

/// A call as the runtime writes it.
struct WrittenCall: Decodable {
    struct Function: Decodable { let name, arguments: String }
    let id: String
    let function: Function
    var call: ToolCall { ToolCall(id: id, name: function.name, arguments: function.arguments) }
}

/// A token as the runtime writes it.
struct WrittenToken: Decodable {
    struct Candidate: Decodable {
        let token: String
        let logprob: Double
        var candidate: TokenLogProb.Candidate { .init(text: token, logProb: logprob) }
    }
    let token: String
    let logprob: Double
    let top_logprobs: [Candidate]
    var logProb: TokenLogProb {
        TokenLogProb(chosen: .init(text: token, logProb: logprob), top: top_logprobs.map(\.candidate))
    }
}
