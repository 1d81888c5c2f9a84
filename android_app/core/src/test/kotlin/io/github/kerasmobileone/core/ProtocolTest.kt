package io.github.kerasmobileone.core

import java.io.File
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertFalse
import org.junit.jupiter.api.Assertions.assertThrows
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir

/** The order of what happens, failures and cancelling. */
class ProtocolTest {
    @TempDir
    lateinit var directory: File

    private val a by lazy { smallModel(directory, "a.tflite") }
    private val b by lazy { smallModel(directory, "b.tflite") }
    private val settings = Settings(runs = 3, rounds = 2, warmupRuns = 2)

    private fun Engine.candidate(file: File, accelerator: Accelerator = Accelerator.CPU, threads: Int = 1) =
        Candidate(file, this, accelerator, threads)

    @Test
    fun `candidates take turns, each freshly loaded and warmed up`() {
        val engine = FakeEngine()
        runBenchmark(listOf(engine.candidate(a, threads = 4), engine.candidate(b)), settings)
        val references = listOf("a", "b").flatMap { listOf("load $it cpu 1", "run", "close") }
        val rounds = List(2) {
            listOf("a cpu 4", "b cpu 1").flatMap { listOf("load $it") + List(2 + 3) { "run" } + "close" }
        }
        assertEquals(references + rounds.flatten(), engine.events)
        assertEquals(0, engine.open)
    }

    @Test
    fun `the timed runs are counted and the warm-up is not`() {
        // The warm-up takes long; the timed runs are made longer one by one.
        val engine = FakeEngine { run ->
            Thread.sleep(if (run.load == 1 && run.run in 1..2) 400L else if (run.run > 2) 5L * (run.run - 2) else 0L)
            floatArrayOf(1f)
        }
        val latency = runBenchmark(listOf(engine.candidate(a, threads = 2)), settings.copy(rounds = 1)).latencies.single()
        assertTrue(latency.minimum >= 5 && latency.median >= 10, "$latency")
        assertTrue(latency.p95 < 400, "$latency")
    }

    @Test
    fun `loading is timed apart from the runs`() {
        val engine = FakeEngine { run -> if (run.run == 0) Thread.sleep(300); floatArrayOf(1f) }
        val latency = runBenchmark(listOf(engine.candidate(a)), settings).latencies.single()
        assertTrue(latency.initialization >= 300, "$latency")
        assertTrue(latency.p95 < 300, "$latency")
    }

    @Test
    fun `everything happens on one thread`() {
        val engine = FakeEngine()
        runBenchmark(listOf(engine.candidate(a), engine.candidate(a, Accelerator.GPU_FP16)), settings)
        assertEquals(setOf(Thread.currentThread()), engine.threads)
    }

    @Test
    fun `all runs have the same input, which is random`() {
        val engine = FakeEngine()
        runBenchmark(listOf(engine.candidate(a), engine.candidate(a, Accelerator.GPU_FP16)), settings)
        val input = engine.inputs.distinct().single()
        assertEquals(input.size, input.distinct().size)
        assertTrue(input.all { it in -1f..1f } && input.any { it < 0 } && input.any { it > 0 }, "$input")
    }

    @Test
    fun `the result describes how it was measured`() {
        val engine = FakeEngine(ranOn = { if (it.load == 2) Accelerator.CPU else it.accelerator })
        val candidates = listOf(engine.candidate(a), engine.candidate(a, Accelerator.GPU_FP16, 4), engine.candidate(b))
        val result = runBenchmark(candidates, settings)
        assertEquals(listOf("a.tflite (cpu, 1 thread)", "a.tflite (gpu-fp16, 4 threads)", "b.tflite"), result.latencies.map { it.path })
        assertEquals(listOf(356L, 356L, 356L), result.latencies.map { it.bytes })
        assertEquals(listOf(2, 2, 2), result.latencies.map { it.medians.size })
        val rest = mapOf(
            "engine" to "fake-1", "engine_version" to "1.0", "threads" to listOf(1, 4), "runs" to 3,
            "warmup_runs" to 2, "batch" to 1, "rounds" to 2,
        )
        assertEquals(rest, result.conditions - "configurations")
        val gpu = mapOf(
            "file" to "a.tflite", "engine" to "fake-1", "accelerator" to "gpu-fp16", "threads" to 4,
            "ran_on" to "cpu", "difference" to 0.0,
        )
        val configurations = result.conditions["configurations"] as Map<*, *>
        assertEquals(result.latencies.map { it.path }, configurations.keys.toList())
        assertEquals(gpu, configurations["a.tflite (gpu-fp16, 4 threads)"])
        assertEquals(result.latencies, Benchmark.parse(result.toJson()).latencies)
    }

    @Test
    fun `runtimes and directories are told apart`() {
        val (one, other) = FakeEngine("one") to FakeEngine("other")
        val twin = smallModel(File(directory, "sub").apply { mkdir() }, "b.tflite")
        val labels = labelsOf(listOf(one.candidate(a), other.candidate(a), one.candidate(b), one.candidate(twin)))
        assertEquals(listOf("a.tflite (cpu, 1 thread, one)", "a.tflite (cpu, 1 thread, other)", b.path, twin.path), labels)
    }

    @Test
    fun `a listener hears of every round`() {
        val heard = mutableListOf<String>()
        val engine = FakeEngine { if (it.file == b && it.load == 2 && it.run == 0) throw EngineException("No.") else floatArrayOf(1f) }
        val listener = object : Listener {
            override fun onRound(candidate: Candidate, round: Int) { heard += "round $round of ${candidate.file.name}" }
            override fun onMeasured(candidate: Candidate, done: Int, total: Int, round: Round) { heard += "$done/$total" }
            override fun onFailed(candidate: Candidate, done: Int, total: Int, message: String) { heard += "$done/$total $message" }
        }
        // The first load of b takes the reference.
        runBenchmark(listOf(engine.candidate(b), engine.candidate(a)), settings, listener)
        val expected = listOf("round 1 of b.tflite", "2/4 No.", "round 1 of a.tflite", "3/4", "round 2 of a.tflite", "4/4")
        assertEquals(expected, heard)
    }

    @Test
    fun `a candidate that fails does not disturb the others`() {
        val engine = FakeEngine {
            val wrong = it.accelerator == Accelerator.GPU_FP16 && it.load == 2 && it.run == 4
            if (wrong) throw EngineException("The driver\n  gave up.") else floatArrayOf(1f)
        }
        val result = runBenchmark(listOf(engine.candidate(a, Accelerator.GPU_FP16), engine.candidate(a)), settings)
        assertEquals(listOf(Failure("a.tflite (gpu-fp16, 1 thread)", "The driver gave up.")), result.failures)
        assertEquals(listOf("a.tflite (cpu, 1 thread)"), result.latencies.map { it.path })
        assertEquals(2, result.latencies.single().medians.size)
        assertEquals(0, engine.open)
    }

    @Test
    fun `an unusable file is told once`() {
        val broken = File(directory, "broken.tflite").apply { writeText("not a model") }
        val engine = FakeEngine()
        val candidates = listOf(engine.candidate(broken), engine.candidate(broken, threads = 4), engine.candidate(a))
        val result = runBenchmark(candidates, settings)
        assertEquals(listOf(Failure("broken.tflite", "The file is no TFLite file: it lacks the identifier TFL3.")), result.failures)
        assertEquals(listOf("a.tflite"), result.latencies.map { it.path })
        assertTrue(engine.events.none { "broken" in it })
    }

    @Test
    fun `a runtime that fails everywhere gives failures alone`() {
        val engine = FakeEngine { throw EngineException("No operators.") }
        val result = runBenchmark(listOf(engine.candidate(a)), settings)
        assertEquals(listOf(Failure("a.tflite", "No operators.")), result.failures)
        assertEquals(emptyList<Latency>(), result.latencies)
    }

    @Test
    fun `an error of the program itself is not hidden, and nothing stays open`() {
        val engine = FakeEngine { check(it.run < 2); floatArrayOf(1f) }
        assertThrows(IllegalStateException::class.java) { runBenchmark(listOf(engine.candidate(a)), settings) }
        assertEquals(0, engine.open)
    }

    @Test
    fun `cancelling keeps the rounds that all candidates have completed`() {
        var measured = 0
        val engine = FakeEngine()
        val listener = object : Listener {
            override fun onMeasured(candidate: Candidate, done: Int, total: Int, round: Round) { measured = done }
        }
        val candidates = listOf(engine.candidate(a), engine.candidate(b))
        val result = runBenchmark(candidates, settings.copy(rounds = 9), listener) { measured == 5 }
        assertEquals(listOf(2, 2), result.latencies.map { it.medians.size })
        assertEquals(2, result.conditions["rounds"])
        assertEquals(2, result.ratios.size)
        assertEquals(0, engine.open)
    }

    @Test
    fun `cancelling is noticed between single runs`() {
        for (limit in 0..12) {
            val engine = FakeEngine()
            val result = runBenchmark(listOf(engine.candidate(a)), Settings(100, 3, 5)) {
                engine.events.count { it == "run" } >= limit
            }
            assertEquals(limit, engine.events.count { it == "run" })
            assertEquals(emptyList<Latency>(), result.latencies)
            assertEquals(0, engine.open)
        }
    }

    @Test
    fun `impossible settings are refused`() {
        for (change in listOf<() -> Any>({ Settings(runs = 0) }, { Settings(rounds = 0) }, { Settings(warmupRuns = -1) })) {
            assertThrows(IllegalArgumentException::class.java) { change() }
        }
        val candidate = FakeEngine().candidate(a)
        for (candidates in listOf(emptyList(), listOf(candidate, candidate), listOf(candidate.copy(threads = 0)))) {
            assertThrows(IllegalArgumentException::class.java) { runBenchmark(candidates, settings) }
        }
        assertFalse(runBenchmark(listOf(candidate), Settings(1, 1, 0)).latencies.isEmpty())
    }
}
