package io.github.kerasmobileone.core

import java.io.File
import java.nio.ByteBuffer

/**
 * One inference of a [FakeEngine].
 *
 * @property load which load of the same candidate it is, from 1.
 * @property run which inference after that load, from 1.
 */
data class FakeRun(val file: File, val accelerator: Accelerator, val threads: Int, val load: Int, val run: Int)

/** An engine that notes what is asked of it, and gives what [answer] says. */
class FakeEngine(
    override val id: String = "fake-1",
    override val version: String = "1.0",
    override val accelerators: Set<Accelerator> = setOf(Accelerator.CPU, Accelerator.GPU_FP16, Accelerator.GPU_FP32),
    private val ranOn: (FakeRun) -> Accelerator = { it.accelerator },
    private val outputSize: (Accelerator) -> Int = { 3 },
    private val answer: (FakeRun) -> FloatArray? = { floatArrayOf(1f, -2f, 4f) },
) : Engine {
    val events = mutableListOf<String>()
    val inputs = mutableListOf<List<Float>>()
    val threads = mutableSetOf<Thread>()
    var open = 0
    private val loads = HashMap<Any, Int>()

    override fun load(model: File, accelerator: Accelerator, threads: Int): Session {
        val key = listOf(model, accelerator, threads)
        val load = (loads[key] ?: 0) + 1
        loads[key] = load
        events += "load ${model.nameWithoutExtension} ${accelerator.id} $threads"
        val first = FakeRun(model, accelerator, threads, load, 0)
        answer(first) // may refuse the file
        open++
        this.threads += Thread.currentThread()
        return FakeSession(first)
    }

    private inner class FakeSession(private var last: FakeRun) : Session {
        override val inputs = listOf(TensorInfo("in", listOf(1, 5), TensorType.FLOAT32))
        override val outputs = listOf(TensorInfo("out", listOf(1, outputSize(last.accelerator)), TensorType.FLOAT32))
        override val ranOn get() = ranOn(last)

        override fun run(inputs: List<ByteBuffer>, outputs: List<ByteBuffer>) {
            last = last.copy(run = last.run + 1)
            events += "run"
            threads += Thread.currentThread()
            this@FakeEngine.inputs += realValues(inputs.single(), this.inputs.single()).toList()
            answer(last)?.forEachIndexed { index, value -> outputs.single().putFloat(4 * index, value) }
        }

        override fun close() {
            open--
            threads += Thread.currentThread()
            events += "close"
        }
    }
}
