package ai.knapsack.internal

import ai.knapsack.AnswerForm
import ai.knapsack.GenerationOptions
import ai.knapsack.Message
import ai.knapsack.TokenLogProb
import ai.knapsack.Tool
import ai.knapsack.ToolCall
import ai.knapsack.ToolChoice

/** The request for the next step of an answer. [first]: no tool was called in it yet. */
internal fun GenerationOptions.request(messages: List<Message>, tools: List<Tool>, first: Boolean): String {
    val choice = if (first) toolChoice else ToolChoice.Auto
    val given = tools.takeIf { it.isNotEmpty() && choice != ToolChoice.None }
    val form = when (val form = form) {
        null -> null
        AnswerForm.Json -> "response_format" to fields("type" to "json_object")
        is AnswerForm.OfSchema -> "json_schema" to form.schema.value
        is AnswerForm.Regex -> "regex" to form.pattern
        is AnswerForm.Grammar -> "grammar" to form.text
    }
    return json(
        fields(
            "messages" to messages.map { it.json },
            "max_tokens" to maxTokens,
            "max_thinking_tokens" to maxThinkingTokens,
            "temperature" to temperature,
            "top_k" to topK,
            "top_p" to topP,
            "min_p" to minP,
            "repetition_penalty" to repetitionPenalty,
            "presence_penalty" to presencePenalty,
            "frequency_penalty" to frequencyPenalty,
            "logit_bias" to logitBias.takeIf { it.isNotEmpty() },
            "seed" to seed,
            "stop" to stop.takeIf { it.isNotEmpty() },
            "stop_token_ids" to stopTokens.takeIf { it.isNotEmpty() },
            "logprobs" to logProbs?.let { true },
            "top_logprobs" to logProbs,
            "chat_template_kwargs" to thinking?.let { fields("enable_thinking" to it) },
            "tools" to given?.map { it.json },
            "tool_choice" to given?.let { choice.json },
            "parallel_tool_calls" to given?.let { parallelToolCalls },
            *listOfNotNull(form).toTypedArray(),
        ),
    )
}

private val ToolChoice.json: Any
    get() = when (this) {
        ToolChoice.Auto -> "auto"
        ToolChoice.None -> "none"
        ToolChoice.Required -> "required"
        is ToolChoice.Named -> fields("type" to "function", "function" to fields("name" to name))
    }

/** A call as the runtime writes it. */
internal fun toolCall(text: String): ToolCall {
    val call = parse(text) as Map<*, *>
    val function = call["function"] as Map<*, *>
    return ToolCall(call["id"] as String, function["name"] as String, function["arguments"] as String)
}

/** A token as the runtime writes it. */
internal fun tokenLogProb(text: String): TokenLogProb {
    fun candidate(value: Any?) = (value as Map<*, *>).let { TokenLogProb.Candidate(it["token"] as String, it["logprob"] as Double) }
    val token = parse(text) as Map<*, *>
    return TokenLogProb(candidate(token), (token["top_logprobs"] as List<*>).map(::candidate))
}
