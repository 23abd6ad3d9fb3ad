@file:OptIn(ExperimentalSerializationApi::class)

package ai.knapsack.serialization

import ai.knapsack.ChatSession
import ai.knapsack.GenerationOptions
import ai.knapsack.Schema
import ai.knapsack.Structured
import ai.knapsack.Tool
import kotlinx.serialization.ExperimentalSerializationApi
import kotlinx.serialization.KSerializer
import kotlinx.serialization.descriptors.PolymorphicKind
import kotlinx.serialization.descriptors.PrimitiveKind
import kotlinx.serialization.descriptors.SerialDescriptor
import kotlinx.serialization.descriptors.SerialKind
import kotlinx.serialization.descriptors.StructureKind
import kotlinx.serialization.descriptors.elementDescriptors
import kotlinx.serialization.descriptors.elementNames
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.buildJsonObject
import kotlinx.serialization.serializer

/**
 * A serializable type as the form of an answer, or of the arguments of a tool: its schema follows from its descriptor. Properties with
 * a default may be left out; sealed classes have `type`, as kotlinx.serialization writes it.
 *
 * @throws IllegalArgumentException a type that has no schema of its own: an open polymorphic or contextual one, a map whose keys are
 *   no text
 */
inline fun <reified T> structured(): Structured<T> = structured(serializer<T>())

/** The same of a serializer. */
fun <T> structured(serializer: KSerializer<T>): Structured<T> =
    Structured(Schema.json(Writer().whole(serializer.descriptor).toString())) { Json.decodeFromString(serializer, it) }

/** The answer as a value of a serializable type. */
suspend inline fun <reified T> ChatSession.respondAs(prompt: String, options: GenerationOptions = GenerationOptions()): T =
    respond(prompt, structured<T>(), options)

/** A tool whose arguments are a serializable class. */
inline fun <reified A> tool(name: String, description: String, noinline call: suspend (A) -> String): Tool =
    Tool(name, description, structured<A>(), call)

/** Writes descriptors as JSON Schema. */
private class Writer {
    /** Classes that contain themselves, by name. */
    private val definitions = LinkedHashMap<String, JsonObject>()
    private val open = mutableSetOf<String>()
    private val recursive = mutableSetOf<String>()

    fun whole(descriptor: SerialDescriptor): JsonObject {
        val schema = schema(descriptor)
        return if (definitions.isEmpty()) schema else JsonObject(schema + ("\$defs" to JsonObject(definitions)))
    }

    private fun schema(descriptor: SerialDescriptor): JsonObject {
        if (!descriptor.isNullable) return plain(descriptor)
        return obj("anyOf" to JsonArray(listOf(plain(descriptor), type("null"))))
    }

    private fun plain(descriptor: SerialDescriptor): JsonObject = when (val kind = descriptor.kind) {
        PrimitiveKind.BOOLEAN -> type("boolean")
        PrimitiveKind.STRING -> type("string")
        PrimitiveKind.CHAR -> type("string", "minLength" to JsonPrimitive(1), "maxLength" to JsonPrimitive(1))
        PrimitiveKind.BYTE -> integer(Byte.MIN_VALUE.toLong(), Byte.MAX_VALUE.toLong())
        PrimitiveKind.SHORT -> integer(Short.MIN_VALUE.toLong(), Short.MAX_VALUE.toLong())
        PrimitiveKind.INT -> integer(Int.MIN_VALUE.toLong(), Int.MAX_VALUE.toLong())
        PrimitiveKind.LONG -> type("integer")
        PrimitiveKind.FLOAT, PrimitiveKind.DOUBLE -> type("number")
        SerialKind.ENUM -> obj("enum" to JsonArray(descriptor.elementNames.map { JsonPrimitive(it) }))
        StructureKind.LIST -> type("array", "items" to schema(descriptor.getElementDescriptor(0)))
        StructureKind.MAP -> {
            val key = descriptor.getElementDescriptor(0)
            require(key.kind == PrimitiveKind.STRING) { "${descriptor.serialName}: the keys of a map are text" }
            type("object", "additionalProperties" to schema(descriptor.getElementDescriptor(1)))
        }
        StructureKind.CLASS, StructureKind.OBJECT -> if (descriptor.isInline) inline(descriptor) else named(descriptor) { members(it, null) }
        PolymorphicKind.SEALED -> named(descriptor) { sealed(it) }
        else -> throw IllegalArgumentException("${descriptor.serialName} has no schema of its own ($kind)")
    }

    /** A value class is what it holds; Kotlin's unsigned numbers are among them. */
    private fun inline(descriptor: SerialDescriptor): JsonObject = when (descriptor.serialName) {
        "kotlin.UByte" -> integer(0, UByte.MAX_VALUE.toLong())
        "kotlin.UShort" -> integer(0, UShort.MAX_VALUE.toLong())
        "kotlin.UInt" -> integer(0, UInt.MAX_VALUE.toLong())
        "kotlin.ULong" -> type("integer", "minimum" to JsonPrimitive(0))
        else -> schema(descriptor.getElementDescriptor(0))
    }

    /** A class, or a reference where it contains itself. */
    private fun named(descriptor: SerialDescriptor, write: (SerialDescriptor) -> JsonObject): JsonObject {
        val name = descriptor.serialName.removeSuffix("?")
        val reference = obj("\$ref" to JsonPrimitive("#/\$defs/" + name.replace("~", "~0").replace("/", "~1")))
        if (name in definitions) return reference
        if (!open.add(name)) {
            recursive += name
            return reference
        }
        val schema = write(descriptor)
        open -= name
        if (name !in recursive) return schema
        definitions[name] = schema
        return reference
    }

    private fun members(descriptor: SerialDescriptor, discriminator: String?): JsonObject {
        val kind = discriminator?.let { mapOf("type" to obj("const" to JsonPrimitive(it))) }.orEmpty()
        val names = descriptor.elementNames.toList()
        val properties = names.mapIndexed { index, name -> name to schema(descriptor.getElementDescriptor(index)) }
        val required = names.filterIndexed { index, _ -> !descriptor.isElementOptional(index) }
        return type(
            "object", "properties" to JsonObject(kind + properties),
            "required" to JsonArray((kind.keys + required).map { JsonPrimitive(it) }), "additionalProperties" to JsonPrimitive(false),
        )
    }

    /** A sealed class describes `type` and, as one value, all its classes by name. */
    private fun sealed(descriptor: SerialDescriptor): JsonObject {
        val classes = descriptor.getElementDescriptor(1).elementDescriptors
        return obj("anyOf" to JsonArray(classes.map { members(it, it.serialName) }))
    }

    private fun integer(minimum: Long, maximum: Long) =
        type("integer", "minimum" to JsonPrimitive(minimum), "maximum" to JsonPrimitive(maximum))

    private fun type(name: String, vararg more: Pair<String, JsonElement>) =
        obj("type" to JsonPrimitive(name), *more)

    private fun obj(vararg entries: Pair<String, JsonElement>) =
        buildJsonObject { for ((key, value) in entries) put(key, value) }
}
