package io.github.kerasmobileone.bench

import java.nio.ByteBuffer

/** One plane of a picture: bytes at `row · rowStride + column · pixelStride`. */
class Plane(val bytes: ByteBuffer, val rowStride: Int, val pixelStride: Int) {
    fun at(row: Int, column: Int): Int = bytes.get(row * rowStride + column * pixelStride).toInt() and 0xFF
}

/**
 * A picture of Android's format YUV_420_888: brightness [y] for each pixel, color [u] and [v] for each
 * square of four, by the formulas of JFIF (ITU-R BT.601 over the full range).
 */
class YuvImage(val width: Int, val height: Int, val y: Plane, val u: Plane, val v: Plane) {

    /** Converts to upright pixels, turned clockwise by a multiple of 90 degrees. */
    fun toPixels(degrees: Int): Pixels {
        require(degrees % 90 == 0) { "Expected a multiple of 90 degrees. Received: $degrees." }
        val turns = Math.floorMod(degrees / 90, 4)
        val upright = if (turns % 2 == 0) width to height else height to width
        val pixels = IntArray(width * height)
        for (row in 0 until height) {
            for (column in 0 until width) {
                val place = when (turns) {
                    0 -> row * width + column
                    1 -> column * height + (height - 1 - row)
                    2 -> (height - 1 - row) * width + (width - 1 - column)
                    else -> (width - 1 - column) * height + row
                }
                pixels[place] = color(row, column)
            }
        }
        return Pixels(pixels, upright.first, upright.second)
    }

    private fun color(row: Int, column: Int): Int {
        val brightness = y.at(row, column)
        val blue = u.at(row / 2, column / 2) - 128
        val red = v.at(row / 2, column / 2) - 128
        // Factors of JFIF, times 2 to the power of 16.
        val r = brightness + (91881 * red + HALF shr 16)
        val g = brightness - (22554 * blue + 46802 * red + HALF shr 16)
        val b = brightness + (116130 * blue + HALF shr 16)
        return (0xFF shl 24) or (limit(r) shl 16) or (limit(g) shl 8) or limit(b)
    }

    private fun limit(value: Int) = if (value < 0) 0 else if (value > 255) 255 else value

    private companion object {
        const val HALF = 1 shl 15
    }
}
