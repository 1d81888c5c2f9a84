package io.github.kerasmobileone.core

import java.nio.ByteBuffer

/** Returns a new buffer for a tensor: direct, in native byte order. */
fun bufferFor(tensor: TensorInfo): ByteBuffer = TODO()

/** Returns the real values in the buffer of a tensor; integers with a scale are dequantized. */
fun realValues(buffer: ByteBuffer, tensor: TensorInfo): FloatArray = TODO()
