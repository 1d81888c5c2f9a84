package io.github.kerasmobileone.engine.bytedeco

import io.github.kerasmobileone.core.Accelerator
import io.github.kerasmobileone.core.EngineException
import io.github.kerasmobileone.core.ModelFile
import io.github.kerasmobileone.core.TensorInfo
import io.github.kerasmobileone.core.TensorType
import io.github.kerasmobileone.core.bufferFor
import io.github.kerasmobileone.core.evaluationCrop
import io.github.kerasmobileone.core.realValues
import io.github.kerasmobileone.core.topClasses
import io.github.kerasmobileone.core.writeImage
import java.io.File
import java.nio.ByteBuffer
import kotlin.concurrent.thread
import org.junit.jupiter.api.Assertions.assertArrayEquals
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertThrows
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Assumptions.assumeTrue
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir

/** Real models on the same runtime that the phone has, against ai-edge-litert. */
class BytedecoEngineTest {
    private val engine = BytedecoEngine()

    private fun floats(file: File): FloatArray = bytes(file).asFloatBuffer().let { FloatArray(it.limit()).also(it::get) }

    private fun load(file: File, threads: Int = 1) = engine.load(file, Accelerator.CPU, threads)

    /** Runs a file once on inputs of its own types and returns its first output. */
    private fun run(file: File, vararg inputs: ByteBuffer, threads: Int = 1): FloatArray = load(file, threads).use { session ->
        val outputs = session.outputs.map(::bufferFor)
        session.run(inputs.toList(), outputs)
        realValues(outputs.first(), session.outputs.first())
    }

    private fun direct(values: FloatArray): ByteBuffer =
        bufferFor(TensorInfo("", listOf(values.size), TensorType.FLOAT32)).also { it.asFloatBuffer().put(values) }

    @Test
    fun `the runtime tells its version`() {
        assertTrue(engine.version.startsWith(engine.id.removePrefix("tflite-")), engine.version)
    }

    @Test
    fun `logits are those of ai-edge-litert`() {
        var compared = 0
        for (model in models()) {
            for (name in listOf("cat", "noise")) {
                val input = floats(fixture("logits/${model.nameWithoutExtension}-$name.input"))
                val expected = floats(fixture("logits/${model.nameWithoutExtension}-$name.output"))
                for (threads in 1..2) {
                    val found = run(model, direct(input), threads = threads)
                    assertArrayEquals(expected, found, 1e-6f * expected.max(), "${model.name}, $name, $threads threads")
                }
                compared++
            }
        }
        assertTrue(compared >= 6, "$compared")
    }

    @Test
    fun `a photograph gets the classes that Python gives it`() {
        val bytes = fixture("crops/cat.rgb").readBytes()
        val side = 224
        val pixels = IntArray(side * side) { place ->
            (0..2).fold(0) { pixel, channel -> (pixel shl 8) or (bytes[3 * place + channel].toInt() and 0xFF) }
        }
        for (model in models()) {
            val described = ModelFile.read(model)
            val config = requireNotNull(described.imageConfig)
            val input = bufferFor(described.inputs.single())
            writeImage(evaluationCrop(pixels, side, side, config), config, described.inputs.single(), input)
            val found = topClasses(run(model, input), described.labels)
            val (labels, probabilities) = expectedClasses(model, "cat")
            assertEquals(labels, found.map { it.label }, model.name)
            assertArrayEquals(probabilities.toDoubleArray(), found.map { it.probability }.toDoubleArray(), 1e-5)
        }
    }

    @Test
    fun `a model gets its number of threads`() {
        val tasks = File("/proc/self/task")
        assumeTrue(tasks.isDirectory)
        val input = floats(fixture("logits/${models().first().nameWithoutExtension}-cat.input"))
        for (count in listOf(1, 3)) {
            // Threads of native code inherit the name of the one that makes them.
            val name = "measures-$count"
            var found = 0
            thread(name = name) {
                load(models().first(), count).use { session ->
                    session.run(listOf(direct(input)), session.outputs.map(::bufferFor))
                    found = tasks.listFiles().orEmpty().count { File(it, "comm").readText().trim() == name }
                }
            }.join()
            assertEquals(count, found)
        }
    }

    @Test
    fun `inputs keep their order and integers their quantization`() {
        val values = FloatArray(24) { it - 10f }
        val sum = run(fixture("files/add.tflite"), direct(values), direct(FloatArray(24) { 100f }))
        assertArrayEquals(FloatArray(24) { it + 90f }, sum)
        load(fixture("files/quantize.tflite")).use { session ->
            val expected = TensorInfo("sum", listOf(1, 2, 4, 3), TensorType.INT8, 0.5f, -3)
            assertEquals(expected, session.outputs.single())
            assertEquals(listOf("first"), session.inputs.map { it.name })
        }
        assertArrayEquals(values, run(fixture("files/quantize.tflite"), direct(values)))
    }

    @Test
    fun `the model of the session is that of the file`() {
        for (model in models()) {
            load(model).use { session ->
                val described = ModelFile.read(model)
                assertEquals(described.inputs.map { it.shape to it.type }, session.inputs.map { it.shape to it.type })
                assertEquals(described.outputs.map { it.shape to it.type }, session.outputs.map { it.shape to it.type })
                assertEquals(Accelerator.CPU, session.ranOn)
            }
        }
    }

    private fun refusal(file: File, accelerator: Accelerator = Accelerator.CPU): String {
        val message = assertThrows(EngineException::class.java) { engine.load(file, accelerator, 1) }.message.orEmpty()
        assertTrue(Regex("[^\n]*\\.").matches(message), message)
        return message
    }

    @Test
    fun `what the runtime cannot run is refused in one sentence`(@TempDir directory: File) {
        val custom = refusal(fixture("files/custom.tflite"))
        assertTrue(custom.startsWith("TensorFlow Lite 2.21") && custom.endsWith(": FlexErf."), custom)
        assertTrue("newer than this runtime" in refusal(fixture("files/newer.tflite")))
        assertTrue("on the CPU only" in refusal(fixture("files/add.tflite"), Accelerator.GPU_FP16))
        assertTrue("cannot be read" in refusal(File(directory, "missing.tflite")))
        val content = fixture("files/add.tflite").readBytes()
        val damaged = File(directory, "damaged.tflite")
        for (size in listOf(0, 4, 100, 300)) {
            damaged.writeBytes(content.copyOf(size))
            refusal(damaged)
        }
    }

    @Test
    fun `buffers that are too small never reach native code`() {
        load(fixture("files/add.tflite")).use { session ->
            val (right, small) = bufferFor(session.inputs.first()) to ByteBuffer.allocateDirect(95)
            val heap = ByteBuffer.allocate(96)
            for (wrong in listOf(small, heap)) {
                assertThrows(IllegalArgumentException::class.java) { session.run(listOf(right, wrong), listOf(right)) }
                assertThrows(IllegalArgumentException::class.java) { session.run(listOf(right, right), listOf(wrong)) }
            }
        }
    }

    @Test
    fun `a closed session is not used`() {
        val session = load(fixture("files/add.tflite"))
        val buffer = bufferFor(session.inputs.first())
        session.close()
        session.close()
        assertThrows(IllegalStateException::class.java) { session.run(listOf(buffer, buffer), listOf(buffer)) }
    }
}
