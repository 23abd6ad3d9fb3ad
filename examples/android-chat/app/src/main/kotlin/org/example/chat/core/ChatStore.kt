package org.example.chat.core

import ai.knapsack.ChatSession
import ai.knapsack.Event
import ai.knapsack.KnapsackError
import ai.knapsack.LocalModels
import ai.knapsack.ModelEvent
import ai.knapsack.ModelState
import ai.knapsack.Role
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Job
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.asStateFlow
import kotlinx.coroutines.flow.update
import kotlinx.coroutines.launch

/** A model as the list shows it; [progress] is 0 to 1 while it is downloaded or loaded. */
data class ModelRow(val id: String, val memory: Long, val state: ModelState, val progress: Double? = null)

/** A turn as the chat shows it. */
data class Turn(val role: Role, val text: String)

/** Everything that the app shows. */
data class ChatState(
    val rows: List<ModelRow> = emptyList(),
    val turns: List<Turn> = emptyList(),
    val chosen: String? = null,
    val isAnswering: Boolean = false,
    val memoryInUse: Long = 0,
    val problem: String? = null,
)

/** What the app does with its models: everything that talks to the library, without a view. */
class ChatStore(private val models: LocalModels, private val scope: CoroutineScope) {
    private val current = MutableStateFlow(ChatState(rows = models.models.map { ModelRow(it.id, it.memory, models.state(it.id)) }))
    private var session: ChatSession? = null
    private var answer: Job? = null

    val state: StateFlow<ChatState> = current.asStateFlow()

    init {
        scope.launch { models.events.collect(::show) }
    }

    /** Downloads a model; cancelling the job stops it, and what was fetched stays. */
    fun download(id: String): Job = noting {
        models.prepare(id).collect { step -> row(id) { it.copy(progress = step.fraction) } }
        refresh(id)
    }

    /** Begins a conversation. */
    fun choose(id: String): Job = noting {
        stop()
        session?.close()
        session = models.session(id, instructions = "Answer briefly.")
        current.update { it.copy(chosen = id, turns = emptyList()) }
    }

    /** Asks, and shows the answer as it comes. */
    fun send(prompt: String) {
        val session = session ?: return
        if (prompt.isBlank() || current.value.isAnswering) return
        current.update { it.copy(turns = it.turns + Turn(Role.USER, prompt) + Turn(Role.ASSISTANT, ""), isAnswering = true) }
        answer = noting {
            try {
                session.stream(prompt).collect { event ->
                    if (event is Event.Text) current.update { it.copy(turns = it.turns.extended(event.text)) }
                }
            } finally {
                current.update { it.copy(isAnswering = false) }
            }
        }
    }

    /** Stops the answer that is running: cancelling its collector stops the computation. */
    fun stop() {
        answer?.cancel()
        answer = null
    }

    /** Checks every byte of a downloaded model. */
    fun verify(id: String): Job = noting {
        val wrong = models.verify(id)
        if (wrong > 0) current.update { it.copy(problem = "$wrong files of $id were damaged: download it again") }
        refresh(id)
    }

    /** Removes a downloaded model. */
    fun remove(id: String): Job = noting {
        if (current.value.chosen == id) {
            session?.close()
            session = null
            current.update { it.copy(chosen = null, turns = emptyList()) }
        }
        models.remove(id)
        refresh(id)
    }

    private fun noting(work: suspend () -> Unit): Job = scope.launch {
        current.update { it.copy(problem = null) }
        try {
            work()
        } catch (cancelled: CancellationException) {
            throw cancelled
        } catch (error: KnapsackError) {
            current.update { it.copy(problem = error.message) }
        }
    }

    private fun refresh(id: String) = row(id) { it.copy(state = models.state(id), progress = null) }

    private fun row(id: String, change: (ModelRow) -> ModelRow) =
        current.update { state -> state.copy(rows = state.rows.map { if (it.id == id) change(it) else it }) }

    private fun show(event: ModelEvent) {
        when (event) {
            is ModelEvent.Loading -> row(event.id) { it.copy(progress = event.fraction) }
            is ModelEvent.Loaded -> {
                current.update { it.copy(memoryInUse = it.memoryInUse + event.bytes) }
                row(event.id) { it.copy(progress = null) }
            }
            is ModelEvent.Evicted -> current.update { it.copy(memoryInUse = maxOf(0, it.memoryInUse - event.bytes)) }
            is ModelEvent.Failed -> current.update { it.copy(problem = event.message) }
        }
    }
}

private fun List<Turn>.extended(piece: String): List<Turn> = dropLast(1) + last().let { it.copy(text = it.text + piece) }
