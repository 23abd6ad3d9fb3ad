package ai.knapsack.internal

import ai.knapsack.KnapsackError

/** A value that is JSON already. */
internal class Written(val text: String)

/** The entries that have a value, in this order, which is the order in which a model fills a schema. */
internal fun fields(vararg entries: Pair<String, Any?>): Map<String, Any> = buildMap {
    for ((key, value) in entries) if (value != null) put(key, value)
}

/** JSON of null, booleans, finite numbers, text, lists, maps and what is [Written]. */
internal fun json(value: Any?): String = StringBuilder().also { write(value, it) }.toString()

private fun write(value: Any?, out: StringBuilder) {
    when (value) {
        null -> out.append("null")
        is Written -> out.append(value.text)
        is Boolean -> out.append(value)
        is Float -> number(value.isFinite(), value, out)
        is Double -> number(value.isFinite(), value, out)
        is Number -> out.append(value)
        is String -> quoted(value, out)
        is Map<*, *> -> {
            out.append('{')
            value.entries.forEachIndexed { index, (key, item) ->
                if (index > 0) out.append(',')
                quoted(key.toString(), out)
                out.append(':')
                write(item, out)
            }
            out.append('}')
        }
        is Iterable<*> -> {
            out.append('[')
            value.forEachIndexed { index, item ->
                if (index > 0) out.append(',')
                write(item, out)
            }
            out.append(']')
        }
        else -> throw IllegalArgumentException("no JSON of ${value.javaClass}")
    }
}

private fun number(finite: Boolean, value: Number, out: StringBuilder) {
    if (!finite) throw KnapsackError.InvalidOption("an option is $value")
    out.append(value)
}

private fun quoted(text: String, out: StringBuilder) {
    out.append('"')
    for (character in text) {
        when {
            character == '"' || character == '\\' -> out.append('\\').append(character)
            character == '\n' -> out.append("\\n")
            character < ' ' -> out.append("\\u").append(character.code.toString(16).padStart(4, '0'))
            else -> out.append(character)
        }
    }
    out.append('"')
}

/** Reads what the native side wrote: objects as maps, arrays as lists, numbers as [Double]. */
internal fun parse(text: String): Any? = Reader(text).run {
    val value = value()
    space()
    require(at == text.length) { "more than one value" }
    value
}

private class Reader(private val text: String) {
    var at = 0

    fun space() {
        while (at < text.length && text[at].isWhitespace()) at++
    }

    fun value(): Any? {
        space()
        require(at < text.length) { "no value" }
        return when (text[at]) {
            '{' -> items('}') {
                val key = string()
                space()
                take(':')
                key to value()
            }.toMap()
            '[' -> items(']') { value() }
            '"' -> string()
            't' -> word("true", true)
            'f' -> word("false", false)
            'n' -> word("null", null)
            else -> {
                val start = at
                while (at < text.length && (text[at].isLetterOrDigit() || text[at] in "+-.")) at++
                text.substring(start, at).toDouble()
            }
        }
    }

    private fun <T> items(end: Char, item: () -> T): List<T> {
        at++
        val found = mutableListOf<T>()
        space()
        while (text[at] != end) {
            if (found.isNotEmpty()) take(',')
            space()
            found += item()
            space()
        }
        at++
        return found
    }

    private fun string(): String {
        take('"')
        val found = StringBuilder()
        while (text[at] != '"') {
            var character = text[at++]
            if (character == '\\') {
                character = when (val escaped = text[at++]) {
                    'n' -> '\n'
                    't' -> '\t'
                    'r' -> '\r'
                    'b' -> '\b'
                    'f' -> '\u000c'
                    'u' -> text.substring(at, at + 4).toInt(16).toChar().also { at += 4 }
                    else -> escaped
                }
            }
            found.append(character)
        }
        at++
        return found.toString()
    }

    private fun take(character: Char) {
        require(text[at] == character) { "expected $character" }
        at++
    }

    private fun <T> word(word: String, value: T): T {
        require(text.startsWith(word, at)) { "expected $word" }
        at += word.length
        return value
    }
}
