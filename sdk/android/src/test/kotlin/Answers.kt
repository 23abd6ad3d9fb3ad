import ai.knapsack.AnswerForm
import ai.knapsack.BackgroundPolicy
import ai.knapsack.Event
import ai.knapsack.GenerationOptions
import ai.knapsack.KnapsackError
import ai.knapsack.LocalModels
import ai.knapsack.Message
import ai.knapsack.ModelPackage
import ai.knapsack.Options
import ai.knapsack.Role
import ai.knapsack.Schema
import ai.knapsack.Structured
import ai.knapsack.Tool
import ai.knapsack.ToolChoice
import ai.knapsack.serialization.respondAs
import ai.knapsack.serialization.structured
import ai.knapsack.serialization.tool
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.awaitCancellation
import kotlinx.coroutines.coroutineScope
import kotlinx.coroutines.delay
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.launch
import kotlinx.serialization.Contextual
import kotlinx.serialization.SerialName
import kotlinx.serialization.Serializable
import kotlinx.serialization.json.Json
import java.io.File

/** The model with a template that takes tools and thinks. */
private val toolModel get() = world.getValue("tools")

private fun openTools() = LocalModels(
    ModelPackage(File(world.getValue("tools_bundle")), world.getValue("tools_library")),
    Options(background = BackgroundPolicy.STOP_ALL),
)

private val terms = Schema.obj("a" to Schema.integer(0, 99), "b" to Schema.integer(0, 99))

private fun sumOf(arguments: String) = Regex("[0-9]+").findAll(arguments).sumOf { it.value.toInt() }

@Serializable
private enum class Mood {
    @SerialName("very glad")
    GLAD,
    SAD,
}

@Serializable
private data class Sum(val left: Byte, val right: UByte, val note: Boolean? = null, val mood: Mood)

@Serializable
private data class Terms(val a: Byte, val b: Byte)

@Serializable
private sealed interface Shape {
    @Serializable
    @SerialName("circle")
    data class Circle(val radius: Short) : Shape

    @Serializable
    @SerialName("group")
    data class Group(val name: String, val parts: List<Shape>) : Shape
}

@Serializable
private data class Strange(@Contextual val any: Any)

/** Values, tools, thoughts and sampling: what a session gives besides text. */
internal val answerTests: List<Pair<String, suspend () -> Unit>> = listOf(
    "an answer is a value" to {
        openTools().use { models ->
            val chat = models.session(toolModel)
            val type = Structured(Schema.obj("x" to Schema.integer(30, 50), "y" to Schema.oneOf("on", "off").orNull())) { it }
            for (seed in 0L until 6) {
                chat.reset()
                val options = GenerationOptions(maxTokens = 120, temperature = if (seed == 0L) 0f else 1.5f, seed = seed)
                val text = chat.respond(SUM, type, options)
                check(Regex("""\{\s*"x"\s*:\s*[345][0-9]\s*,\s*"y"\s*:\s*("on"|"off"|null)\s*}""").matches(text), text)
            }
            check(chat.respondBlocking(SUM, type, greedy).startsWith("{"), "blocking")
            val year = chat.respond(SUM, greedy.copy(form = AnswerForm.Regex("[0-9]{4}"))).text
            check(year.length == 4 && year.toInt() >= 0, year)
            val choice = chat.respond(SUM, greedy.copy(form = AnswerForm.Grammar("start: \"yes\" | \"no\""))).text
            check(choice == "yes" || choice == "no", choice)
            // Cut off, it is no value; and what cannot be ensured is refused.
            fails<KnapsackError.IncompleteAnswer> { chat.respond(SUM, type, greedy.copy(maxTokens = 2)) }
            val hard = greedy.copy(form = AnswerForm.OfSchema(Schema.json("""{"not": {}}""")))
            check("not" in fails<KnapsackError.InvalidOption> { chat.respond(SUM, hard) }.message.orEmpty(), "the reason")
        }
    },
    "an answer is a serializable value" to {
        openTools().use { models ->
            val chat = models.session(toolModel)
            for (seed in 0L until 6) {
                chat.reset()
                val sum: Sum = chat.respondAs(SUM, GenerationOptions(maxTokens = 240, temperature = 1.2f, seed = seed))
                check(sum.mood in Mood.values(), sum)
            }
            val schema = structured<Shape>().schema.toString()
            check("\"\$defs\"" in schema && "\"const\":\"circle\"" in schema, schema)
            // Names and lists of shapes have no end, and a small model may find none.
            val shape: Shape? = try {
                chat.respondAs<Shape>(SUM, greedy.copy(maxTokens = 150))
            } catch (_: KnapsackError.IncompleteAnswer) {
                null
            }
            check(shape == null || Json.decodeFromString<Shape>(Json.encodeToString(Shape.serializer(), shape)) == shape, shape)
            fails<IllegalArgumentException> { structured<Strange>() }
            fails<IllegalArgumentException> { structured<Map<Int, String>>() }
        }
    },
    "tools are called and the answer goes on" to {
        openTools().use { models ->
            val seen = mutableListOf<Terms>()
            val add = tool<Terms>("add", "Adds two numbers.") {
                seen += it
                delay(1)
                "It is \"${it.a + it.b}\"\n."
            }
            val chat = models.session(toolModel, tools = listOf(add))
            val options = greedy.copy(maxTokens = 200, toolChoice = ToolChoice.Required, parallelToolCalls = false)
            val events = chat.stream(SUM, options).toList()
            val calls = events.filterIsInstance<Event.Calls>().map { it.call }
            val results = events.filterIsInstance<Event.ToolResult>()
            val answer = (events.last() as Event.Finished).answer
            check(calls[0].name == "add" && Json.decodeFromString<Terms>(calls[0].arguments) == seen[0], calls)
            check(results.map { it.call } == calls && results[0].result == "It is \"${seen[0].a + seen[0].b}\"\n.", results)
            check(answer.toolCalls == calls, answer)
            // The question, the call, its result, and what the model made of it.
            val expected = listOf(
                Message(Role.USER, SUM), Message(Role.ASSISTANT, "", toolCalls = calls.take(1)), Message.result(calls[0], results[0].result),
            )
            check(chat.transcript.take(3) == expected && chat.transcript.last() == Message(Role.ASSISTANT, answer.text), chat.transcript)
            check(chat.respond(SUM, greedy.copy(maxTokens = 20, toolChoice = ToolChoice.None)).toolCalls.isEmpty(), "told of none")
            // As Java has it.
            val plain = Tool.blocking("add", "Adds.", terms) { sumOf(it).toString() }
            val blocking = models.newSession(toolModel, tools = listOf(plain)).answerBlocking(SUM, options)
            check(blocking.toolCalls.isNotEmpty(), blocking)
        }
        open().use { models ->
            // A model whose template takes none says so.
            val deaf = models.session(model, tools = listOf(Tool("add", "Adds.", terms) { "" }))
            check("tools" in fails<KnapsackError.InvalidOption> { deaf.respond(SUM) }.message.orEmpty(), "the reason")
        }
    },
    "a tool that fails or is cancelled ends the answer" to {
        openTools().use { models ->
            val options = greedy.copy(maxTokens = 200, toolChoice = ToolChoice.Required)
            val failing = models.session(toolModel, tools = listOf(Tool("add", "Adds.", terms) { throw IllegalStateException("the app's") }))
            check(fails<IllegalStateException> { failing.respond(SUM, options) }.message == "the app's", "another error")
            check(failing.transcript.isEmpty(), failing.transcript)
            // One that would never return, but for the cancellation of whoever waits.
            val endless = listOf(Tool("add", "Adds.", terms) { awaitCancellation() })
            val waiting = models.session(toolModel, tools = endless)
            waiting.stream(SUM, options).first { it is Event.Calls }
            check("85" in models.session(toolModel).respond(SUM, greedy).text, "the answer after it")
            waiting.respond(SUM, greedy.copy(maxTokens = 20, toolChoice = ToolChoice.None))
            check(waiting.transcript.size == 2, waiting.transcript)
            // And one whose session is closed.
            coroutineScope {
                val closed = models.session(toolModel, tools = endless)
                var end: Event? = null
                val job = launch(Dispatchers.Default) {
                    closed.stream(SUM, options).collect {
                        if (it is Event.Calls) closed.close()
                        end = it
                    }
                }
                job.join()
                check((end as Event.Finished).answer.finishReason == ai.knapsack.FinishReason.CANCELLED, end)
            }
        }
    },
    "thoughts are apart and have a budget" to {
        openTools().use { models ->
            val chat = models.session(toolModel)
            val events = chat.stream(SUM, greedy.copy(maxTokens = 60, thinking = true, maxThinkingTokens = 5)).toList()
            val thoughts = events.filterIsInstance<Event.Thinking>().joinToString("") { it.text }
            val text = events.filterIsInstance<Event.Text>().joinToString("") { it.text }
            val answer = (events.last() as Event.Finished).answer
            check(answer.reasoning == thoughts && answer.text == text && thoughts.isNotEmpty() && text.isNotEmpty(), answer)
            check(answer.usage.thinkingTokens >= 5, answer.usage)
            check(chat.transcript.last() == Message(Role.ASSISTANT, text, thoughts), chat.transcript)
            chat.reset()
            val off = chat.respond(SUM, greedy.copy(thinking = false))
            check("85" in off.text && off.reasoning.isEmpty(), off)
        }
        open().use { models ->
            fails<KnapsackError.InvalidOption> { models.session(model).respond(SUM, greedy.copy(thinking = true)) }
        }
    },
    "sampling options reach the model" to {
        open().use { models ->
            val chat = models.session(model)
            suspend fun ask(options: GenerationOptions) = chat.run {
                reset()
                respond(SUM, options)
            }
            val likely = ask(greedy).text
            val hot = GenerationOptions(temperature = 1.5f)
            // Each of these leaves only the likeliest token.
            for (options in listOf(hot.copy(topK = 1), hot.copy(topP = 0f), hot.copy(minP = 1f))) check(ask(options).text == likely, options)
            val probable = ask(greedy.copy(logProbs = 2))
            check(probable.tokens.size == probable.usage.generatedTokens, probable)
            check(probable.tokens.joinToString("") { it.chosen.text } == likely, probable)
            check(probable.tokens.all { it.top.size == 2 && it.chosen.logProb <= 0 && it.top[0] == it.chosen }, probable)
            check(ask(greedy.copy(maxTokens = 1, logitBias = mapOf(1023 to 100f))).text.isEmpty(), "biased to the end")
            val ended = ask(greedy.copy(logitBias = mapOf(5 to 100f), stopTokens = listOf(5)))
            check(ended.usage.generatedTokens == 0, ended)
            fails<KnapsackError.InvalidOption> { ask(GenerationOptions(minP = 2f)) }
            fails<KnapsackError.InvalidOption> { GenerationOptions(logitBias = mapOf(1 to Float.NaN)) }
            fails<KnapsackError.InvalidOption> { GenerationOptions(maxThinkingTokens = -1) }
        }
    },
    "whatever an app says reaches the model" to {
        openTools().use { models ->
            val text = "\"\\ \n\r\t\u0000\u001f é 🦀 </script>"
            val chat = models.session(toolModel, history = listOf(Message(Role.USER, text), Message(Role.ASSISTANT, text, text)))
            check(chat.respond(text, greedy.copy(maxTokens = 5, stop = listOf(text))).usage.promptTokens > 20, "the prompt")
        }
    },
)
