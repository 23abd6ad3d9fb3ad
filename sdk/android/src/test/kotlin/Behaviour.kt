import ai.knapsack.BackgroundPolicy
import ai.knapsack.DownloadProgress
import ai.knapsack.Event
import ai.knapsack.EvictionReason
import ai.knapsack.FileSlice
import ai.knapsack.FinishReason
import ai.knapsack.GenerationOptions
import ai.knapsack.KnapsackError
import ai.knapsack.KnapsackLog
import ai.knapsack.LocalModels
import ai.knapsack.LogLevel
import ai.knapsack.Message
import ai.knapsack.ModelEvent
import ai.knapsack.ModelPackage
import ai.knapsack.ModelState
import ai.knapsack.Options
import ai.knapsack.PackageFiles
import ai.knapsack.ContextPolicy
import ai.knapsack.Role
import kotlinx.coroutines.CoroutineStart
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.asCoroutineDispatcher
import kotlinx.coroutines.async
import kotlinx.coroutines.awaitAll
import kotlinx.coroutines.cancelAndJoin
import kotlinx.coroutines.coroutineScope
import kotlinx.coroutines.delay
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.flow.last
import kotlinx.coroutines.flow.take
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withContext
import kotlinx.coroutines.withTimeout
import kotlinx.coroutines.yield
import java.io.File
import java.net.URL
import java.nio.file.Files
import java.util.concurrent.ConcurrentHashMap
import java.util.concurrent.Executors

/** What `cargo run --example world` serves; the first argument names a file with what it printed. */
internal lateinit var world: Map<String, String>
internal val model get() = world.getValue("model")
internal val library get() = world.getValue("library")
internal val bundle get() = File(world.getValue("bundle"))

/** How often a race is run. */
private val rounds = System.getenv("KNAPSACK_ROUNDS")?.toInt() ?: 20
internal const val SUM = "What is 37 plus 48?"
internal val greedy = GenerationOptions(temperature = 0f)

private fun hub(command: String) = URL("${world.getValue("control")}/$command").readText()

internal fun open(budget: Long? = null) =
    LocalModels(ModelPackage(bundle, library), Options(memoryBudget = budget, background = BackgroundPolicy.STOP_ALL))

internal inline fun <reified E : Throwable> fails(body: () -> Unit): E {
    try {
        body()
    } catch (error: Throwable) {
        if (error is E) return error
        throw AssertionError("another error", error)
    }
    throw AssertionError("it did not fail with ${E::class.java.simpleName}")
}

internal fun check(condition: Boolean, what: Any?) {
    if (!condition) throw AssertionError(what.toString())
}

private val tests: List<Pair<String, suspend () -> Unit>> = listOf(
    "the tiny assistant answers" to {
        open().use { models ->
            check(models.models.map { it.id } == listOf(model) && models.models[0].context == 256, models.models)
            check(models.state(model) == ModelState.Bundled, models.state(model))
            models.fits(model)
            check(models.prepare(model).toList().isEmpty(), "nothing is to be downloaded")
            val chat = models.session(model)
            val events = chat.stream(SUM, greedy).toList()
            val answer = (events.last() as Event.Finished).answer
            val text = events.dropLast(1).joinToString("") { (it as Event.Text).text }
            check(answer.text == text && "85" in text && answer.finishReason == FinishReason.STOP, events)
            check(chat.transcript == listOf(Message(Role.USER, SUM), Message(Role.ASSISTANT, text)), chat.transcript)
            check(chat.respond("What is 2 plus 2?", greedy).usage.reusedTokens > 5, "nothing reused")
            chat.reset()
            check(chat.transcript.isEmpty(), chat.transcript)
            // As Java calls it.
            val pieces = StringBuilder()
            check(chat.answerBlocking(SUM, greedy) { pieces.append(it) }.text == text && pieces.toString() == text, pieces)
        }
    },
    "options and errors" to {
        open().use { models ->
            val chat = models.session(model, context = ContextPolicy.FAIL)
            check(chat.respond(SUM, greedy.copy(maxTokens = 1)).finishReason == FinishReason.LENGTH, "length")
            check("8" !in chat.respond(SUM, greedy.copy(stop = listOf("8"))).text, "stop")
            fails<KnapsackError.InvalidOption> { GenerationOptions(maxTokens = 0) }
            fails<KnapsackError.InvalidOption> { GenerationOptions(topP = Float.NaN) }
            fails<KnapsackError.InvalidOption> { chat.respond(SUM, GenerationOptions(temperature = -1f)) }
            val long = fails<KnapsackError.PromptTooLong> { chat.respond(SUM.repeat(100)) }
            check(long.context == 256 && long.tokens > 256, long)
            fails<KnapsackError.NoSuchModel> { models.session("other") }
            fails<KnapsackError.NoSuchModel> { models.state("\u0000\ud800") }
            fails<KnapsackError.PackageUnusable> { LocalModels(ModelPackage(File("/nowhere"), library)) }
            fails<KnapsackError.LibraryMissing> { LocalModels(ModelPackage(bundle, "/nowhere.so")) }
            fails<IllegalStateException> { chat.answerBlocking(SUM, greedy) { throw IllegalStateException("the app's") } }
            check("85" in chat.respond(SUM, greedy).text, "after all of that")
        }
    },
    "the state of a session in a file" to {
        val file = Files.createTempDirectory("knapsack state").resolve("state.kv").toFile()
        val instructions = "Answer briefly. ".repeat(6)
        val expected = open().use { models ->
            val chat = models.session(model, instructions)
            chat.saveState(file)
            chat.respond(SUM, greedy).text
        }
        open().use { models ->
            val chat = models.session(model, instructions)
            chat.restoreStateBlocking(file)
            val answer = chat.respond(SUM, greedy)
            check(answer.text == expected && answer.usage.reusedTokens > 20, answer)
            // Damaged: an error, and the next answer is right.
            file.writeText("no state")
            fails<KnapsackError.SavedStateUnusable> { chat.restoreState(file) }
            chat.reset()
            val again = chat.respond(SUM, greedy)
            check(again.text == expected && again.usage.reusedTokens == 0, again)
            chat.saveStateBlocking(file)
            chat.close()
            fails<KnapsackError.Closed> { chat.saveState(file) }
        }
        file.parentFile.deleteRecursively()
    },
    *answerTests.toTypedArray(),
    *androidTests.toTypedArray(),
    "requests of OpenAI's protocol" to {
        open().use { models ->
            val messages = """"messages":[{"role":"user","content":"$SUM"}],"temperature":0"""
            val whole = models.complete("{$messages}").toList()
            check(whole.size == 1 && "85" in whole[0], whole)
            val chunks = models.complete("""{$messages,"stream":true}""").toList()
            check(chunks.size > 2 && chunks.all { "chat.completion.chunk" in it }, chunks)
            val error = fails<KnapsackError.InvalidOption> { models.complete("{").toList() }
            check("\"error\"" in error.message.orEmpty(), error)
        }
    },
    "a conversation loses its oldest turns" to {
        open().use { models ->
            val history = List(40) { listOf(Message(Role.USER, SUM), Message(Role.ASSISTANT, "85")) }.flatten()
            val chat = models.session(model, instructions = "Be brief.", history = history)
            check(chat.respond(SUM, greedy.copy(maxTokens = 10)).usage.droppedMessages > 0, "nothing dropped")
            chat.reset()
            check(chat.transcript == listOf(Message(Role.SYSTEM, "Be brief.")), chat.transcript)
        }
    },
    "a budget that is too small says so" to {
        open(budget = 1000).use { models ->
            repeat(2) {
                val error = fails<KnapsackError.NotEnoughMemory> { models.load(model) }
                check(error.available == 1000L && error.needed > 1 shl 20 && error.holders.isEmpty(), error)
            }
            fails<KnapsackError.NotEnoughMemory> { models.fits(model) }
        }
    },
    "a consumer may go away at any moment" to {
        open().use { models ->
            val chat = models.session(model)
            val whole = chat.respond(SUM, greedy).text
            repeat(rounds) { round ->
                chat.reset()
                if (round % 2 == 0) {
                    chat.stream(SUM, greedy).take(round % 5 + 1).toList()
                } else {
                    coroutineScope {
                        val job = launch(Dispatchers.Default) { chat.stream(SUM, greedy).toList() }
                        delay(round / 4L)
                        job.cancelAndJoin()
                    }
                }
                // A turn that was cut off is not there; one that had ended is there whole.
                val turns = chat.transcript
                check(turns.isEmpty() || turns == listOf(Message(Role.USER, SUM), Message(Role.ASSISTANT, whole)), turns)
            }
            // Forgotten while it is being said.
            chat.reset()
            var events = 0
            chat.stream(SUM, greedy).collect { if (events++ == 0) chat.reset() }
            check(events > 1 && chat.transcript.isEmpty(), chat.transcript)
            chat.reset()
            check("85" in chat.respond(SUM, greedy).text, "the answer after it")
        }
    },
    "the engine never waits for the consumer" to {
        open().use { models ->
            coroutineScope {
                val slow = async(Dispatchers.Default) {
                    models.session(model).stream(SUM, greedy).let { flow ->
                        var ends = 0
                        flow.collect {
                            delay(20)
                            if (it is Event.Finished) ends++
                        }
                        ends
                    }
                }
                check("85" in models.session(model).respond(SUM, greedy).text, "the other answer")
                check(slow.await() == 1, "ends")
            }
        }
    },
    "calls block threads of the library's own" to {
        val app = Executors.newSingleThreadExecutor { Thread(it, "app").apply { isDaemon = true } }.asCoroutineDispatcher()
        val threads = ConcurrentHashMap.newKeySet<String>()
        open().use { models ->
            KnapsackLog.listen(LogLevel.INFO) { _, _, _ -> threads += Thread.currentThread().name }
            models.pause()
            coroutineScope {
                // More calls that wait than a dispatcher has threads, and the app's only thread: both stay free.
                val waiting = List(80) { async(Dispatchers.IO) { models.load(model) } } + async(app) { models.load(model) }
                withContext(Dispatchers.Default) { withContext(Dispatchers.IO) { withContext(app) { delay(50) } } }
                check(waiting.none { it.isCompleted }, "a load did not wait")
                models.resume()
                waiting.awaitAll()
            }
            withContext(app) {
                val chat = models.session(model)
                val request = """{"messages":[{"role":"user","content":"$SUM"}],"temperature":0}"""
                val answers = listOf<suspend () -> Any>({ chat.respond(SUM, greedy) }, { models.complete(request).toList() })
                for (answer in answers) {
                    val running = async { answer() }
                    var turns = 0
                    while (!running.isCompleted) {
                        turns++
                        yield()
                    }
                    // A call that blocked this thread would have ended within the first turn.
                    check(turns > 1, turns)
                }
            }
        }
        KnapsackLog.listen(LogLevel.OFF, null)
        app.close()
        check(threads == setOf("knapsack"), threads)
    },
    "two sessions of one model" to {
        open().use { models ->
            val expected = models.session(model).respond(SUM, greedy).text
            coroutineScope {
                val answers = List(8) { async(Dispatchers.Default) { models.session(model).respond(SUM, greedy).text } }
                check(answers.awaitAll().all { it == expected }, expected)
            }
        }
    },
    "close while busy" to {
        repeat(rounds) { round ->
            val models = open()
            val chat = models.session(model)
            var ends = 0
            var first = true
            try {
                chat.stream(SUM, greedy).collect {
                    if (first) {
                        first = false
                        if (round % 2 == 0) chat.close()
                        models.close()
                    }
                    if (it is Event.Finished) ends++
                }
            } catch (error: KnapsackError.Closed) {
                ends++
            }
            check(ends == 1, ends)
            chat.close()
            fails<KnapsackError.Closed> { chat.respond(SUM) }
            fails<KnapsackError.Closed> { models.load(model) }
        }
    },
    "the background ends answers and loads wait" to {
        open().use { models ->
            val chat = models.session(model)
            var answer: ai.knapsack.Answer? = null
            var first = true
            chat.stream(SUM, GenerationOptions(maxTokens = 200, temperature = 1.5f, seed = 1)).collect {
                if (first) models.pause()
                first = false
                if (it is Event.Finished) answer = it.answer
            }
            check(answer?.finishReason == FinishReason.BACKGROUNDED || answer?.finishReason == FinishReason.STOP, answer)
            fails<KnapsackError.Backgrounded> { chat.respond(SUM) }
            coroutineScope {
                val load = async(Dispatchers.Default) { models.load(model) }
                delay(50)
                check(!load.isCompleted, "the load did not wait")
                models.resume()
                load.await()
                models.pause()
                val waiting = launch(Dispatchers.Default) { models.load(model) }
                delay(20)
                waiting.cancelAndJoin()
                models.resume()
            }
            check("85" in chat.respond(SUM, greedy).text, "the answer after it")
        }
    },
    "memory is given back and the model comes back" to {
        open().use { models ->
            coroutineScope {
                val seen = async(Dispatchers.Unconfined, start = CoroutineStart.UNDISPATCHED) {
                    val found = mutableListOf<ModelEvent>()
                    models.events.first {
                        if (it !is ModelEvent.Loading) found += it
                        it is ModelEvent.Evicted && it.reason == EvictionReason.UNLOADED
                    }
                    found
                }
                val chat = models.session(model)
                check(models.releaseMemory(critical = true) > 1 shl 20, "nothing freed")
                check("85" in chat.respond(SUM, greedy).text, "the answer after it")
                models.pin(model)
                check(models.releaseMemory(critical = false) == 0L, "pinned")
                check(models.unload(model), "unload")
                val kinds = seen.await().map { it.javaClass.simpleName }
                check(kinds == listOf("Loaded", "Evicted", "Loaded", "Evicted"), kinds)
            }
        }
    },
    "a failed load is an error and the next one works" to {
        val copy = Files.createTempDirectory("knapsack").toFile()
        bundle.copyRecursively(copy, overwrite = true)
        val shard = File(copy, "$model/params_shard_0.bin")
        val aside = File(copy, "aside")
        check(shard.renameTo(aside), "rename")
        LocalModels(ModelPackage(copy, library)).use { models ->
            val error = fails<KnapsackError.DeviceFailed> { models.load(model) }
            check("params_shard_0.bin" in error.message.orEmpty(), error)
            check(aside.renameTo(shard), "rename")
            check("85" in models.session(model).respond(SUM, greedy).text, "the answer after it")
        }
        copy.deleteRecursively()
    },
    "assets are read where they lie in the app" to {
        val apk = Files.createTempFile("knapsack", ".apk").toFile()
        Apk.write(apk, bundle) { !it.endsWith(".bin") }
        LocalModels(ModelPackage(Apk(apk), library)).use { models ->
            check(models.state(model) == ModelState.Bundled, models.state(model))
            check("85" in models.session(model).respond(SUM, greedy).text, "the answer out of the app")
            // The weights are pages of the app itself.
            val maps = File("/proc/self/maps").readLines()
            check(maps.any { apk.path in it }, "the app is not mapped")
        }
        Apk.write(apk, bundle) { it.endsWith("params_shard_0.bin") }
        LocalModels(ModelPackage(Apk(apk), library)).use { models ->
            val error = fails<KnapsackError.DeviceFailed> { models.load(model) }
            check("compressed" in error.message.orEmpty() && "noCompress" in error.message.orEmpty(), error)
        }
        Apk.write(apk, File(bundle, model)) { false }
        fails<KnapsackError.PackageUnusable> { LocalModels(ModelPackage(Apk(apk), library)) }
        val broken = object : PackageFiles {
            override val place = "broken"
            override fun slice(path: String): FileSlice = throw IllegalStateException("no")
            override fun read(path: String, most: Int): ByteArray = throw IllegalStateException("no")
        }
        fails<KnapsackError.PackageUnusable> { LocalModels(ModelPackage(broken, library)) }
        apk.delete()
    },
    "the log goes where the app wants it" to {
        val lines = java.util.concurrent.ConcurrentLinkedQueue<String>()
        KnapsackLog.listen(LogLevel.INFO) { level, part, text -> lines += "$level $part $text" }
        open().use { it.load(model) }
        check(lines.any { "INFO" in it && "loaded $model" in it }, lines)
        KnapsackLog.listen(LogLevel.OFF, null)
        lines.clear()
        open().use { it.load(model) }
        check(lines.isEmpty(), lines)
    },
    "a download survives the network" to {
        val storage = Files.createTempDirectory("knapsack").toFile()
        LocalModels(ModelPackage(File(world.getValue("remote")), library), Options(storage = storage)).use { models ->
            val total = (models.state(model) as ModelState.Missing).bytes
            check(models.models[0].downloadSize == total, models.models)
            fails<KnapsackError.NotDownloaded> { models.load(model) }
            // Stopped by its collector, cut off twice, taken up again.
            hub("slow")
            models.prepare(model).first { it.done > 0 }
            // The network is gone, and comes back: what was fetched is not fetched again.
            hub("down")
            val lost = fails<KnapsackError.Network> { models.prepare(model).toList() }
            check(lost.status == 503, lost)
            val here = models.state(model)
            check(here is ModelState.Partial || here is ModelState.Missing, here)
            hub("back")
            hub("lose?times=2")
            val last: DownloadProgress = models.prepare(model).last()
            check(last.done == total && last.fraction == 1.0, last)
            check(models.state(model) == ModelState.Ready, models.state(model))
            check("85" in models.session(model).respond(SUM, greedy).text, "the answer")
            check(models.remove(model) && models.state(model) == ModelState.Missing(total), models.state(model))
            // The system moves the bytes.
            val files = models.wanted(model)
            check(files.sumOf { it.size } == total && files.none { it.isHere }, files)
            val arrived = File(storage, "arrived")
            arrived.writeText("something else")
            fails<KnapsackError.WrongContent> { models.adopt(arrived, model, files[0].path) }
            for (file in files) {
                File(bundle, "$model/${file.path}").copyTo(arrived)
                check(models.adopt(arrived, model, file.path) == (file == files.last()), file)
            }
            check(models.state(model) == ModelState.Ready, models.state(model))
            hub("back")
        }
        storage.deleteRecursively()
    },
)

fun main(arguments: Array<String>) {
    world = File(arguments[0]).readLines().mapNotNull { line -> line.split('=', limit = 2).takeIf { it.size == 2 } }
        .associate { (name, value) -> name to value }
    val chosen = arguments.drop(1)
    var failed = 0
    for ((name, body) in tests.filter { test -> chosen.isEmpty() || chosen.any { it in test.first } }) {
        val outcome = runCatching { runBlocking { withTimeout(180_000) { body() } } }
        println("${if (outcome.isSuccess) "ok    " else "FAILED"} $name")
        outcome.exceptionOrNull()?.let {
            failed++
            it.printStackTrace()
        }
    }
    // A thread that hangs must not keep a failed run alive.
    Runtime.getRuntime().halt(if (failed == 0) 0 else 1)
}
