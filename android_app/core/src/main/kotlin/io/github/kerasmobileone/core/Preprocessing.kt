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
)

/**
 * Resizes a photograph and cuts out its center, equal to `evaluation_crop` of the Python package.
 *
 * @param pixels upright pixels as `0xAARRGGBB`, row by row; alpha is ignored.
 * @return pixels of the size of [config] in the same form.
 */
fun evaluationCrop(pixels: IntArray, width: Int, height: Int, config: ImageConfig): IntArray = TODO()

/**
 * Normalizes pixels of the model's size and writes them in the type of its input, in the order R, G, B.
 *
 * @param pixels what [evaluationCrop] returns.
 * @param target a buffer of the input's `byteCount`, written from its start.
 */
fun writeImage(pixels: IntArray, config: ImageConfig, input: TensorInfo, target: ByteBuffer): Unit = TODO()
