package io.github.kerasmobileone.core

import java.nio.ByteBuffer

/** Largest input or output in bytes, which Java's buffers can hold. */
private const val MAXIMUM_TENSOR = Int.MAX_VALUE.toLong()

/**
 * Reads a TFLite file by the numbers of the fields in TFLite's `schema.fbs`.
 *
 * All parts that a runtime needs are visited, so that a damaged file makes [read] throw an
 * [IndexOutOfBoundsException]. Runtimes crash on such files.
 */
internal class ModelReader(private val buffer: ByteBuffer) {
    private val model = FlatTable.root(buffer)
    private val buffers = model.tables(4)
    private val graph = model.tables(2).firstOrNull() ?: throw IndexOutOfBoundsException("There is no graph.")
    private val tensors = graph.tables(0)

    fun read(): ModelFile {
        visitGraphs()
        visitBuffers()
        val names = signatureNames()
        val inputs = graph.ints(1).orEmpty().map { input(it, names) }
        if (inputs.isEmpty()) throw ModelException(ModelProblem.NO_INPUTS)
        val outputs = graph.ints(2).orEmpty().map { tensor(it, names) }
        val metadata = Metadata(::metadataBuffer, AssociatedFiles(buffer))
        return ModelFile(
            bytes = buffer.limit().toLong(),
            inputs = inputs,
            outputs = outputs,
            metadata = metadata.texts(),
            labels = metadata.labels(),
            imageConfig = metadata.imageConfig(inputs.first()),
            customOperators = model.tables(1).mapNotNull { it.text(1) },
            operators = graph.tables(3).size,
        )
    }

    private fun visitGraphs() {
        for (one in model.tables(2)) {
            for (tensor in one.tables(0)) {
                tensor.ints(0)
                tensor.byteCount(3)
                requireBuffer(tensor.int(2))
                tensor.table(4)?.run { floats(2) to longs(3) }
            }
            val codes = model.tables(1).size
            for (operator in one.tables(3)) {
                if (operator.int(0) !in 0 until codes) throw IndexOutOfBoundsException("An operator has no code.")
                operator.ints(1)
                operator.ints(2)
                operator.table(4)?.byte(0)
                operator.byteCount(5)
            }
        }
    }

    private fun requireBuffer(index: Int) {
        if (index !in buffers.indices) throw IndexOutOfBoundsException("A tensor has no buffer.")
    }

    /** Checks that the file has the whole contents of the buffers, which may stand after the tables. */
    private fun visitBuffers() {
        for (one in buffers) {
            one.byteCount(0)
            val offset = one.long(1)
            val size = one.long(2)
            val outside = offset < 0 || size < 0 || offset > buffer.limit() || size > buffer.limit() - offset
            if (outside) throw IndexOutOfBoundsException("A buffer ends after the file.")
        }
    }

    /** The names of tensors in the signature of the main graph, by the tensors' indices. */
    private fun signatureNames(): Map<Int, String> =
        model.tables(7).filter { it.int(4) == 0 }.flatMap { it.tables(0) + it.tables(1) }
            .associate { it.int(1) to it.text(0).orEmpty() }

    private fun tensor(index: Int, names: Map<Int, String>): TensorInfo {
        val tensor = tensors.getOrNull(index) ?: throw IndexOutOfBoundsException("There is no tensor $index.")
        val quantization = tensor.table(4)
        val scales = quantization?.floats(2).orEmpty()
        return TensorInfo(
            name = names[index] ?: tensor.text(3).orEmpty(),
            shape = tensor.ints(7)?.takeIf { sizes -> sizes.any { it < 0 } } ?: tensor.ints(0).orEmpty(),
            type = TYPES[tensor.byte(1)] ?: TensorType.OTHER,
            scale = scales.firstOrNull() ?: 0f,
            zeroPoint = if (scales.isEmpty()) 0 else quantization?.longs(3)?.firstOrNull()?.toInt() ?: 0,
        )
    }

    private fun input(index: Int, names: Map<Int, String>): TensorInfo {
        val input = tensor(index, names)
        val shape = input.shape.joinToString(" × ")
        when {
            input.shape.any { it < 0 } -> throw ModelException(ModelProblem.OPEN_SHAPE, listOf(input.name, shape))
            input.type == TensorType.STRING || input.type == TensorType.OTHER ->
                throw ModelException(ModelProblem.NO_NUMBERS, listOf(input.name))
            input.shape.any { it == 0 } ->
                throw ModelException(ModelProblem.NO_VALUES, listOf(input.name, shape))
            // As floating point, which does not overflow.
            input.shape.fold(input.type.bytes.toDouble()) { bytes, size -> bytes * size } > MAXIMUM_TENSOR ->
                throw ModelException(ModelProblem.LARGE_INPUT, listOf(input.name, shape))
        }
        return input
    }

    /** Returns the entry called [name] in the table of metadata, or null. */
    private fun metadataBuffer(name: String): ByteArray? {
        val entry = model.tables(6).firstOrNull { it.text(0) == name } ?: return null
        requireBuffer(entry.int(1))
        return buffers[entry.int(1)].bytes(0)
    }

    private companion object {
        val TYPES = mapOf(
            0 to TensorType.FLOAT32, 1 to TensorType.FLOAT16, 2 to TensorType.INT32, 3 to TensorType.UINT8,
            4 to TensorType.INT64, 5 to TensorType.STRING, 6 to TensorType.BOOL, 7 to TensorType.INT16,
            9 to TensorType.INT8,
        )
    }
}
