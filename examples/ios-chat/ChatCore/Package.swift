// swift-tools-version: 6.0
import PackageDescription

// Everything of the app that talks to the library, without a view: it builds wherever Swift does.
let package = Package(
    name: "ChatCore",
    platforms: [.iOS(.v17), .macCatalyst(.v17), .macOS(.v14)],
    products: [.library(name: "ChatCore", targets: ["ChatCore"])],
    dependencies: [.package(path: "../../../sdk/swift")],
    targets: [.target(name: "ChatCore", dependencies: [.product(name: "Knapsack", package: "swift")])],
    swiftLanguageModes: [.v6]
)
