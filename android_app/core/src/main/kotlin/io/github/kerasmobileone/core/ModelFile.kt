package io.github.kerasmobileone.core

import java.io.File
import java.io.IOException
import java.io.RandomAccessFile
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.channels.FileChannel

/** What the metadata of a model say of it; null where they say nothing. */
data class ModelMetadata(
    val name: String?,
    val description: String?,
    val version: String?,
    val author: String?,
    val license: String?,
)

/**
 * What a TFLite file says of itself.
 *
 * @property bytes size of the file.
 * @property metadata name and texts in TFLite's standard metadata, or null if there are none.
 * @property labels names of the classes in the order of the outputs, or null if there are none.
 * @property imageConfig how the file takes RGB images, or null if it does not say so.
 * @property customOperators names of operators that are not part of TFLite, which most runtimes lack.
 * @property operators number of operators in the main graph.
 */
class ModelFile(
    val bytes: Long,
    val inputs: List<TensorInfo>,
    val outputs: List<TensorInfo>,
    val metadata: ModelMetadata? = null,
    val labels: List<String>? = null,
    val imageConfig: ImageConfig? = null,
    val customOperators: List<String> = emptyList(),
    val operators: Int = 0,
) {
    /** Why the file cannot classify photographs: one sentence, or null if it can. */
    val imageProblem: String?
        get() {
            val input = inputs.singleOrNull()?.shape
            val config = imageConfig
            return when {
                input == null -> "Expected a model with one input, but this one has ${inputs.size}."
                input.size != 4 || input[0] != 1 || input[3] != CHANNELS ->
                    "Expected an input of 1 × height × width × 3, but this model takes ${input.joinToString(" × ")}."
                outputs.firstOrNull()?.shape.let { it?.size != 2 || it[0] != 1 } ->
                    "Expected a classifier, whose first output is 1 × classes."
                config == null -> "The file has no metadata that tell how it takes images."
                config.height != input[1] || config.width != input[2] ->
                    "The metadata describe images of ${config.width} × ${config.height}, which the input does not take."
                else -> null
            }
        }

    companion object {
        /** Larger files are refused: a flatbuffer cannot be larger. */
        const val MAXIMUM_BYTES = Int.MAX_VALUE.toLong()

        private const val IDENTIFIER_PLACE = 4
        private val IDENTIFIER = "TFL3".toByteArray()

        /**
         * Reads and checks a file.
         *
         * @throws ModelException if it cannot be measured: it is no TFLite file, is cut short or too
         *   large, or has inputs of open shape or of a type without numbers.
         */
        fun read(file: File): ModelFile {
            val buffer = try {
                map(file)
            } catch (error: IOException) {
                throw ModelException(ModelProblem.UNREADABLE, listOf(error.message.orEmpty()), error)
            }
            return read(buffer)
        }

        /** Reads and checks the content of a file, in little-endian order. */
        internal fun read(buffer: ByteBuffer): ModelFile {
            requireIdentifier(buffer)
            return try {
                ModelReader(buffer).read()
            } catch (error: IndexOutOfBoundsException) {
                throw ModelException(ModelProblem.DAMAGED, cause = error)
            }
        }

        private fun map(file: File): ByteBuffer = RandomAccessFile(file, "r").use { source ->
            val size = source.length()
            if (size > MAXIMUM_BYTES) {
                throw ModelException(ModelProblem.TOO_LARGE, listOf(size, MAXIMUM_BYTES))
            }
            source.channel.map(FileChannel.MapMode.READ_ONLY, 0, size).order(ByteOrder.LITTLE_ENDIAN)
        }

        private fun requireIdentifier(buffer: ByteBuffer) {
            val end = IDENTIFIER_PLACE + IDENTIFIER.size
            val found = (IDENTIFIER_PLACE until minOf(end, buffer.limit())).map(buffer::get)
            if (found != IDENTIFIER.toList()) {
                throw ModelException(ModelProblem.NOT_TFLITE)
            }
        }
    }
}
