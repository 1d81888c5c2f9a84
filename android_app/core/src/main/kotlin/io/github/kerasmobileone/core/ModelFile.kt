package io.github.kerasmobileone.core

import java.io.File

/** Why a file is not usable as a model: one sentence for the person who chose it. */
class ModelException(message: String, cause: Throwable? = null) : Exception(message, cause)

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
    val metadata: ModelMetadata?,
    val labels: List<String>?,
    val imageConfig: ImageConfig?,
    val customOperators: List<String>,
    val operators: Int,
) {
    /** Why the file cannot classify photographs: one sentence, or null if it can. */
    val imageProblem: String? get() = TODO()

    companion object {
        /**
         * Reads and checks a file.
         *
         * @throws ModelException if it cannot be measured: it is no TFLite file, is cut short or too
         *   large, or has inputs of open shape or of a type without numbers.
         */
        fun read(file: File): ModelFile = TODO()
    }
}
