package io.github.kerasmobileone.core

import java.nio.ByteBuffer

/**
 * How a model takes photographs: the short side is resized to the image size over [cropFraction], the
 * center is cut out, and a pixel value x of a channel, from 0 to 255, enters the model as
 * (x − mean) / std.
 *
 * @property mean mean of red, green and blue, in units of pixels.
 * @property std standard deviation of red, green and blue, in units of pixels.
 */
data class ImageConfig(
    val width: Int,
    val height: Int,
    val mean: List<Double>,
    val std: List<Double>,
    val cropFraction: Double = 0.875,
) {
    init {
        require(width > 0 && height > 0) { "Expected an image size of at least 1. Received: $width × $height." }
        require(mean.size == CHANNELS && std.size == CHANNELS) { "Expected mean and std of three channels." }
        require(std.all { it > 0 }) { "Expected positive standard deviations. Received: $std." }
        require(cropFraction > 0 && cropFraction <= 1) { "Expected a crop in (0, 1]. Received: $cropFraction." }
    }

    /** Whether pixels enter the model as they are. */
    internal val takesPixels: Boolean get() = mean.all { it == 0.0 } && std.all { it == 1.0 }

    /** Returns what a pixel value becomes, with the same float32 arithmetic as the Python package. */
    internal fun normalized(value: Int, channel: Int): Float {
        if (takesPixels) return value.toFloat()
        val scale = (1 / std[channel]).toFloat()
        val offset = (mean[channel] / std[channel]).toFloat()
        return value * scale - offset
    }
}

internal const val CHANNELS = 3

/**
 * Resizes a photograph and cuts out its center, as `evaluation_crop` of the Python package does.
 *
 * @param pixels upright pixels as `0xAARRGGBB`, row by row; alpha is ignored.
 * @return pixels of the size of [config] in the same form.
 */
fun evaluationCrop(pixels: IntArray, width: Int, height: Int, config: ImageConfig): IntArray {
    require(width > 0 && height > 0 && pixels.size == width * height) {
        "Expected ${width.toLong() * height} pixels for an image of $width × $height. Received: ${pixels.size}."
    }
    val (wide, high) = resizedSize(width, height, config)
    val left = Math.rint((wide - config.width) / 2.0).toInt()
    val top = Math.rint((high - config.height) / 2.0).toInt()
    val across = ResizeAxis(width, wide, left, config.width)
    val down = ResizeAxis(height, high, top, config.height)
    return resize(pixels, width, across, down)
}

/** The size to which the whole photograph is resized, of which the center is cut out. */
private fun resizedSize(width: Int, height: Int, config: ImageConfig): Pair<Int, Int> {
    val upright = width.toLong() * config.height < height.toLong() * config.width
    // Python's and NumPy's `round`: ties go to the even number.
    val short = Math.rint((if (upright) config.width else config.height) / config.cropFraction).toInt()
    return if (upright) {
        Pair(short, (short.toDouble() * height / width).toInt().coerceAtLeast(config.height))
    } else {
        Pair((short.toDouble() * width / height).toInt().coerceAtLeast(config.width), short)
    }
}

/**
 * Normalizes pixels of the model's size and writes them in the type of its input, in the order R, G, B.
 *
 * @param pixels what [evaluationCrop] returns.
 * @param target a buffer of the input's `byteCount`, written from its start.
 */
fun writeImage(pixels: IntArray, config: ImageConfig, input: TensorInfo, target: ByteBuffer) {
    require(input.elements == CHANNELS * pixels.size) {
        "Expected an input of ${CHANNELS * pixels.size} values. Received: ${input.shape}."
    }
    // Each channel has 256 values, which are normalized once.
    val tables = List(CHANNELS) { channel -> FloatArray(256) { config.normalized(it, channel) } }
    for ((index, pixel) in pixels.withIndex()) {
        for (channel in 0 until CHANNELS) {
            putReal(target, input, CHANNELS * index + channel, tables[channel][component(pixel, channel)])
        }
    }
}

/** Red, green or blue of a pixel `0xAARRGGBB`, for the channels 0, 1 and 2. */
internal fun component(pixel: Int, channel: Int): Int = pixel shr (16 - 8 * channel) and 0xFF
