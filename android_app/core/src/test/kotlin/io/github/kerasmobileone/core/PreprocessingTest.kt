package io.github.kerasmobileone.core

import java.nio.ByteBuffer
import kotlin.math.abs
import org.junit.jupiter.api.Assertions.assertArrayEquals
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertThrows
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Test

/** The crops and inputs of the Python package, from the same photographs. */
class PreprocessingTest {
    private class Photograph(val described: Any?) {
        val name = described["name"] as String
        val width = described["width"].number().toInt()
        val height = described["height"].number().toInt()
        val pixels = pixels("crops/$name.rgb")
        val crop = pixels("crops/$name.crop")
        val config = described["config"].let {
            val (high, wide) = it["image_size"].numbers()
            ImageConfig(wide.toInt(), high.toInt(), it["mean"].numbers(), it["std"].numbers(), it["crop_fraction"].number())
        }

        private fun pixels(path: String): IntArray {
            val bytes = Fixtures.file(path).readBytes()
            fun level(place: Int) = bytes[place].toInt() and 0xFF
            // Alpha differs from pixel to pixel, since it must not matter.
            return IntArray(bytes.size / 3) {
                (it % 256 shl 24) or (level(3 * it) shl 16) or (level(3 * it + 1) shl 8) or level(3 * it + 2)
            }
        }
    }

    private fun photographs() = Fixtures.json("crops/index.json").items().map(::Photograph)

    private fun opaque(pixels: IntArray) = IntArray(pixels.size) { pixels[it] or (0xFF shl 24) }

    @Test
    fun `crops are those of Pillow`() {
        for (photograph in photographs()) {
            val found = photograph.run { evaluationCrop(pixels, width, height, config) }
            val expected = opaque(photograph.crop)
            // Every version of Pillow resizes the rows of such images first.
            if (photograph.width >= photograph.height) assertArrayEquals(expected, found, photograph.name)
            assertEquals(expected.size, found.size)
            assertTrue(largestDifference(expected, found) <= 1, photograph.name)
        }
    }

    private fun largestDifference(expected: IntArray, found: IntArray) = (0..2).maxOf { channel ->
        expected.indices.maxOf { abs(component(expected[it], channel) - component(found[it], channel)) }
    }

    @Test
    fun `inputs are those of Python for each type`() {
        for (photograph in photographs()) {
            for (type in listOf(TensorType.FLOAT32, TensorType.FLOAT16, TensorType.INT8)) {
                val expected = Fixtures.file("crops/${photograph.name}.${type.name.lowercase()}").buffer()
                val input = input(photograph, type)
                val target = bufferFor(input)
                writeImage(photograph.crop, photograph.config, input, target)
                assertEquals(expected, target, "${photograph.name} as $type")
            }
        }
    }

    private fun input(photograph: Photograph, type: TensorType): TensorInfo {
        val config = photograph.config
        val quantized = type == TensorType.INT8
        val scale = if (quantized) photograph.described["scale"].number().toFloat() else 0f
        val zeroPoint = if (quantized) photograph.described["zero_point"].number().toInt() else 0
        return TensorInfo("image", listOf(1, config.height, config.width, 3), type, scale, zeroPoint)
    }

    @Test
    fun `red, green and blue are written in this order`() {
        val config = ImageConfig(1, 1, listOf(10.0, 20.0, 30.0), listOf(1.0, 2.0, 4.0))
        val input = TensorInfo("image", listOf(1, 1, 1, 3), TensorType.FLOAT32)
        val target = bufferFor(input)
        writeImage(intArrayOf(0x7F_6E_50_32), config, input, target)
        assertEquals(listOf(100f, 30f, 5f), realValues(target, input).toList())
    }

    @Test
    fun `a model that takes pixels gets them`() {
        val config = ImageConfig(1, 1, List(3) { 0.0 }, List(3) { 1.0 })
        val input = TensorInfo("pixels", listOf(1, 1, 1, 3), TensorType.UINT8)
        val target: ByteBuffer = bufferFor(input)
        writeImage(intArrayOf(0x00_FF_80_01), config, input, target)
        assertEquals(listOf(255f, 128f, 1f), realValues(target, input).toList())
    }

    @Test
    fun `a photograph is cut to models that are not square`() {
        val config = ImageConfig(40, 20, List(3) { 0.0 }, List(3) { 1.0 }, 1.0)
        // A row of the photograph has its number as red, and a column as green.
        for ((width, height) in listOf(80 to 120, 200 to 40, 31 to 47, 80 to 40)) {
            val pixels = IntArray(width * height) { (it / width shl 16) or (it % width shl 8) }
            val found = evaluationCrop(pixels, width, height, config)
            assertEquals(800, found.size)
            val middle = found[10 * 40 + 20]
            assertEquals(height / 2.0, component(middle, 0).toDouble(), maxOf(2.0, height / 20.0), "row of $width × $height")
            assertEquals(width / 2.0, component(middle, 1).toDouble(), maxOf(2.0, width / 20.0), "column of $width × $height")
        }
    }

    @Test
    fun `a narrow photograph and a single pixel are resized`() {
        val config = ImageConfig(8, 8, List(3) { 0.0 }, List(3) { 1.0 })
        for ((width, height) in listOf(1 to 1, 1 to 3000, 3000 to 1)) {
            val found = evaluationCrop(IntArray(width * height) { 0x010203 }, width, height, config)
            assertTrue(found.all { it == (0xFF shl 24) or 0x010203 }, "$width × $height")
        }
    }

    @Test
    fun `impossible arguments are refused`() {
        val config = ImageConfig(2, 2, List(3) { 0.0 }, List(3) { 1.0 })
        assertThrows(IllegalArgumentException::class.java) { evaluationCrop(IntArray(5), 2, 3, config) }
        val input = TensorInfo("image", listOf(1, 3, 3, 3), TensorType.FLOAT32)
        assertThrows(IllegalArgumentException::class.java) { writeImage(IntArray(4), config, input, bufferFor(input)) }
        for (change in listOf<(ImageConfig) -> ImageConfig>(
            { it.copy(width = 0) }, { it.copy(std = List(3) { 0.0 }) }, { it.copy(mean = listOf(1.0)) },
            { it.copy(cropFraction = 0.0) }, { it.copy(cropFraction = 1.1) }, { it.copy(cropFraction = Double.NaN) },
        )) assertThrows(IllegalArgumentException::class.java) { change(config) }
    }
}
