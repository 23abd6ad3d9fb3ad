package ai.knapsack

import ai.knapsack.internal.Written
import ai.knapsack.internal.fields

/**
 * A JSON Schema: the form of an answer, or of the arguments of a tool.
 *
 * ```kotlin
 * val book = Schema.obj("title" to Schema.string(maxLength = 80), "pages" to Schema.integer(1, 5000), "kind" to Schema.oneOf("novel", "poems"))
 * ```
 *
 * The model fills an object in the order of its properties. What a schema asks for and no token mask can ensure is refused before
 * anything is generated: [KnapsackError.InvalidOption] names it.
 */
class Schema private constructor(internal val value: Any) {
    /** As JSON. */
    override fun toString(): String = ai.knapsack.internal.json(value)

    override fun equals(other: Any?): Boolean = other is Schema && other.toString() == toString()

    override fun hashCode(): Int = toString().hashCode()

    /** The same, or null. */
    fun orNull(): Schema = anyOf(this, Schema(fields("type" to "null")))

    companion object {
        /** A schema as its JSON text (draft 2020-12). */
        @JvmStatic
        fun json(text: String): Schema = Schema(Written(text))

        /** Text. [pattern] is a regular expression, [format] one of JSON Schema's, such as `date`. */
        @JvmStatic
        @JvmOverloads
        fun string(minLength: Int? = null, maxLength: Int? = null, pattern: String? = null, format: String? = null): Schema =
            Schema(
                fields("type" to "string", "minLength" to minLength, "maxLength" to maxLength, "pattern" to pattern, "format" to format),
            )

        /** A whole number. */
        @JvmStatic
        @JvmOverloads
        fun integer(minimum: Long? = null, maximum: Long? = null): Schema =
            Schema(fields("type" to "integer", "minimum" to minimum, "maximum" to maximum))

        /** A number. */
        @JvmStatic
        @JvmOverloads
        fun number(minimum: Double? = null, maximum: Double? = null): Schema =
            Schema(fields("type" to "number", "minimum" to minimum, "maximum" to maximum))

        @JvmStatic
        fun boolean(): Schema = Schema(fields("type" to "boolean"))

        /** One of these texts. */
        @JvmStatic
        fun oneOf(vararg values: String): Schema = Schema(fields("enum" to values.asList()))

        /** A list. */
        @JvmStatic
        @JvmOverloads
        fun array(items: Schema, minItems: Int? = null, maxItems: Int? = null): Schema =
            Schema(fields("type" to "array", "items" to items.value, "minItems" to minItems, "maxItems" to maxItems))

        /** An object with these properties and no others. */
        @JvmStatic
        fun obj(vararg properties: Pair<String, Schema>): Schema = obj(properties.toMap(LinkedHashMap()), emptySet())

        /** An object with these properties and no others; those that are [optional] may be left out. */
        @JvmStatic
        fun obj(properties: Map<String, Schema>, optional: Set<String>): Schema = Schema(
            fields(
                "type" to "object", "properties" to properties.mapValues { it.value.value },
                "required" to properties.keys.filter { it !in optional }, "additionalProperties" to false,
            ),
        )

        /** One of several. */
        @JvmStatic
        fun anyOf(vararg schemas: Schema): Schema = Schema(fields("anyOf" to schemas.map { it.value }))
    }
}

/**
 * A type that an answer can have: its schema, and how a value is read. Whatever the schema allows must be read.
 *
 * The artifact for kotlinx.serialization makes one of any serializable class.
 */
class Structured<T>(val schema: Schema, val decode: (String) -> T)

/** The form of an answer. */
sealed interface AnswerForm {
    /** Any JSON object. */
    data object Json : AnswerForm

    /** JSON of a schema. */
    data class OfSchema(val schema: Schema) : AnswerForm

    /** Text that a regular expression matches as a whole. */
    data class Regex(val pattern: String) : AnswerForm

    /** A grammar: Lark as llguidance reads it, or llama.cpp's GBNF. */
    data class Grammar(val text: String) : AnswerForm
}
