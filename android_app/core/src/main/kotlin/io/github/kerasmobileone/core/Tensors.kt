package io.github.kerasmobileone.core

import java.nio.ByteBuffer
import java.nio.ByteOrder

/** Returns a new buffer for a tensor: direct, in native byte order. */
fun bufferFor(tensor: TensorInfo): ByteBuffer =
    ByteBuffer.allocateDirect(tensor.byteCount).order(ByteOrder.nativeOrder())

/** Returns the real values in the buffer of a tensor; integers with a scale are dequantized. */
fun realValues(buffer: ByteBuffer, tensor: TensorInfo): FloatArray =
    FloatArray(tensor.elements) { realValue(buffer, tensor, it).toFloat() }

/** Returns the real value of the element at [index] in the buffer of a tensor. */
internal fun realValue(buffer: ByteBuffer, tensor: TensorInfo, index: Int): Double {
    val place = index * tensor.type.bytes
    val stored = when (tensor.type) {
        TensorType.FLOAT32 -> return buffer.getFloat(place).toDouble()
        TensorType.FLOAT16 -> return halfToFloat(buffer.getShort(place)).toDouble()
        TensorType.INT64 -> buffer.getLong(place).toDouble()
        TensorType.INT32 -> buffer.getInt(place).toDouble()
        TensorType.INT16 -> buffer.getShort(place).toDouble()
        TensorType.UINT8 -> (buffer.get(place).toInt() and 0xFF).toDouble()
        TensorType.INT8, TensorType.BOOL -> buffer.get(place).toDouble()
        TensorType.STRING, TensorType.OTHER -> throw IllegalArgumentException("${tensor.name} has no numbers.")
    }
    // The product is rounded to float32, as in the Python package.
    return if (tensor.scale == 0f) stored else ((stored - tensor.zeroPoint).toFloat() * tensor.scale).toDouble()
}

/**
 * Writes a real value as the element at [index] of a tensor. Integers with a scale are quantized, and
 * all integers are rounded and limited to their type.
 */
internal fun putReal(buffer: ByteBuffer, tensor: TensorInfo, index: Int, value: Float) {
    val place = index * tensor.type.bytes
    when (tensor.type) {
        TensorType.FLOAT32 -> buffer.putFloat(place, value)
        TensorType.FLOAT16 -> buffer.putShort(place, floatToHalf(value))
        else -> {
            val real = if (tensor.scale == 0f) value else value / tensor.scale
            // Ties go to the even number, as in NumPy.
            putInteger(buffer, tensor.type, place, Math.rint(real.toDouble()) + tensor.zeroPoint)
        }
    }
}

private fun putInteger(buffer: ByteBuffer, type: TensorType, place: Int, value: Double) {
    val limited = value.coerceIn(integers(type).first.toDouble(), integers(type).last.toDouble())
    when (type) {
        TensorType.INT64 -> buffer.putLong(place, limited.toLong())
        TensorType.INT32 -> buffer.putInt(place, limited.toInt())
        TensorType.INT16 -> buffer.putShort(place, limited.toInt().toShort())
        else -> buffer.put(place, limited.toInt().toByte())
    }
}

/** The integers that a type can hold. */
internal fun integers(type: TensorType): LongRange = when (type) {
    TensorType.INT64 -> Long.MIN_VALUE..Long.MAX_VALUE
    TensorType.INT32 -> Int.MIN_VALUE.toLong()..Int.MAX_VALUE
    TensorType.INT16 -> -32768L..32767L
    TensorType.INT8 -> -128L..127L
    TensorType.UINT8 -> 0L..255L
    TensorType.BOOL -> 0L..1L
    else -> throw IllegalArgumentException("$type has no integers.")
}

/** Converts a number of 16 bits (IEEE 754 binary16), which Java has no type for. */
internal fun halfToFloat(half: Short): Float {
    val bits = half.toInt() and 0xFFFF
    val sign = if (bits and 0x8000 == 0) 1f else -1f
    val exponent = bits shr 10 and 0x1F
    val fraction = bits and 0x3FF
    return when (exponent) {
        0 -> sign * fraction * SMALLEST_HALF
        0x1F -> if (fraction == 0) sign * Float.POSITIVE_INFINITY else Float.NaN
        else -> Float.fromBits((bits and 0x8000 shl 16) or (exponent + 112 shl 23) or (fraction shl 13))
    }
}

/** Converts to a number of 16 bits (IEEE 754 binary16); ties go to the even number. */
internal fun floatToHalf(value: Float): Short {
    val sign = value.toRawBits() ushr 16 and 0x8000
    val size = Math.abs(value)
    val bits = when {
        value.isNaN() -> 0x7E00
        size >= OVERFLOW_OF_HALF -> 0x7C00
        size < SMALLEST_NORMAL_HALF -> Math.rint((size / SMALLEST_HALF).toDouble()).toInt()
        else -> {
            val shifted = size.toRawBits() - (112 shl 23)
            // Adds just less than half of the last kept bit, and the bit itself: rounds to even.
            shifted + 0xFFF + (shifted shr 13 and 1) shr 13
        }
    }
    return (sign or bits).toShort()
}

private const val SMALLEST_HALF = 5.9604645E-8f // 2⁻²⁴
private const val SMALLEST_NORMAL_HALF = 6.1035156E-5f // 2⁻¹⁴
private const val OVERFLOW_OF_HALF = 65520f // halfway between the largest number and the next one
