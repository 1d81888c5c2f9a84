package io.github.kerasmobileone.core

import java.nio.ByteBuffer
import java.nio.ByteOrder
import kotlin.random.Random
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Test

class TensorsTest {
    private fun tensor(type: TensorType, count: Int, scale: Float = 0f, zeroPoint: Int = 0) =
        TensorInfo("x", listOf(1, count), type, scale, zeroPoint)

    private fun written(tensor: TensorInfo, vararg values: Float): List<Float> {
        val buffer = bufferFor(tensor)
        values.forEachIndexed { index, value -> putReal(buffer, tensor, index, value) }
        return realValues(buffer, tensor).toList()
    }

    @Test
    fun `buffers are direct and in native order`() {
        val buffer = bufferFor(tensor(TensorType.INT64, 3))
        assertTrue(buffer.isDirect)
        assertEquals(24, buffer.capacity())
        assertEquals(ByteOrder.nativeOrder(), buffer.order())
    }

    @Test
    fun `integers are rounded to even and limited`() {
        val values = floatArrayOf(0.5f, 1.5f, -2.5f, 300f, -300f)
        assertEquals(listOf(0f, 2f, -2f, 127f, -128f), written(tensor(TensorType.INT8, 5), *values))
        assertEquals(listOf(0f, 2f, 0f, 255f, 0f), written(tensor(TensorType.UINT8, 5), *values))
        assertEquals(listOf(0f, 1f, 0f, 1f, 0f), written(tensor(TensorType.BOOL, 5), *values))
        assertEquals(listOf(32767f, -32768f), written(tensor(TensorType.INT16, 2), 1e9f, -1e9f))
        assertEquals(listOf(1e12f.toLong().toFloat()), written(tensor(TensorType.INT64, 1), 1e12f))
        assertEquals(listOf(70000f, -70000f), written(tensor(TensorType.INT32, 2), 70000f, -70000f))
    }

    @Test
    fun `quantized values are those of scale and zero point`() {
        assertEquals(listOf(1.5f, -62.5f, 65f), written(tensor(TensorType.INT8, 3, 0.5f, -3), 1.6f, -99f, 99f))
        assertEquals(listOf(-50f, 77.5f), written(tensor(TensorType.UINT8, 2, 0.5f, 100), -99f, 99f))
    }

    @Test
    fun `every half precision number survives`() {
        for (bits in 0..0xFFFF) {
            val value = halfToFloat(bits.toShort())
            if (value.isNaN()) {
                assertTrue(halfToFloat(floatToHalf(value)).isNaN())
            } else {
                assertEquals(bits.toShort(), floatToHalf(value), value.toString())
            }
        }
    }

    @Test
    fun `half precision rounds to the nearest number`() {
        assertEquals(1f, halfToFloat(floatToHalf(1.0004f)))
        assertEquals(1.0009766f, halfToFloat(floatToHalf(1.0005f)))
        assertEquals(1.0019531f, halfToFloat(floatToHalf(1.0014648f)), "a tie goes to even")
        assertEquals(65504f, halfToFloat(floatToHalf(65519f)))
        assertEquals(Float.POSITIVE_INFINITY, halfToFloat(floatToHalf(65520f)))
        assertEquals(Float.NEGATIVE_INFINITY, halfToFloat(floatToHalf(Float.NEGATIVE_INFINITY)))
        assertEquals(5.9604645E-8f, halfToFloat(floatToHalf(4e-8f)))
        assertEquals(0f, halfToFloat(floatToHalf(2e-8f)))
    }

    @Test
    fun `half precision values are those of NumPy`() {
        val values = Fixtures.file("crops/gradient.float32").buffer().asFloatBuffer()
        val expected = Fixtures.file("crops/gradient.float16").buffer().asShortBuffer()
        for (index in 0 until expected.limit()) assertEquals(expected.get(index), floatToHalf(values.get(index)))
    }

    @Test
    fun `random values fill the range of the type`() {
        fun range(type: TensorType): ClosedRange<Float> {
            val tensor = tensor(type, 20_000)
            val values = bufferFor(tensor).let { fill(it, tensor, -1f..3f, Random(1)); realValues(it, tensor) }
            return values.min()..values.max()
        }
        assertEquals(-128f..127f, range(TensorType.INT8))
        assertEquals(0f..127f, range(TensorType.UINT8))
        assertEquals(-128f..127f, range(TensorType.INT32))
        assertEquals(0f..1f, range(TensorType.BOOL))
        for (type in listOf(TensorType.FLOAT32, TensorType.FLOAT16)) {
            val found = range(type)
            assertTrue(found.start in -1f..-0.99f && found.endInclusive in 2.99f..3f, "$found")
        }
    }

    private fun difference(expected: List<Float>, vararg found: Float): Double {
        val tensor = tensor(TensorType.FLOAT32, found.size)
        fun buffer(values: List<Float>): ByteBuffer = bufferFor(tensor).also { for (value in values) it.putFloat(value) }
        return relativeDifference(buffer(found.toList()), buffer(expected), tensor)
    }

    @Test
    fun `differences are relative to the largest expected value`() {
        assertEquals(0.25, difference(listOf(1f, -4f), 2f, -4f))
        assertEquals(0.0, difference(listOf(1f, -4f), 1f, -4f))
        assertEquals(1.0, difference(listOf(0f, 0f), 7f, 0f))
        assertEquals(0.0, difference(listOf(0f, 0f), 0f, 0f))
    }

    @Test
    fun `a value that is not finite is wrong unless it is expected`() {
        assertEquals(1.0, difference(listOf(1f, 2f), Float.NaN, 2f))
        assertEquals(1.0, difference(listOf(1f, 2f), 1f, Float.POSITIVE_INFINITY))
        assertEquals(3.0, difference(listOf(1f, 2f), Float.NaN, 8f))
        assertEquals(0.0, difference(listOf(Float.NaN, 2f), Float.NaN, 2f))
    }
}
