package io.github.kerasmobileone.core

import kotlin.math.abs
import kotlin.math.ceil

/** Bits after the point of the weights, as in Pillow's Resample.c for images of 8 bits. */
private const val PRECISION_BITS = 22

/**
 * One axis of an antialiased bilinear resize: which source pixels each target pixel is made of.
 *
 * This is the arithmetic of Pillow's `Image.resize(…, BILINEAR)`: a triangle filter that is as wide as
 * a target pixel, with weights rounded to fixed point. The results are equal, except that Pillow 13
 * resizes some upright images in the other order, which changes values by one level at most.
 *
 * @param source number of source pixels.
 * @param resized number of pixels after resizing.
 * @param start first pixel of the resized image that is wanted.
 * @property count number of pixels that are wanted.
 */
internal class ResizeAxis(source: Int, resized: Int, start: Int, val count: Int) {
    /** First source pixel of each target pixel. */
    val first = IntArray(count)

    /** Weights of the source pixels of each target pixel, in fixed point. */
    val weights: Array<IntArray>

    init {
        val scale = source.toDouble() / resized
        val width = maxOf(scale, 1.0)
        val narrowing = 1 / width
        weights = Array(count) { index ->
            val center = (start + index + 0.5) * scale
            val low = (center - width + 0.5).toInt().coerceAtLeast(0)
            val high = (center + width + 0.5).toInt().coerceAtMost(source)
            first[index] = low
            fixedPoint(DoubleArray(high - low) { triangle((it + low - center + 0.5) * narrowing) })
        }
    }

    /** The source pixels that are needed at all. */
    val sources: IntRange get() = first.min()..(0 until count).maxOf { first[it] + weights[it].size - 1 }

    private fun triangle(distance: Double): Double = maxOf(0.0, 1 - abs(distance))

    private fun fixedPoint(weights: DoubleArray): IntArray {
        val sum = weights.sum()
        return IntArray(weights.size) { (0.5 + weights[it] / sum * (1 shl PRECISION_BITS)).toInt() }
    }
}

/** Resizes pixels `0xAARRGGBB` of an image that is [width] wide: first each row, then each column. */
internal fun resize(pixels: IntArray, width: Int, across: ResizeAxis, down: ResizeAxis): IntArray {
    val rows = down.sources
    val narrowed = IntArray(rows.count() * across.count)
    for (row in rows) {
        for (x in 0 until across.count) {
            val start = row * width + across.first[x]
            narrowed[(row - rows.first) * across.count + x] = weighted(pixels, start, 1, across.weights[x])
        }
    }
    val result = IntArray(down.count * across.count)
    for (y in 0 until down.count) {
        for (x in 0 until across.count) {
            val start = (down.first[y] - rows.first) * across.count + x
            result[y * across.count + x] = weighted(narrowed, start, across.count, down.weights[y])
        }
    }
    return result
}

/** Returns the opaque pixel that is the weighted mean of pixels at distances of [step]. */
private fun weighted(pixels: IntArray, start: Int, step: Int, weights: IntArray): Int {
    var red = 1 shl PRECISION_BITS - 1
    var green = red
    var blue = red
    var place = start
    for (weight in weights) {
        val pixel = pixels[place]
        red += (pixel shr 16 and 0xFF) * weight
        green += (pixel shr 8 and 0xFF) * weight
        blue += (pixel and 0xFF) * weight
        place += step
    }
    return (0xFF shl 24) or (level(red) shl 16) or (level(green) shl 8) or level(blue)
}

private fun level(sum: Int): Int = (sum shr PRECISION_BITS).coerceIn(0, 255)
