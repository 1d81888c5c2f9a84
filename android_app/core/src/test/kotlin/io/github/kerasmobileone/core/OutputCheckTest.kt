package io.github.kerasmobileone.core

import java.io.File
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertNull
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir

/** Whether wrong outputs of an accelerator are noticed. */
class OutputCheckTest {
    @TempDir
    lateinit var directory: File

    private val right = floatArrayOf(1f, -2f, 4f)

    /** The difference that a result tells for the GPU of an engine. */
    private fun difference(engine: FakeEngine, settings: Settings = Settings(runs = 3, rounds = 3, warmupRuns = 2)): Any? {
        val candidate = Candidate(smallModel(directory), engine, Accelerator.GPU_FP16, 1)
        val result = runBenchmark(listOf(candidate), settings)
        assertEquals(emptyList<Failure>(), result.failures)
        return (result.conditions["configurations"] as Map<*, *>)["small.tflite"]["difference"]
    }

    private fun onGpu(answer: (FakeRun) -> FloatArray?) =
        FakeEngine { if (it.accelerator == Accelerator.CPU) right else answer(it) }

    @Test
    fun `equal outputs have no difference`() {
        assertEquals(0.0, difference(onGpu { right }))
    }

    @Test
    fun `the difference is relative to the largest output`() {
        assertEquals(0.25, difference(onGpu { floatArrayOf(1f, -1f, 4f) }))
    }

    @Test
    fun `outputs that are wrong in one round alone are noticed`() {
        for (load in 1..3) assertEquals(0.5, difference(onGpu { if (it.load == load) floatArrayOf(-1f, -2f, 4f) else right }))
    }

    @Test
    fun `outputs that become wrong after the first run are noticed`() {
        assertEquals(0.5, difference(onGpu { if (it.run >= 2) floatArrayOf(-1f, -2f, 4f) else right }))
    }

    @Test
    fun `outputs that are wrong before the timed runs alone are noticed`() {
        assertEquals(0.5, difference(onGpu { if (it.run <= 2) floatArrayOf(-1f, -2f, 4f) else right }))
    }

    @Test
    fun `an accelerator that writes nothing is noticed`() {
        assertEquals(1.0, difference(onGpu { null }))
        assertEquals(1.0, difference(onGpu { if (it.run > 2) null else right }))
        assertEquals(1.0, difference(onGpu { null }, Settings(1, 1, 0)))
    }

    @Test
    fun `outputs of a different size are wrong`() {
        assertEquals(1.0, difference(FakeEngine(outputSize = { if (it == Accelerator.CPU) 3 else 4 })))
    }

    @Test
    fun `without outputs of the CPU the difference is unknown`() {
        assertNull(difference(FakeEngine { if (it.accelerator == Accelerator.CPU) throw EngineException("No.") else right }))
        assertNull(difference(FakeEngine(accelerators = setOf(Accelerator.GPU_FP16))))
    }
}
