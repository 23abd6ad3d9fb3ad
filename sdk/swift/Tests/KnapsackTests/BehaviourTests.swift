import Foundation
import XCTest

@testable import Knapsack

final class BehaviourTests: XCTestCase {
    /// How often a race is run.
    private let rounds = Int(ProcessInfo.processInfo.environment["KNAPSACK_ROUNDS"] ?? "") ?? 20

    func testTheTinyAssistantAnswers() async throws {
        let world = try World()
        let models = try world.models()
        XCTAssertEqual(models.models.map(\.id), [world.model])
        XCTAssertEqual(models.models[0].context, 256)
        XCTAssertEqual(try models.state(of: world.model), .bundled)
        try models.fits(world.model)
        for try await _ in models.prepare(world.model) { XCTFail("nothing is to be downloaded") }

        let chat = try await models.session(world.model)
        var (text, ends) = ("", 0)
        for try await event in chat.stream(sum, options: greedy) {
            switch event {
            case .text(let piece):
                XCTAssertEqual(ends, 0, "text after the end")
                text += piece
            case .finished(let answer):
                ends += 1
                XCTAssertEqual(answer.text, text)
                XCTAssertEqual(answer.finishReason, .stop)
                XCTAssertGreaterThan(answer.usage.promptTokens, 5)
            default: XCTFail("\(event)")
            }
        }
        XCTAssertEqual(ends, 1)
        XCTAssertTrue(text.contains("85"), text)
        XCTAssertEqual(chat.transcript, [Message(.user, sum), Message(.assistant, text)])
        // The next turn takes the first from the cache.
        let second = try await chat.respond(to: "What is 2 plus 2?", options: greedy)
        XCTAssertGreaterThan(second.usage.reusedTokens, 5)
        XCTAssertEqual(chat.transcript.count, 4)
        chat.reset()
        XCTAssertEqual(chat.transcript, [])
    }

    /// Instructions are computed once for every run of an app.
    func testTheStateOfASessionInAFile() async throws {
        let world = try World()
        let file = FileManager.default.temporaryDirectory.appendingPathComponent("\(UUID()) state.kv")
        defer { try? FileManager.default.removeItem(at: file) }
        let instructions = String(repeating: "Answer briefly. ", count: 6)
        let expected: String
        do {
            let chat = try await world.models().session(world.model, instructions: instructions)
            try await chat.saveState(to: file)
            expected = try await chat.respond(to: sum, options: greedy).text
        }
        let chat = try await world.models().session(world.model, instructions: instructions)
        try await chat.restoreState(from: file)
        let answer = try await chat.respond(to: sum, options: greedy)
        XCTAssertEqual(answer.text, expected)
        XCTAssertGreaterThan(answer.usage.reusedTokens, 20)
        // Damaged: an error, and the next answer is right.
        try Data("no state".utf8).write(to: file)
        let error = await failure { try await chat.restoreState(from: file) }
        guard case .savedStateUnusable? = error as? KnapsackError else { return XCTFail("\(String(describing: error))") }
        chat.reset()
        let again = try await chat.respond(to: sum, options: greedy)
        XCTAssertEqual(again.text, expected)
        XCTAssertEqual(again.usage.reusedTokens, 0)
        chat.close()
        let closed = await failure { try await chat.saveState(to: file) }
        guard case .invalidOption? = closed as? KnapsackError else { return XCTFail("\(String(describing: closed))") }
    }

    /// As an app has it: the table by the address of its symbol.
    func testTheTableByItsAddress() async throws {
        let world = try World()
        let library = try XCTUnwrap(dlopen(world.library, RTLD_NOW))
        let table = try XCTUnwrap(dlsym(library, "knapsack_model_table"))
        let models = try LocalModels(ModelPackage(bundle: world.bundle, table: table))
        let answer = try await models.session(world.model).respond(to: sum, options: greedy)
        XCTAssertTrue(answer.text.contains("85"), answer.text)
        let nothing = [UInt8](repeating: 0, count: 64)
        try nothing.withUnsafeBytes { bytes in
            XCTAssertThrowsError(try LocalModels(ModelPackage(bundle: world.bundle, table: bytes.baseAddress!))) {
                guard case .libraryUnusable? = $0 as? KnapsackError else { return XCTFail("\($0)") }
            }
        }
    }

    func testOptionsAndErrors() async throws {
        let world = try World()
        let models = try world.models()
        let chat = try await models.session(world.model, context: .fail)
        let one = try await chat.respond(to: sum, options: GenerationOptions(maxTokens: 1, temperature: 0))
        XCTAssertEqual(one.finishReason, .length)
        let stopped = try await chat.respond(to: sum, options: GenerationOptions(temperature: 0, stop: ["8"]))
        XCTAssertFalse(stopped.text.contains("8"))
        for options in [GenerationOptions(maxTokens: 0), GenerationOptions(temperature: -1), GenerationOptions(topP: .nan)] {
            let error = await failure { _ = try await chat.respond(to: sum, options: options) }
            guard case .invalidOption? = error as? KnapsackError else { return XCTFail("\(String(describing: error))") }
        }
        let long = await failure { _ = try await chat.respond(to: String(repeating: sum, count: 100)) }
        guard case .promptTooLong(let tokens, 256)? = long as? KnapsackError, tokens > 256 else {
            return XCTFail("\(String(describing: long))")
        }
        let unknown = await failure { _ = try await models.session("other") }
        guard case .noSuchModel? = unknown as? KnapsackError else { return XCTFail("\(String(describing: unknown))") }
        XCTAssertThrowsError(try LocalModels(ModelPackage(bundle: URL(fileURLWithPath: "/nowhere"), library: world.library))) {
            guard case .packageUnusable? = $0 as? KnapsackError else { return XCTFail("\($0)") }
        }
        XCTAssertThrowsError(try LocalModels(ModelPackage(bundle: world.bundle, library: "/nowhere.so"))) {
            guard case .libraryMissing? = $0 as? KnapsackError else { return XCTFail("\($0)") }
        }
    }

    func testOpenAIsRequests() async throws {
        let models = try World().models()
        func ask(_ body: String) async throws -> [String] {
            var events: [String] = []
            for try await event in models.complete(openAI: Data(body.utf8)) { events.append(String(decoding: event, as: UTF8.self)) }
            return events
        }
        let messages = #""messages":[{"role":"user","content":"\#(sum)"}],"temperature":0"#
        let whole = try await ask("{\(messages)}")
        XCTAssertEqual(whole.count, 1)
        XCTAssertTrue(whole[0].contains("85"), whole[0])
        let chunks = try await ask("{\(messages),\"stream\":true}")
        XCTAssertTrue(chunks.count > 2 && chunks.allSatisfy { $0.contains("chat.completion.chunk") })
        let error = await failure { _ = try await ask("{") }
        guard case .invalidOption(let text)? = error as? KnapsackError, text.contains("\"error\"") else {
            return XCTFail("\(String(describing: error))")
        }
    }

    func testAConversationLosesItsOldestTurns() async throws {
        let world = try World()
        let history = (0..<40).flatMap { _ in [Message(.user, sum), Message(.assistant, "85")] }
        let chat = try await world.models().session(world.model, instructions: "Be brief.", history: history)
        let answer = try await chat.respond(to: sum, options: GenerationOptions(maxTokens: 10, temperature: 0))
        XCTAssertGreaterThan(answer.usage.droppedMessages, 0)
        chat.reset()
        XCTAssertEqual(chat.transcript, [Message(.system, "Be brief.")])
    }

    func testABudgetThatIsTooSmallSaysSo() async throws {
        let world = try World()
        let models = try world.models(budget: 1000)
        for _ in 0..<2 {
            let error = await failure { try await models.load(world.model) }
            guard case .notEnoughMemory(let needed, 1000, let holders)? = error as? KnapsackError else {
                return XCTFail("\(String(describing: error))")
            }
            XCTAssertGreaterThan(needed, 1 << 20)
            XCTAssertEqual(holders, [])
        }
        XCTAssertThrowsError(try models.fits(world.model))
    }

    /// A consumer that goes away at any moment: nothing hangs, nothing stays in the transcript, the next answer is right.
    func testAConsumerMayGoAwayAtAnyMoment() async throws {
        let world = try World()
        let chat = try await world.models().session(world.model)
        let whole = try await chat.respond(to: sum, options: greedy).text
        for round in 0..<rounds {
            chat.reset()
            let task = Task {
                var pieces = 0
                for try await event in chat.stream(sum, options: greedy) {
                    if case .text = event { pieces += 1 }
                    if round % 2 == 0 && pieces == round % 5 { return }
                }
            }
            if round % 2 == 1 {
                try await Task.sleep(nanoseconds: UInt64(round) * 200_000)
                task.cancel()
            }
            _ = await task.result
            // A turn that was cut off is not there; one that had ended is there whole.
            let turns = chat.transcript
            XCTAssertTrue(turns.isEmpty || turns == [Message(.user, sum), Message(.assistant, whole)], "\(turns)")
        }
        // Forgotten while it is being said.
        chat.reset()
        var events = 0
        for try await _ in chat.stream(sum, options: greedy) {
            if events == 0 { chat.reset() }
            events += 1
        }
        XCTAssertEqual(chat.transcript, [])
        chat.reset()
        let answer = try await chat.respond(to: sum, options: greedy)
        XCTAssertTrue(answer.text.contains("85"), answer.text)
        let cancelled = Task { try await chat.respond(to: sum, options: greedy) }
        cancelled.cancel()
        do {
            _ = try await cancelled.value
        } catch {
            XCTAssertTrue(error is CancellationError, "\(error)")
        }
    }

    /// A consumer that reads nothing: the computation ends all the same, and others can go on.
    func testTheEngineNeverWaitsForTheConsumer() async throws {
        let world = try World()
        let models = try world.models()
        let slow = try await models.session(world.model).stream(sum, options: greedy)
        let answer = try await models.session(world.model).respond(to: sum, options: greedy)
        XCTAssertTrue(answer.text.contains("85"))
        var ends = 0
        for try await event in slow { if case .finished = event { ends += 1 } }
        XCTAssertEqual(ends, 1)
    }

    /// Calls block threads of the library's own: more of them than there are cores leave every task of the app running.
    func testCallsBlockThreadsOfTheLibrarysOwn() async throws {
        let world = try World()
        let models = try world.models()
        // Only compared.
        nonisolated(unsafe) let key = DispatchSpecificKey<Bool>()
        let (lines, foreign) = (Guarded(0), Guarded<[String]>([]))
        Workers.queue.setSpecific(key: key, value: true)
        KnapsackLog.listen(.info) { _, _, text in
            lines.with { $0 += 1 }
            if DispatchQueue.getSpecific(key: key) != true { foreign.with { $0.append(text) } }
        }
        models.pause()
        // Were the tasks' own threads blocked, nothing below would run before this.
        let late = Guarded(false)
        let watchdog = Thread {
            Thread.sleep(forTimeInterval: 90)
            late.with { $0 = true }
            models.resume()
        }
        watchdog.start()
        let done = Guarded(0)
        let waiting = (0...ProcessInfo.processInfo.activeProcessorCount).map { _ in
            Task {
                try await models.load(world.model)
                done.with { $0 += 1 }
            }
        }
        try await Task.sleep(nanoseconds: 50_000_000)
        await Task.detached {}.value
        XCTAssertEqual(done.with { $0 }, 0, "a load did not wait")
        XCTAssertFalse(late.with { $0 })
        models.resume()
        for task in waiting { try await task.value }
        KnapsackLog.stop()
        XCTAssertGreaterThan(lines.with { $0 }, 0)
        XCTAssertEqual(foreign.with { $0 }, [])
    }

    func testTwoSessionsOfOneModel() async throws {
        let world = try World()
        let models = try world.models()
        let expected = try await models.session(world.model).respond(to: sum, options: greedy).text
        try await withThrowingTaskGroup(of: String.self) { group in
            for _ in 0..<8 {
                group.addTask { try await models.session(world.model).respond(to: sum, options: greedy).text }
            }
            for try await text in group { XCTAssertEqual(text, expected) }
        }
    }

    func testCloseWhileBusy() async throws {
        let world = try World()
        for _ in 0..<rounds {
            let chat = try await world.models().session(world.model)
            var iterator = chat.stream(sum, options: greedy).makeAsyncIterator()
            var last = try await iterator.next()
            // Neither the session nor its models are held by anybody else now.
            chat.close()
            while let event = try await iterator.next() { last = event }
            guard case .finished(let answer)? = last else { return XCTFail("no end") }
            XCTAssertTrue(answer.finishReason == .cancelled || answer.finishReason == .stop)
            let error = await failure { _ = try await chat.respond(to: sum) }
            guard case .invalidOption? = error as? KnapsackError else { return XCTFail("\(String(describing: error))") }
        }
    }

    func testTheBackgroundEndsAnswersAndLoadsWait() async throws {
        let world = try World()
        let models = try world.models()
        let chat = try await models.session(world.model)
        var iterator = chat.stream(sum, options: GenerationOptions(maxTokens: 200, temperature: 1.5, seed: 1)).makeAsyncIterator()
        var last = try await iterator.next()
        models.pause()
        while let event = try await iterator.next() { last = event }
        guard case .finished(let answer)? = last else { return XCTFail("no end") }
        XCTAssertTrue(answer.finishReason == .backgrounded || answer.finishReason == .stop, "\(answer)")
        let refused = await failure { _ = try await chat.respond(to: sum) }
        XCTAssertEqual(refused as? KnapsackError, .backgrounded)
        let load = Task { try await models.load(world.model) }
        try await Task.sleep(nanoseconds: 50_000_000)
        models.resume()
        try await load.value
        let again = try await chat.respond(to: sum, options: greedy)
        XCTAssertTrue(again.text.contains("85"))
        // Cancelled while it waits.
        models.pause()
        let waiting = Task { try await models.load(world.model) }
        try await Task.sleep(nanoseconds: 20_000_000)
        waiting.cancel()
        let error = await failure { try await waiting.value }
        XCTAssertTrue(error is CancellationError)
        models.resume()
    }

    func testMemoryIsGivenBackAndTheModelComesBack() async throws {
        let world = try World()
        let models = try world.models()
        let events = models.events
        let chat = try await models.session(world.model)
        XCTAssertGreaterThan(models.releaseMemory(critical: true), 1 << 20)
        XCTAssertEqual(models.releaseMemory(critical: true), 0)
        let answer = try await chat.respond(to: sum, options: greedy)
        XCTAssertTrue(answer.text.contains("85"))
        models.pin(world.model)
        XCTAssertEqual(models.releaseMemory(critical: false), 0)
        let unloaded = try await models.unload(world.model)
        XCTAssertTrue(unloaded)
        var seen: [ModelEvent] = []
        for await event in events {
            if case .loading = event { continue }
            seen.append(event)
            if case .evicted(_, _, .unloaded) = event { break }
        }
        guard seen.count == 4, case .loaded = seen[0], case .evicted(_, _, .pressure) = seen[1], case .loaded = seen[2] else {
            return XCTFail("\(seen)")
        }
    }

    func testAFailedLoadIsAnErrorAndTheNextOneWorks() async throws {
        let world = try World()
        let copy = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString)
        defer { try? FileManager.default.removeItem(at: copy) }
        try FileManager.default.copyItem(at: world.bundle, to: copy)
        let shard = copy.appendingPathComponent("\(world.model)/params_shard_0.bin")
        try FileManager.default.moveItem(at: shard, to: copy.appendingPathComponent("aside"))
        let models = try LocalModels(ModelPackage(bundle: copy, library: world.library))
        let error = await failure { try await models.load(world.model) }
        guard case .deviceFailed(let why)? = error as? KnapsackError, why.contains("params_shard_0.bin") else {
            return XCTFail("\(String(describing: error))")
        }
        try FileManager.default.moveItem(at: copy.appendingPathComponent("aside"), to: shard)
        let answer = try await models.session(world.model).respond(to: sum, options: greedy)
        XCTAssertTrue(answer.text.contains("85"))
    }

    func testTheLogGoesWhereTheAppWantsIt() async throws {
        let world = try World()
        let lines = Guarded<[String]>([])
        KnapsackLog.listen(.info) { level, part, text in lines.with { $0.append("\(level) \(part) \(text)") } }
        try await world.models().load(world.model)
        XCTAssertTrue(lines.with { $0.contains { $0.contains("info") && $0.contains("loaded \(world.model)") } }, "\(lines.with { $0 })")
        KnapsackLog.stop()
        lines.with { $0 = [] }
        try await world.models().load(world.model)
        XCTAssertEqual(lines.with { $0 }, [])
    }

    func testADownloadSurvivesTheNetwork() async throws {
        let world = try World()
        let storage = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString)
        defer { try? FileManager.default.removeItem(at: storage) }
        let models = try world.remoteModels(storage)
        guard case .missing(let total) = try models.state(of: world.model) else { return XCTFail("not missing") }
        XCTAssertEqual(models.models[0].downloadSize, total)
        let early = await failure { try await models.load(world.model) }
        guard case .notDownloaded? = early as? KnapsackError else { return XCTFail("\(String(describing: early))") }

        // Stopped by its consumer, cut off twice, taken up again.
        try await world.hub("slow")
        for try await step in models.prepare(world.model) where step.done > 0 { break }
        // The network is gone, and comes back.
        try await world.hub("down")
        let lost = await failure { for try await _ in models.prepare(world.model) {} }
        guard case .network(let problem)? = lost as? KnapsackError, problem.status == 503 else {
            return XCTFail("\(String(describing: lost))")
        }
        try await world.hub("back")
        try await world.hub("lose?times=2")
        var last: DownloadProgress?
        for try await step in models.prepare(world.model) { last = step }
        XCTAssertEqual(last?.done, total)
        XCTAssertEqual(try models.state(of: world.model), .ready)
        let answer = try await models.session(world.model).respond(to: sum, options: greedy)
        XCTAssertTrue(answer.text.contains("85"))
        let removed = try await models.remove(world.model)
        XCTAssertTrue(removed)
        XCTAssertEqual(try models.state(of: world.model), .missing(bytes: total))

        // The system moves the bytes.
        let arrived = storage.appendingPathComponent("arrived")
        let files = try models.wanted(world.model)
        XCTAssertEqual(files.map(\.size).reduce(0, +), total)
        try Data("something else".utf8).write(to: arrived)
        let wrong = await failure { _ = try await models.adopt(arrived, for: world.model, as: files[0].path) }
        guard case .wrongContent? = wrong as? KnapsackError else { return XCTFail("\(String(describing: wrong))") }
        for file in files {
            try FileManager.default.copyItem(at: world.bundle.appendingPathComponent("\(world.model)/\(file.path)"), to: arrived)
            let last = try await models.adopt(arrived, for: world.model, as: file.path)
            XCTAssertEqual(last, file == files.last)
        }
        XCTAssertEqual(try models.state(of: world.model), .ready)
        try await world.hub("back")
    }
}
