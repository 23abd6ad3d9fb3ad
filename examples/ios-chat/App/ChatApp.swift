import ChatCore
import Knapsack
import KnapsackModels
import SwiftUI

@main
struct ChatApp: App {
    /// Opening reads the app config and the model table: no weights yet.
    private let store = Result { ChatStore(try LocalModels(KnapsackModels.package)) }

    var body: some Scene {
        WindowGroup {
            switch store {
            case .success(let store): RootView().environment(store)
            case .failure(let error): ContentUnavailableView("No models", systemImage: "shippingbox", description: Text(String(describing: error)))
            }
        }
    }
}

struct RootView: View {
    var body: some View {
        TabView {
            ChatView().tabItem { Label("Chat", systemImage: "bubble.left.and.bubble.right") }
            ModelsView().tabItem { Label("Models", systemImage: "square.stack.3d.up") }
            SettingsView().tabItem { Label("Settings", systemImage: "gear") }
        }
    }
}
