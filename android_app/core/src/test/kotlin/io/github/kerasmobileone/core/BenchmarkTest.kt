package io.github.kerasmobileone.core

import java.io.File
import java.io.IOException
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertThrows
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir

class BenchmarkTest {
    private val benchmark = Benchmark(
        latencies = listOf(
            Latency("a.tflite (cpu, 4 threads)", 3_000_000_000, 2.0, 4.0, 1.5, 30.0, 3.0, 2.1, listOf(1.9, 2.0, 2.2)),
            Latency("b, \"ü\".tflite", 12, 1.0, 2.0, 0.5, 10.0, medians = listOf(1.0, 1.0, 1.0)),
        ),
        conditions = mapOf("target" to "android-app", "threads" to listOf(1L, 4L), "headroom" to null, "batch" to 1L),
        failures = listOf(Failure("c.tflite", "It has no inputs.")),
    )

    @Test
    fun `JSON survives a round trip`() {
        assertEquals(benchmark, Benchmark.parse(benchmark.toJson()))
    }

    @Test
    fun `JSON is that of the Python package`() {
        val text = Fixtures.file("result.json").readText()
        val found = Benchmark.parse(text)
        assertEquals(2, found.latencies.size)
        assertEquals(Json.parse(text), Json.parse(found.toJson()))
        assertEquals(Json.parse(text)["ratios"].numbers(), found.ratios)
        val names = { json: String -> Regex("^ {0,6}\"(\\w+)\":", RegexOption.MULTILINE).findAll(json).map { it.value }.toList() }
        assertEquals(names(text), names(found.toJson()), "order of the fields")
    }

    @Test
    fun `the empty result has no ratios`() {
        val empty = Benchmark(emptyList(), emptyMap())
        assertEquals(emptyList<Double>(), empty.ratios)
        assertEquals(empty, Benchmark.parse(empty.toJson()))
    }

    @Test
    fun `CSV has a row for each latency`() {
        val (header, first, second) = parseCsv(benchmark.toCsv())
        assertEquals("path,bytes,median,p95,minimum,initialization,p90,trimmed,ratio,medians", header.joinToString(","))
        assertEquals(listOf("a.tflite (cpu, 4 threads)", "3000000000", "2.0", "4.0", "1.5", "30.0", "3.0", "2.1", "1.0", "1.9 2.0 2.2"), first)
        assertEquals(listOf("b, \"ü\".tflite", "12", "1.0", "2.0", "0.5", "10.0", "", "", "0.5", "1.0 1.0 1.0"), second)
        assertEquals(3, parseCsv(benchmark.toCsv()).size)
    }

    /** Reads RFC 4180 without line breaks inside of cells. */
    private fun parseCsv(text: String): List<List<String>> = text.removeSuffix("\r\n").split("\r\n").map { line ->
        Regex("(?:^|,)(?:\"((?:[^\"]|\"\")*)\"|([^,]*))").findAll(line).map { match ->
            match.groups[1]?.value?.replace("\"\"", "\"") ?: match.groupValues[2]
        }.toList()
    }

    @Test
    fun `a file is replaced as a whole`(@TempDir directory: File) {
        val file = File(directory, "result.json")
        file.writeText("old")
        benchmark.save(file)
        assertEquals(benchmark, Benchmark.parse(file.readText()))
        assertEquals(listOf("result.json"), directory.list()?.toList())
    }

    @Test
    fun `a failed save leaves the old file and nothing else`(@TempDir directory: File) {
        val file = File(directory, "result.json")
        file.writeText("old")
        assertThrows(IllegalArgumentException::class.java) { benchmark.copy(conditions = mapOf("a" to Any())).save(file) }
        assertEquals("old", file.readText())
        assertEquals(listOf("result.json"), directory.list()?.toList())
        assertThrows(IOException::class.java) { benchmark.save(File(directory, "missing/result.json")) }
        val occupied = File(directory, "occupied.json").apply { mkdir() }
        File(occupied, "inside").writeText("")
        assertThrows(IOException::class.java) { benchmark.save(occupied) }
        assertEquals(setOf("result.json", "occupied.json"), directory.list()?.toSet())
    }

    private fun refusal(text: String): String {
        val message = assertThrows(FormatException::class.java, { Benchmark.parse(text) }, text).message.orEmpty()
        assertTrue(Regex("[^\n]*\\.").matches(message), message)
        return message
    }

    @Test
    fun `what is no result is refused`() {
        val beginning = "The file is no stored benchmark of format 1: "
        assertTrue(refusal("not JSON").startsWith("The text is no JSON"))
        assertEquals(beginning + "it is no JSON object.", refusal("[]"))
        assertEquals(beginning + "it has no format number.", refusal("{}"))
        assertEquals(beginning + "it has format 2.", refusal(benchmark.toJson().replace("\"format\": 1", "\"format\": 2")))
        assertEquals(beginning + "'latencies' is missing or is no list.", refusal("{\"format\": 1}"))
    }

    @Test
    fun `missing, wrong and unknown parts are refused`() {
        val json = benchmark.toJson()
        val changes = listOf(
            "\"conditions\": {" to "\"conditions\": 1, \"x\": {",
            "\"failures\": [" to "\"failures\": {}, \"x\": [",
            "\"message\"" to "\"text\"",
            "\"path\": \"a" to "\"path\": 1, \"x\": \"a",
            "\"bytes\": 12" to "\"bytes\": 1.5",
            "\"bytes\": 12" to "\"bytes\": -12",
            "\"median\": 2.0" to "\"median\": null",
            "\"median\": 2.0" to "\"median\": \"2.0\"",
            "\"minimum\": 1.5" to "\"minimum\": -1.5",
            "\"p95\": 4.0" to "\"p99\": 4.0",
            "\"p90\": 3.0" to "\"p90\": []",
            "\"medians\": [" to "\"medians\": [null,",
        )
        for ((old, new) in changes) {
            assertTrue(old in json, old)
            refusal(json.replaceFirst(old, new))
        }
    }

    @Test
    fun `optional fields may be missing`() {
        val json = benchmark.toJson().replaceFirst(Regex("\"p90\": 3.0,\\s+\"trimmed\": 2.1,\\s+\"medians\": \\[[^]]*]"), "\"p90\": null")
        val first = benchmark.latencies.first().copy(p90 = null, trimmed = null, medians = emptyList())
        assertEquals(first, Benchmark.parse(json).latencies.first())
    }
}
