import Foundation
import XCTest

@testable import Knapsack

#if canImport(FoundationNetworking)
    import FoundationNetworking
#endif

/// What `cargo run --example world` serves; `KNAPSACK_WORLD` names a file with what it printed.
struct World {
    let model, library, control: String
    let bundle, remote: URL
    /// The same model with a template that takes tools and thinks.
    let tools, toolsLibrary: String
    let toolsBundle: URL

    init() throws {
        let path = try XCTUnwrap(ProcessInfo.processInfo.environment["KNAPSACK_WORLD"], "KNAPSACK_WORLD is not set")
        var values: [String: String] = [:]
        for line in try String(contentsOfFile: path, encoding: .utf8).split(separator: "\n") {
            let pair = line.split(separator: "=", maxSplits: 1)
            if pair.count == 2 { values[String(pair[0])] = String(pair[1]) }
        }
        func value(_ name: String) throws -> String { try XCTUnwrap(values[name], name) }
        (model, library, control) = (try value("model"), try value("library"), try value("control"))
        (tools, toolsLibrary) = (try value("tools"), try value("tools_library"))
        toolsBundle = URL(fileURLWithPath: try value("tools_bundle"))
        bundle = URL(fileURLWithPath: try value("bundle"))
        remote = URL(fileURLWithPath: try value("remote"))
    }

    func models(budget: UInt64? = nil) throws -> LocalModels {
        try LocalModels(
            ModelPackage(bundle: bundle, library: library), options: Options(memoryBudget: budget, background: .stopAll))
    }

    func toolModels() throws -> LocalModels {
        try LocalModels(ModelPackage(bundle: toolsBundle, library: toolsLibrary), options: Options(background: .stopAll))
    }

    /// The same models, to be downloaded.
    func remoteModels(_ storage: URL) throws -> LocalModels {
        try LocalModels(ModelPackage(bundle: remote, library: library), options: Options(storage: storage))
    }

    /// Changes how the hub behaves.
    func hub(_ command: String) async throws {
        let url = try XCTUnwrap(URL(string: "\(control)/\(command)"))
        _ = try await URLSession.shared.data(from: url)
    }
}

let sum = "What is 37 plus 48?"
let greedy = GenerationOptions(temperature: 0)

/// The error of a call that must fail.
func failure(_ body: () async throws -> Void, file: StaticString = #filePath, line: UInt = #line) async -> (any Error)? {
    do {
        try await body()
        XCTFail("it did not fail", file: file, line: line)
        return nil
    } catch {
        return error
    }
}
