package io.github.kerasmobileone.core

import java.io.File
import java.io.RandomAccessFile
import java.nio.ByteBuffer
import java.nio.ByteOrder
import kotlin.random.Random
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertNull
import org.junit.jupiter.api.Assertions.assertThrows
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir

class ModelFileTest {
    @TempDir
    lateinit var directory: File

    private fun sentence(file: File) = sentence { ModelFile.read(file) }

    private fun sentence(action: () -> Unit): String {
        val message = assertThrows(ModelException::class.java) { action() }.message.orEmpty()
        assertTrue(Regex("[^\n]*\\.").matches(message), message)
        return message
    }

    private fun read(content: ByteArray, size: Int = content.size) =
        ModelFile.read(ByteBuffer.wrap(content, 0, size).slice().order(ByteOrder.LITTLE_ENDIAN))

    private fun file(content: ByteArray) = File(directory, "x.tflite").apply { writeBytes(content) }

    private fun tensors(described: Any?) = described.items().map {
        TensorInfo(
            name = it["name"] as String,
            shape = it["shape"].numbers().map { size -> size.toInt() },
            type = TensorType.valueOf((it["dtype"] as String).uppercase()),
            scale = it["scale"]?.number()?.toFloat() ?: 0f,
            zeroPoint = it["zero_point"]?.number()?.toInt() ?: 0,
        )
    }

    @Test
    fun `models are read as Python reads them`() {
        for (expected in Fixtures.json("logits/index.json").items()) {
            val found = ModelFile.read(Fixtures.model(expected["file"] as String))
            val config = requireNotNull(found.imageConfig)
            assertEquals(tensors(expected["inputs"]), found.inputs)
            assertEquals(tensors(expected["outputs"]), found.outputs)
            assertEquals(expected["config"]["labels"], found.labels)
            assertEquals(expected["config"]["image_size"].numbers(), listOf(config.height, config.width).map { it.toDouble() })
            assertEquals(expected["config"]["mean"].numbers(), config.mean)
            assertEquals(expected["config"]["std"].numbers(), config.std)
            assertEquals(expected["config"]["crop_fraction"].number(), config.cropFraction)
            assertEquals(expected["operators"], found.operators.toLong())
            assertNull(found.imageProblem)
            assertTrue(found.metadata?.name.orEmpty().isNotEmpty())
        }
    }

    @Test
    fun `a file without metadata is usable`() {
        val found = ModelFile.read(smallModel(directory))
        assertEquals(listOf("first", "second"), found.inputs.map { it.name })
        assertEquals(TensorInfo("sum", listOf(1, 2, 4, 3), TensorType.FLOAT32), found.outputs.single())
        assertEquals(356, found.bytes)
        for (missing in listOf(found.metadata, found.labels, found.imageConfig)) assertNull(missing)
        assertEquals("Expected a model with one input, but this one has 2.", found.imageProblem)
    }

    @Test
    fun `quantization is read`() {
        val found = ModelFile.read(Fixtures.file("files/quantize.tflite"))
        assertEquals(TensorInfo("sum", listOf(1, 2, 4, 3), TensorType.INT8, 0.5f, -3), found.outputs.single())
        assertEquals(TensorInfo("first", listOf(1, 2, 4, 3), TensorType.FLOAT32), found.inputs.single())
    }

    @Test
    fun `the metadata of other tools are read`() {
        val found = ModelFile.read(Fixtures.file("files/other_tool.tflite"))
        assertEquals(listOf("tench", "ox"), found.labels)
        assertEquals(ImageConfig(4, 2, List(3) { 9.0 }, List(3) { 5.0 }, 0.875), found.imageConfig)
        assertEquals(ModelMetadata("other", "It adds.", "2.0", "Ada", "MIT"), found.metadata)
    }

    @Test
    fun `damaged labels are not read`() {
        val content = Fixtures.file("files/other_tool.tflite").readBytes()
        val comment = 9
        for (cut in comment + 1..200) assertNull(read(content, content.size - cut).labels, "$cut bytes less")
        // A changed byte of the archive gives the same labels or none, but no wrong ones.
        val archive = String(content, Charsets.ISO_8859_1).indexOf("PK\u0003\u0004")
        for (place in archive until content.size) {
            val changed = content.clone().also { it[place] = (it[place] + 1).toByte() }
            val labels = read(changed).labels
            assertTrue(labels == null || labels == listOf("tench", "ox"), "$place: $labels")
        }
    }

    @Test
    fun `custom operators are named`() {
        assertEquals(listOf("FlexErf"), ModelFile.read(Fixtures.file("files/custom.tflite")).customOperators)
        val error = refusal(Fixtures.file("files/custom.tflite"), "TensorFlow Lite 1", "an unknown reason")
        assertEquals(
            "TensorFlow Lite 1 cannot run the model, which has operators that are not part of TFLite: FlexErf.",
            error.message,
        )
    }

    @Test
    fun `unusable inputs are refused`() {
        assertTrue("open shape 1 × -1 × 4 × 3" in sentence(Fixtures.file("files/open.tflite")))
        for (name in listOf("string", "complex")) assertTrue("no numbers of a known type" in sentence(Fixtures.file("files/$name.tflite")))
        assertTrue("has no values" in sentence(Fixtures.file("files/empty.tflite")))
        for (name in listOf("huge", "overflow")) assertTrue("larger than 2 GB" in sentence(Fixtures.file("files/$name.tflite")))
    }

    @Test
    fun `what is no TFLite file is refused`() {
        val expected = "The file is no TFLite file: it lacks the identifier TFL3."
        for (text in listOf("", "TFL3", "    TFL2", "{\"format\": 1}")) assertEquals(expected, sentence(file(text.toByteArray())))
        assertTrue(sentence(File(directory, "missing.tflite")).startsWith("The file cannot be read"))
        assertTrue(sentence(directory).startsWith("The file cannot be read"))
    }

    @Test
    fun `a file that is too large is refused before it is read`() {
        val large = File(directory, "large.tflite")
        RandomAccessFile(large, "rw").use { it.setLength(4L shl 30) } // takes no room on the disk
        assertEquals("The file has 4294967296 bytes, but TFLite files have at most 2147483647.", sentence(large))
    }

    @Test
    fun `a file cut short anywhere is refused`() {
        val small = smallModel(directory).readBytes()
        for (size in 8 until small.size - 4) {
            assertTrue("damaged or cut short" in sentence { read(small, size) }, "$size bytes")
        }
        for (expected in Fixtures.json("logits/index.json").items()) {
            val content = Fixtures.model(expected["file"] as String).readBytes()
            val end = expected["flatbuffer"].number().toInt()
            for (part in 1..30) {
                assertTrue("damaged or cut short" in sentence { read(content, end / 31 * part) }, "$part/31")
            }
        }
    }

    @Test
    fun `references to what is not there are refused`() {
        for (name in listOf("outside", "negative", "no_code", "no_buffer")) {
            assertTrue("damaged or cut short" in sentence(Fixtures.file("files/$name.tflite")), name)
        }
    }

    @Test
    fun `damaged bytes give a sentence or a model, but no other error`() {
        val random = Random(3)
        val contents = listOf(smallModel(directory).readBytes()) +
            listOf("quantize", "other_tool").map { Fixtures.file("files/$it.tflite").readBytes() }
        for (content in contents) {
            repeat(3000) {
                val damaged = content.clone()
                repeat(1 + random.nextInt(3)) { damaged[random.nextInt(8, damaged.size)] = random.nextInt().toByte() }
                try {
                    read(damaged)
                } catch (error: ModelException) {
                    assertTrue(error.message.orEmpty().endsWith("."))
                }
            }
        }
    }

    @Test
    fun `why a file cannot classify is told`() {
        val input = TensorInfo("image", listOf(1, 8, 9, 3), TensorType.FLOAT32)
        val output = TensorInfo("scores", listOf(1, 10), TensorType.FLOAT32)
        val config = ImageConfig(9, 8, List(3) { 0.0 }, List(3) { 1.0 })
        fun problem(input: TensorInfo, output: TensorInfo, config: ImageConfig?) =
            ModelFile(1, listOf(input), listOf(output), imageConfig = config).imageProblem
        assertNull(problem(input, output, config))
        val others = listOf(
            problem(input.copy(shape = listOf(1, 3, 8, 9)), output, config),
            problem(input.copy(shape = listOf(2, 8, 9, 3)), output, config),
            problem(input, output.copy(shape = listOf(1, 8, 9, 21)), config),
            problem(input, output, null),
            problem(input, output, config.copy(width = 8)),
        )
        assertEquals(others.size, others.filterNotNull().size)
        assertEquals(4, others.map { it?.take(20) }.toSet().size)
    }
}
