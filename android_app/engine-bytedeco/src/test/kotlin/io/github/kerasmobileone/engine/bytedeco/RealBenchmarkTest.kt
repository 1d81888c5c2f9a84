package io.github.kerasmobileone.engine.bytedeco

import io.github.kerasmobileone.core.Accelerator
import io.github.kerasmobileone.core.Benchmark
import io.github.kerasmobileone.core.Candidate
import io.github.kerasmobileone.core.Failure
import io.github.kerasmobileone.core.Json
import io.github.kerasmobileone.core.Settings
import io.github.kerasmobileone.core.runBenchmark
import java.io.File
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir

/** The whole protocol with real models. */
class RealBenchmarkTest {
    private val engine = BytedecoEngine()

    @Test
    fun `models are measured, compared and stored`(@TempDir directory: File) {
        val models = models()
        val candidates = models.flatMap { file -> listOf(1, 2).map { Candidate(file, engine, Accelerator.CPU, it) } }
        val result = runBenchmark(candidates, Settings(runs = 5, rounds = 2, warmupRuns = 1))
        assertEquals(emptyList<Failure>(), result.failures)
        assertEquals(candidates.size, result.latencies.size)
        for (latency in result.latencies) {
            assertTrue(latency.minimum > 0.05 && latency.minimum <= latency.median && latency.median <= latency.p95, "$latency")
            assertEquals(2, latency.medians.size)
        }
        val configurations = (result.conditions["configurations"] as Map<*, *>).values.map { it as Map<*, *> }
        for (configuration in configurations) {
            assertEquals("cpu", configuration["ran_on"])
            assertTrue((configuration["difference"] as Double) < 1e-4, "$configuration")
        }
        val file = File(directory, "result.json")
        result.save(file)
        val stored = Benchmark.parse(file.readText())
        assertEquals(result.latencies, stored.latencies)
        assertEquals(Json.parse(result.toJson()), Json.parse(stored.toJson()))
    }

    @Test
    fun `a file of operators that the runtime lacks fails, the others are measured`() {
        val candidates = listOf("custom", "add", "open").map { Candidate(fixture("files/$it.tflite"), engine, Accelerator.CPU, 1) }
        val result = runBenchmark(candidates, Settings(runs = 5, rounds = 2, warmupRuns = 1))
        assertEquals(listOf("add.tflite"), result.latencies.map { it.path })
        assertEquals(setOf("custom.tflite", "open.tflite"), result.failures.map { it.path }.toSet())
    }
}
