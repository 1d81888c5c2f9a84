package io.github.kerasmobileone.core

import java.io.File
import java.nio.ByteBuffer

/** Where a model runs. `id` is what results and the command line call it. */
enum class Accelerator(val id: String) {
    CPU("cpu"),
    GPU_FP16("gpu-fp16"),
    GPU_FP32("gpu-fp32"),
    NNAPI("nnapi"),
}

/** Type of a tensor's values; the name is that of TFLite's schema. */
enum class TensorType(val bytes: Int) {
    FLOAT32(4),
    FLOAT16(2),
    INT32(4),
    UINT8(1),
    INT64(8),
    INT16(2),
    INT8(1),
    BOOL(1),
    STRING(0),
    OTHER(0),
}

/**
 * One input or output of a model.
 *
 * @property shape sizes of all dimensions, the batch included; −1 marks an open size.
 * @property scale factor of a quantized tensor: value = scale · (integer − zeroPoint); 0 if it is not
 *   quantized.
 */
data class TensorInfo(
    val name: String,
    val shape: List<Int>,
    val type: TensorType,
    val scale: Float = 0f,
    val zeroPoint: Int = 0,
) {
    val elements: Int get() = shape.fold(1) { product, size -> product * size }
    val byteCount: Int get() = elements * type.bytes
}

/** A runtime that loads TFLite files. Its methods may be called from any thread. */
interface Engine {
    /** Short name such as `tflite-2.21`, which results contain. */
    val id: String

    /** Version of the runtime as it tells it itself. */
    val version: String

    val accelerators: Set<Accelerator>

    /**
     * Loads a model and prepares it.
     *
     * @throws EngineException if the runtime refuses the file or the accelerator: one sentence.
     */
    fun load(model: File, accelerator: Accelerator, threads: Int): Session
}

/** A loaded model. It is used and closed on the thread that loaded it. */
interface Session : AutoCloseable {
    val inputs: List<TensorInfo>
    val outputs: List<TensorInfo>

    /** Where the model really runs: a delegate may have left it, or a part of it, to the CPU. */
    val ranOn: Accelerator

    /**
     * Runs one inference. Buffers are direct, in native byte order, of `byteCount` bytes each.
     *
     * Inputs are copied to the runtime and outputs from it, which a benchmark's times include.
     *
     * @throws EngineException if the model stops with an error: one sentence.
     */
    fun run(inputs: List<ByteBuffer>, outputs: List<ByteBuffer>)
}

/**
 * What an engine refuses, in one sentence for the person who chose the file.
 *
 * @property refused why no file of this kind runs, or null if the reason lies elsewhere.
 */
class EngineException(message: String, cause: Throwable? = null, val refused: ModelException? = null) :
    Exception(message, cause)
