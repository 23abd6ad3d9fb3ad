package ai.knapsack

import ai.knapsack.internal.fields

/**
 * Something that a model may call while it answers: a function of the app's.
 *
 * ```kotlin
 * val weather = Tool("get_weather", "The weather in a city.", Schema.obj("city" to Schema.string())) { arguments -> forecast(arguments) }
 * val chat = models.session("llama", tools = listOf(weather))
 * ```
 *
 * @property name 1 to 64 letters, digits, `_`, `-` or `.`
 * @property parameters the arguments; the model cannot write others
 * @property call gets the arguments as JSON text. What it returns is told to the model; what it throws ends the answer
 */
class Tool(val name: String, val description: String, val parameters: Schema, val call: suspend (arguments: String) -> String) {
    internal val json: Map<String, Any>
        get() = fields(
            "type" to "function",
            "function" to fields("name" to name, "description" to description, "parameters" to parameters.value),
        )

    companion object {
        /** A tool that gets its arguments as a value. */
        operator fun <A> invoke(name: String, description: String, arguments: Structured<A>, call: suspend (A) -> String): Tool =
            Tool(name, description, arguments.schema) { call(arguments.decode(it)) }

        /** A tool of a function that blocks, for Java. */
        @JvmStatic
        fun blocking(name: String, description: String, parameters: Schema, call: java.util.function.Function<String, String>): Tool =
            Tool(name, description, parameters) { call.apply(it) }
    }
}

/**
 * A call of a tool that the model asks for.
 *
 * @property name the tool's name
 * @property arguments JSON text
 */
data class ToolCall(val id: String, val name: String, val arguments: String) {
    internal val json: Map<String, Any>
        get() = fields("id" to id, "type" to "function", "function" to fields("name" to name, "arguments" to arguments))
}

/** Which tools the model may or must call, in its first step; later ones are its own choice. */
sealed interface ToolChoice {
    /** The model chooses between text and calls. */
    data object Auto : ToolChoice

    data object None : ToolChoice

    /** One or more tools are called. */
    data object Required : ToolChoice

    /** This tool is called. */
    data class Named(val name: String) : ToolChoice
}
