import Foundation
import XCTest

@testable import Knapsack

/// Values, tools, thoughts and sampling: what a session gives besides text.
final class AnswerTests: XCTestCase {
    enum Mood: String, CaseIterable, Decodable, Sendable { case glad, sad }
    struct Sum: Structured, Equatable {
        let left, right: Int
        let note: String?
        let mood: Mood
        static let schema: Schema = .object(
            [
                "left": .integer(in: 30...50), "right": .integer(in: 30...50), "note": .string(maxLength: 5).orNull,
                "mood": .oneOf(Mood.self),
            ], optional: ["note"])
    }
    struct Terms: Structured, Equatable {
        let a, b: Int
        static let schema: Schema = .object(["a": .integer(in: 0...99), "b": .integer(in: 0...99)])
    }

    func testAnAnswerIsAValue() async throws {
        let chat = try await World().toolModels().session(World().tools)
        for seed in 0..<UInt64(rounds) {
            chat.reset()
            let options = GenerationOptions(maxTokens: 120, temperature: seed == 0 ? 0 : 1.5, seed: seed)
            let value = try await chat.respond(to: sum, as: Sum.self, options: options)
            XCTAssertTrue((30...50).contains(value.left) && (30...50).contains(value.right), "\(value)")
        }
        let list: Schema = .array(of: .any(of: [.boolean, .number(in: 0...1)]), count: 2...3)
        let answer = try await chat.respond(to: sum, options: GenerationOptions(temperature: 0, form: .schema(list)))
        let items = try XCTUnwrap(JSONSerialization.jsonObject(with: Data(answer.text.utf8)) as? [Any])
        XCTAssertTrue((2...3).contains(items.count), answer.text)
        let year = try await chat.respond(to: sum, options: GenerationOptions(temperature: 0, form: .regex("[0-9]{4}")))
        XCTAssertEqual(Int(year.text).map { (0...9999).contains($0) }, true, year.text)
        let choice = try await chat.respond(to: sum, options: GenerationOptions(form: .grammar("start: \"yes\" | \"no\"")))
        XCTAssertTrue(["yes", "no"].contains(choice.text), choice.text)

        // Cut off, it is no value; and what cannot be ensured is refused.
        let short = await failure { _ = try await chat.respond(to: sum, as: Sum.self, options: GenerationOptions(maxTokens: 2)) }
        guard case .incompleteAnswer? = short as? KnapsackError else { return XCTFail("\(String(describing: short))") }
        let hard = GenerationOptions(form: .schema(Schema(json: #"{"not": {}}"#)))
        let refused = await failure { _ = try await chat.respond(to: sum, options: hard) }
        guard case .invalidOption(let why)? = refused as? KnapsackError, why.contains("not") else {
            return XCTFail("\(String(describing: refused))")
        }
    }

    func testToolsAreCalledAndTheAnswerGoesOn() async throws {
        let seen = Guarded<[Terms]>([])
        let add = Tool("add", "Adds two numbers.") { (terms: Terms) in
            seen.with { $0.append(terms) }
            try await Task.sleep(nanoseconds: 1_000_000)
            return "It is \"\(terms.a + terms.b)\"\n."
        }
        let world = try World()
        let models = try world.toolModels()
        let chat = try await models.session(world.tools, tools: [add])
        let options = GenerationOptions(maxTokens: 200, temperature: 0, toolChoice: .required, parallelToolCalls: false)
        var (calls, results, answer) = ([ToolCall](), [String](), Answer?.none)
        for try await event in chat.stream(sum, options: options) {
            switch event {
            case .toolCall(let call): calls.append(call)
            case .toolResult(let call, let result):
                XCTAssertEqual(call, calls.last)
                results.append(result)
            case .finished(let finished): answer = finished
            default: break
            }
        }
        let terms = try XCTUnwrap(seen.with { $0.first })
        let whole = try XCTUnwrap(answer)
        XCTAssertEqual(calls[0].name, "add")
        XCTAssertEqual(try JSONDecoder().decode(Terms.self, from: Data(calls[0].arguments.utf8)), terms)
        XCTAssertEqual(results[0], "It is \"\(terms.a + terms.b)\"\n.")
        XCTAssertEqual(whole.toolCalls, calls)
        // The question, the call, its result, and what the model made of it.
        let said = chat.transcript
        XCTAssertEqual(said.count, 2 * calls.count + 2)
        XCTAssertEqual(Array(said[0...2]), [
            Message(.user, sum), Message(.assistant, "", toolCalls: [calls[0]]), Message(result: results[0], of: calls[0]),
        ])
        XCTAssertEqual(said.last, Message(.assistant, whole.text))
        XCTAssertEqual(try JSONDecoder().decode([Message].self, from: JSONEncoder().encode(said)), said)
        let saved = Data(#"[{"role":"user","content":"x"}]"#.utf8)
        XCTAssertEqual(try JSONDecoder().decode([Message].self, from: saved), [Message(.user, "x")])

        // Told of no tools, it calls none.
        let plain = try await chat.respond(to: sum, options: GenerationOptions(maxTokens: 20, temperature: 0, toolChoice: ToolChoice.none))
        XCTAssertEqual(plain.toolCalls, [])
        // A model whose template takes none says so.
        let deaf = try await world.models().session(world.model, tools: [add])
        let refused = await failure { _ = try await deaf.respond(to: sum) }
        guard case .invalidOption(let why)? = refused as? KnapsackError, why.contains("tools") else {
            return XCTFail("\(String(describing: refused))")
        }
    }

    func testAToolThatFailsOrIsCancelledEndsTheAnswer() async throws {
        struct Broken: Error {}
        let world = try World()
        let models = try world.toolModels()
        let options = GenerationOptions(maxTokens: 200, temperature: 0, toolChoice: .required)
        let broken = Tool("add", "Adds.", parameters: Terms.schema) { _ in throw Broken() }
        let failing = try await models.session(world.tools, tools: [broken])
        let error = await failure { _ = try await failing.respond(to: sum, options: options) }
        XCTAssertTrue(error is Broken, "\(String(describing: error))")
        XCTAssertEqual(failing.transcript, [])
        // One that would never return, but for the cancellation of whoever waits.
        let endless = Tool("add", "Adds.", parameters: Terms.schema) { _ in
            try await Task.sleep(nanoseconds: 600_000_000_000)
            return ""
        }
        let waiting = try await models.session(world.tools, tools: [endless])
        let task = Task {
            for try await event in waiting.stream(sum, options: options) { if case .toolCall = event { return } }
        }
        try await task.value
        let again = try await models.session(world.tools).respond(to: sum, options: greedy)
        XCTAssertTrue(again.text.contains("85"), again.text)
        // The session's next answer waits for its last one, which has ended.
        let next = try await waiting.respond(
            to: sum, options: GenerationOptions(maxTokens: 20, temperature: 0, toolChoice: ToolChoice.none))
        XCTAssertEqual(next.toolCalls, [])
        XCTAssertEqual(waiting.transcript.count, 2)
    }

    func testThoughtsAreApartAndHaveABudget() async throws {
        let world = try World()
        let chat = try await world.toolModels().session(world.tools)
        var (thoughts, text, answer) = ("", "", Answer?.none)
        let options = GenerationOptions(maxTokens: 60, temperature: 0, thinking: true, maxThinkingTokens: 5)
        for try await event in chat.stream(sum, options: options) {
            switch event {
            case .thinking(let piece): thoughts += piece
            case .text(let piece): text += piece
            case .finished(let finished): answer = finished
            default: break
            }
        }
        XCTAssertEqual(answer?.reasoning, thoughts)
        XCTAssertEqual(answer?.text, text)
        XCTAssertFalse(thoughts.isEmpty || text.isEmpty)
        XCTAssertGreaterThanOrEqual(answer?.usage.thinkingTokens ?? 0, 5)
        XCTAssertEqual(chat.transcript.last, Message(.assistant, text, reasoning: thoughts))
        chat.reset()
        let off = try await chat.respond(to: sum, options: GenerationOptions(temperature: 0, thinking: false))
        XCTAssertTrue(off.text.contains("85") && off.reasoning.isEmpty, "\(off)")
        let never = try await world.models().session(world.model)
        let refused = await failure { _ = try await never.respond(to: sum, options: GenerationOptions(thinking: true)) }
        guard case .invalidOption? = refused as? KnapsackError else { return XCTFail("\(String(describing: refused))") }
    }

    func testSamplingOptionsReachTheModel() async throws {
        let world = try World()
        let chat = try await world.models().session(world.model)
        let likely = try await chat.respond(to: sum, options: greedy)
        func ask(_ options: GenerationOptions) async throws -> Answer {
            chat.reset()
            return try await chat.respond(to: sum, options: options)
        }
        // Each of these leaves only the likeliest token.
        for options in [
            GenerationOptions(temperature: 1.5, topK: 1), GenerationOptions(temperature: 1.5, topP: 0),
            GenerationOptions(temperature: 1.5, minP: 1),
        ] {
            let answer = try await ask(options)
            XCTAssertEqual(answer.text, likely.text)
        }
        let probable = try await ask(GenerationOptions(temperature: 0, logProbs: 2))
        XCTAssertEqual(probable.tokens.count, probable.usage.generatedTokens)
        XCTAssertEqual(probable.tokens.map(\.chosen.text).joined(), likely.text)
        XCTAssertTrue(probable.tokens.allSatisfy { $0.top.count == 2 && $0.chosen.logProb <= 0 && $0.top[0] == $0.chosen })
        let banned = try await ask(GenerationOptions(maxTokens: 1, temperature: 0, logitBias: [1023: 100]))
        XCTAssertEqual(banned.text, "")
        let ended = try await ask(GenerationOptions(temperature: 0, logitBias: [5: 100], stopTokens: [5]))
        XCTAssertEqual(ended.usage.generatedTokens, 0)
        for options in [GenerationOptions(minP: 2), GenerationOptions(logitBias: [1: .nan]), GenerationOptions(maxThinkingTokens: -1)] {
            let error = await failure { _ = try await chat.respond(to: sum, options: options) }
            guard case .invalidOption? = error as? KnapsackError else { return XCTFail("\(String(describing: error))") }
        }
    }

    /// What goes to the model is JSON whatever an app puts into it.
    func testRequestsAreJSON() throws {
        let text = "\"\\ \n\r\t\u{0}\u{1f} é 🦀 </script>"
        let messages = [Message(.user, text), Message(.assistant, text, reasoning: text, toolCalls: [ToolCall(id: "1", name: "f", arguments: text)])]
        let options = GenerationOptions(
            maxTokens: 3, temperature: 0.7, topP: 1e-5, logitBias: [7: -1.5], seed: .max, stop: [text], form: .regex(text))
        let request = try options.request(messages, [], first: true)
        let read = try XCTUnwrap(JSONSerialization.jsonObject(with: Data(request.utf8)) as? [String: Any])
        let first = try XCTUnwrap((read["messages"] as? [[String: Any]])?.first)
        XCTAssertEqual(first["content"] as? String, text)
        XCTAssertEqual(read["seed"] as? Int, -1)
        XCTAssertEqual(read["regex"] as? String, text)
        XCTAssertEqual((read["logit_bias"] as? [String: Double])?["7"], -1.5)
    }

    private let rounds = 6
}
