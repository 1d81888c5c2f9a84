package io.github.kerasmobileone.core

/** What is wrong with a text that should be JSON or a stored result, in one sentence. */
class FormatException(message: String) : Exception(message)

/**
 * Reads and writes JSON as maps, lists, strings, `Double`, `Long`, `Boolean` and null.
 *
 * It is part of this module because Android has `org.json` and the JVM that tests it has not.
 */
object Json {
    /** Deepest nesting that is read, so that a hostile text cannot exhaust the stack. */
    private const val MAXIMUM_DEPTH = 100

    /**
     * Writes a value with an indentation of two spaces and a line break at the end.
     *
     * Infinity and NaN, which JSON does not have, become null.
     */
    fun write(value: Any?): String = StringBuilder().also { put(it, value, "\n") }.append('\n').toString()

    /**
     * Parses a text. An object becomes a map in the order of its names.
     *
     * @throws FormatException if the text is not JSON.
     */
    fun parse(text: String): Any? = Parser(text).parse()

    private fun put(target: StringBuilder, value: Any?, lineBreak: String) {
        when (value) {
            null -> target.append("null")
            is Boolean, is Int, is Long -> target.append(value)
            is Number -> putNumber(target, value.toDouble())
            is String -> putString(target, value)
            is Map<*, *> -> putItems(target, value.entries, '{', '}', lineBreak) { (name, item), inner ->
                putString(target, name.toString())
                target.append(": ")
                put(target, item, inner)
            }
            is Iterable<*> -> putItems(target, value.toList(), '[', ']', lineBreak) { item, inner ->
                put(target, item, inner)
            }
            else -> throw IllegalArgumentException("JSON has no ${value.javaClass.name}.")
        }
    }

    private fun putNumber(target: StringBuilder, value: Double) {
        if (value.isNaN() || value.isInfinite()) target.append("null") else target.append(value)
    }

    private fun <T> putItems(
        target: StringBuilder, items: Collection<T>, open: Char, close: Char, lineBreak: String,
        putItem: (T, String) -> Unit,
    ) {
        val inner = "$lineBreak  "
        target.append(open)
        items.forEachIndexed { index, item ->
            target.append(if (index == 0) inner else ",$inner")
            putItem(item, inner)
        }
        target.append(if (items.isEmpty()) "" else lineBreak).append(close)
    }

    private fun putString(target: StringBuilder, text: String) {
        target.append('"')
        for (character in text) {
            when (character) {
                '"', '\\' -> target.append('\\').append(character)
                '\n' -> target.append("\\n")
                in ' '..'~' -> target.append(character)
                else -> target.append("\\u").append(character.code.toString(16).padStart(4, '0'))
            }
        }
        target.append('"')
    }

    private class Parser(private val text: String) {
        private var position = 0

        fun parse(): Any? {
            val value = value(0)
            skipSpace()
            if (position < text.length) fail("the end")
            return value
        }

        private fun value(depth: Int): Any? {
            if (depth > MAXIMUM_DEPTH) fail("no more than $MAXIMUM_DEPTH nested values")
            skipSpace()
            return when (text.getOrNull(position)) {
                '{' -> items('}', linkedMapOf<String, Any?>()) { put(name(), value(depth + 1)) }
                '[' -> items(']', mutableListOf<Any?>()) { add(value(depth + 1)) }
                '"' -> string()
                't' -> word("true", true)
                'f' -> word("false", false)
                'n' -> word("null", null)
                else -> number()
            }
        }

        /** Reads what stands between two brackets and is separated by commas. */
        private fun <T> items(close: Char, found: T, readItem: T.() -> Unit): T {
            position++
            skipSpace()
            if (text.getOrNull(position) == close) {
                position++
                return found
            }
            while (true) {
                found.readItem()
                skipSpace()
                when (text.getOrNull(position++)) {
                    close -> return found
                    ',' -> continue
                    else -> failAt(position - 1, "',' or '$close'")
                }
            }
        }

        private fun name(): String {
            skipSpace()
            if (text.getOrNull(position) != '"') fail("a name in quotation marks")
            val name = string()
            skipSpace()
            if (text.getOrNull(position) != ':') fail("':'")
            position++
            return name
        }

        private fun string(): String {
            val found = StringBuilder()
            position++
            while (true) {
                val character = text.getOrNull(position++) ?: failAt(text.length, "the end of a string")
                when {
                    character == '"' -> return found.toString()
                    character == '\\' -> found.append(escaped())
                    character < ' ' -> failAt(position - 1, "no control character")
                    else -> found.append(character)
                }
            }
        }

        private fun escaped(): Char = when (val character = text.getOrNull(position++)) {
            '"', '\\', '/' -> character
            'b' -> '\b'
            'f' -> '\u000C'
            'n' -> '\n'
            'r' -> '\r'
            't' -> '\t'
            'u' -> {
                val digits = text.substring(position, minOf(position + 4, text.length))
                if (!HEXADECIMAL.matches(digits)) fail("four hexadecimal digits")
                position += 4
                digits.toInt(16).toChar()
            }
            else -> failAt(position - 1, "an escape sequence")
        }

        private fun word(word: String, value: Any?): Any? {
            if (!text.startsWith(word, position)) fail("a value")
            position += word.length
            return value
        }

        private fun number(): Any {
            val start = position
            while (position < text.length && text[position] in "+-.0123456789Ee") position++
            val digits = text.substring(start, position)
            if (!NUMBER.matches(digits)) failAt(start, "a value")
            val whole = if (digits.any { it in ".eE" }) null else digits.toLongOrNull()
            return whole ?: digits.toDouble().also { if (it.isInfinite()) failAt(start, "a smaller number") }
        }

        private fun skipSpace() {
            while (position < text.length && text[position] in " \t\r\n") position++
        }

        private fun fail(expected: String): Nothing = failAt(position, expected)

        private fun failAt(place: Int, expected: String): Nothing {
            val line = text.take(place).count { it == '\n' } + 1
            throw FormatException("The text is no JSON: expected $expected in line $line, at character ${place + 1}.")
        }
    }

    private val HEXADECIMAL = Regex("[0-9A-Fa-f]{4}")
    private val NUMBER = Regex("-?(0|[1-9][0-9]*)(\\.[0-9]+)?([eE][+-]?[0-9]+)?")
}
