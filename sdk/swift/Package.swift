// swift-tools-version: 6.0
import PackageDescription

// On Apple's platforms the runtime is a prebuilt xcframework beside this file. Elsewhere it is a static or shared library that
// the linker finds (`-Xlinker -L…`): that is how the tests run on Linux.
#if os(Linux)
    let runtime: Target = .systemLibrary(name: "CKnapsack")
    let settings: [LinkerSetting] = []
#else
    let runtime: Target = .binaryTarget(name: "CKnapsack", path: "Knapsack.xcframework")
    let settings: [LinkerSetting] = [.linkedFramework("Metal"), .linkedFramework("Foundation")]
#endif

let package = Package(
    name: "Knapsack",
    platforms: [.iOS(.v15), .macCatalyst(.v15), .macOS(.v12)],
    products: [.library(name: "Knapsack", targets: ["Knapsack"])],
    targets: [
        runtime,
        .target(name: "Knapsack", dependencies: ["CKnapsack"], linkerSettings: settings),
        .testTarget(name: "KnapsackTests", dependencies: ["Knapsack"]),
    ],
    swiftLanguageModes: [.v6]
)
