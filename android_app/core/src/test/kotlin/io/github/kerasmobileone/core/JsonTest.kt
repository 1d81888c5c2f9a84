package io.github.kerasmobileone.core

import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertThrows
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Test

class JsonTest {
    @Test
    fun `values survive writing and reading`() {
        val value = mapOf(
            "text" to "größe \"b\", \\ 模型 🐈 \u0000\n\t\u007f",
            "numbers" to listOf(0L, -3L, Long.MAX_VALUE, 1.5, 1e-300, -0.1),
            "rest" to listOf(true, false, null, emptyMap<String, Any>(), emptyList<Any>()),
        )
        assertEquals(value, Json.parse(Json.write(value)))
    }

    @Test
    fun `written text is plain ASCII with line breaks`() {
        val text = Json.write(linkedMapOf("ä" to listOf(1, 2.0), "b" to emptyList<Int>()))
        assertEquals("{\n  \"\\u00e4\": [\n    1,\n    2.0\n  ],\n  \"b\": []\n}\n", text)
    }

    @Test
    fun `what JSON does not have becomes null`() {
        assertEquals("[\n  null,\n  null,\n  null\n]\n", Json.write(listOf(Double.NaN, Double.POSITIVE_INFINITY, Float.NaN)))
        assertThrows(IllegalArgumentException::class.java) { Json.write(Any()) }
    }

    @Test
    fun `space and escapes are read`() {
        assertEquals(mapOf("a/b" to listOf(1L, "\b\u000C\r\t/é")), Json.parse(" {\"a\\/b\" :\r\n[ 1 ,\"\\b\\f\\r\\t\\/\\u00E9\" ]\t} "))
    }

    @Test
    fun `what is no JSON is refused in one sentence`() {
        val texts = listOf(
            "", " ", "{", "[1,", "[1 2]", "[1,]", "{\"a\"}", "{\"a\":}", "{a:1}", "{\"a\":1,}", "\"a", "\"\n\"", "\"\\x\"",
            "\"\\u12g4\"", "\"\\u12", "01", "1.", ".5", "+1", "-", "1e", "1e999", "NaN", "Infinity", "-Infinity", "nul",
            "tru", "[] []", "'a'", "{\"a\":1}}", "\u0000", "[".repeat(200) + "]".repeat(200), "[".repeat(1_000_000),
        )
        for (text in texts) {
            val error = assertThrows(FormatException::class.java, { Json.parse(text) }, text.take(20))
            assertTrue(Regex("[^\n]*\\.").matches(error.message.orEmpty()), error.message)
        }
    }

    @Test
    fun `the place of an error is told`() {
        val error = assertThrows(FormatException::class.java) { Json.parse("[\n1,\nx]") }
        assertEquals("The text is no JSON: expected a value in line 3, at character 6.", error.message)
    }
}
