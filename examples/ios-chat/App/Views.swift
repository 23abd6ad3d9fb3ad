import ChatCore
import Knapsack
import SwiftUI

struct ChatView: View {
    @Environment(ChatStore.self) private var store
    @State private var prompt = ""

    var body: some View {
        NavigationStack {
            ScrollView {
                LazyVStack(alignment: .leading, spacing: 12) {
                    ForEach(store.turns) { turn in
                        Text(turn.text)
                            .padding(10)
                            .background(turn.role == .user ? Color.accentColor.opacity(0.2) : Color.secondary.opacity(0.1))
                            .clipShape(RoundedRectangle(cornerRadius: 12))
                            .frame(maxWidth: .infinity, alignment: turn.role == .user ? .trailing : .leading)
                            .accessibilityLabel(turn.role == .user ? "You: \(turn.text)" : "Answer: \(turn.text)")
                    }
                }
                .padding()
            }
            .safeAreaInset(edge: .bottom) {
                HStack {
                    TextField("Ask", text: $prompt).textFieldStyle(.roundedBorder).onSubmit(send)
                    if store.isAnswering {
                        Button("Stop", systemImage: "stop.fill", action: store.stop)
                    } else {
                        Button("Send", systemImage: "arrow.up.circle.fill", action: send).disabled(store.chosen == nil)
                    }
                }
                .labelStyle(.iconOnly)
                .padding()
                .background(.bar)
            }
            .navigationTitle(store.chosen ?? "Choose a model")
            .overlay { if let problem = store.problem { Text(problem).foregroundStyle(.red).padding() } }
        }
    }

    private func send() {
        store.send(prompt)
        prompt = ""
    }
}

struct ModelsView: View {
    @Environment(ChatStore.self) private var store

    var body: some View {
        NavigationStack {
            List(store.rows) { row in
                VStack(alignment: .leading) {
                    Text(row.id).font(.headline)
                    Text("\(row.memory.formatted(.byteCount(style: .memory))) when loaded").font(.caption)
                    if let progress = row.progress { ProgressView(value: progress) }
                    switch row.state {
                    case .bundled, .ready: Button("Chat") { Task { await store.choose(row.id) } }
                    case .missing(let bytes): Button("Download \(bytes.formatted(.byteCount(style: .file)))") { Task { await store.download(row.id) } }
                    case .partial: Button("Continue the download") { Task { await store.download(row.id) } }
                    }
                }
            }
            .navigationTitle("Models")
        }
    }
}

struct SettingsView: View {
    @Environment(ChatStore.self) private var store

    var body: some View {
        NavigationStack {
            Form {
                LabeledContent("Memory in use", value: store.memoryInUse.formatted(.byteCount(style: .memory)))
                ForEach(store.rows) { row in
                    Section(row.id) {
                        Button("Verify") { Task { await store.verify(row.id) } }
                        Button("Remove", role: .destructive) { Task { await store.remove(row.id) } }
                    }
                    .disabled(row.state != .ready)
                }
            }
            .navigationTitle("Settings")
        }
    }
}
