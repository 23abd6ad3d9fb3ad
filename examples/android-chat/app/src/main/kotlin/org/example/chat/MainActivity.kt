package org.example.chat

import ai.knapsack.LocalModels
import ai.knapsack.ModelState
import ai.knapsack.Role
import android.app.Application
import android.os.Bundle
import androidx.activity.ComponentActivity
import androidx.activity.compose.setContent
import androidx.activity.viewModels
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.Row
import androidx.compose.foundation.layout.fillMaxSize
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.padding
import androidx.compose.foundation.lazy.LazyColumn
import androidx.compose.foundation.lazy.items
import androidx.compose.material3.Button
import androidx.compose.material3.LinearProgressIndicator
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.OutlinedTextField
import androidx.compose.material3.PrimaryTabRow
import androidx.compose.material3.Tab
import androidx.compose.material3.Text
import androidx.compose.material3.TextButton
import androidx.compose.runtime.Composable
import androidx.compose.runtime.collectAsState
import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableIntStateOf
import androidx.compose.runtime.mutableStateOf
import androidx.compose.runtime.remember
import androidx.compose.runtime.setValue
import androidx.compose.ui.Modifier
import androidx.compose.ui.unit.dp
import androidx.lifecycle.AndroidViewModel
import androidx.lifecycle.viewModelScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.launch
import kotlinx.coroutines.withContext
import org.example.chat.core.ChatState
import org.example.chat.core.ChatStore

/** Holds the models over rotations; opening them reads files, and so is off the main thread. */
class ChatViewModel(app: Application) : AndroidViewModel(app) {
    val store = MutableStateFlow<ChatStore?>(null)
    private var models: LocalModels? = null

    init {
        viewModelScope.launch {
            val opened = withContext(Dispatchers.IO) { LocalModels(app) }
            models = opened
            store.value = ChatStore(opened, viewModelScope)
        }
    }

    override fun onCleared() {
        models?.close()
    }
}

class MainActivity : ComponentActivity() {
    private val model: ChatViewModel by viewModels()

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        setContent {
            MaterialTheme {
                val store by model.store.collectAsState()
                store?.let { Root(it) } ?: Text("Opening the models…", Modifier.padding(24.dp))
            }
        }
    }
}

@Composable
private fun Root(store: ChatStore) {
    val state by store.state.collectAsState()
    var page by remember { mutableIntStateOf(0) }
    Column(Modifier.fillMaxSize()) {
        PrimaryTabRow(page) {
            listOf("Chat", "Models", "Settings").forEachIndexed { index, name -> Tab(page == index, { page = index }, text = { Text(name) }) }
        }
        state.problem?.let { Text(it, Modifier.padding(16.dp), MaterialTheme.colorScheme.error) }
        when (page) {
            0 -> Chat(store, state)
            1 -> Models(store, state) { page = 0 }
            else -> Settings(store, state)
        }
    }
}

@Composable
private fun Chat(store: ChatStore, state: ChatState) {
    var prompt by remember { mutableStateOf("") }
    Column(Modifier.fillMaxSize().padding(16.dp)) {
        LazyColumn(Modifier.weight(1f)) {
            items(state.turns) { turn -> Text((if (turn.role == Role.USER) "You: " else "") + turn.text, Modifier.padding(vertical = 6.dp)) }
        }
        Row {
            OutlinedTextField(prompt, { prompt = it }, Modifier.weight(1f), label = { Text(state.chosen ?: "Choose a model") })
            if (state.isAnswering) {
                Button(store::stop) { Text("Stop") }
            } else {
                Button({ store.send(prompt); prompt = "" }, enabled = state.chosen != null) { Text("Send") }
            }
        }
    }
}

@Composable
private fun Models(store: ChatStore, state: ChatState, onChosen: () -> Unit) {
    LazyColumn(Modifier.fillMaxSize().padding(16.dp)) {
        items(state.rows) { row ->
            Column(Modifier.fillMaxWidth().padding(vertical = 8.dp)) {
                Text(row.id, style = MaterialTheme.typography.titleMedium)
                Text("${row.memory / 1_000_000} MB when loaded", style = MaterialTheme.typography.bodySmall)
                row.progress?.let { progress -> LinearProgressIndicator({ progress.toFloat() }, Modifier.fillMaxWidth()) }
                when (val found = row.state) {
                    ModelState.Bundled, ModelState.Ready -> Button({ store.choose(row.id); onChosen() }) { Text("Chat") }
                    is ModelState.Missing -> Button({ store.download(row.id) }) { Text("Download ${found.bytes / 1_000_000} MB") }
                    is ModelState.Partial -> Button({ store.download(row.id) }) { Text("Continue the download") }
                }
            }
        }
    }
}

@Composable
private fun Settings(store: ChatStore, state: ChatState) {
    Column(Modifier.fillMaxSize().padding(16.dp)) {
        Text("Memory in use: ${state.memoryInUse / 1_000_000} MB")
        for (row in state.rows) {
            Text(row.id, Modifier.padding(top = 16.dp), style = MaterialTheme.typography.titleMedium)
            Row {
                TextButton({ store.verify(row.id) }, enabled = row.state == ModelState.Ready) { Text("Verify") }
                TextButton({ store.remove(row.id) }, enabled = row.state == ModelState.Ready) { Text("Remove") }
            }
        }
    }
}
