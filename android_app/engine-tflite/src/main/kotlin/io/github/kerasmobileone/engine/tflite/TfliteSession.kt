package io.github.kerasmobileone.engine.tflite

import io.github.kerasmobileone.core.Accelerator
import io.github.kerasmobileone.core.EngineException
import io.github.kerasmobileone.core.Session
import io.github.kerasmobileone.core.TensorInfo
import io.github.kerasmobileone.core.TensorType
import java.nio.ByteBuffer
import org.tensorflow.lite.DataType
import org.tensorflow.lite.Delegate
import org.tensorflow.lite.Interpreter
import org.tensorflow.lite.Tensor
import org.tensorflow.lite.executionPlanLength

/** A model that `org.tensorflow.lite` has loaded, and the delegate that belongs to it. */
internal class TfliteSession(
    private val interpreter: Interpreter,
    private val delegate: Delegate?,
    override var ranOn: Accelerator,
) : Session {
    override val inputs = List(interpreter.inputTensorCount) { describe(interpreter.getInputTensor(it)) }
    override val outputs = List(interpreter.outputTensorCount) { describe(interpreter.getOutputTensor(it)) }

    /** Number of operators and delegates that the interpreter runs one after the other. */
    val steps: Int get() = executionPlanLength(interpreter)

    override fun run(inputs: List<ByteBuffer>, outputs: List<ByteBuffer>) {
        (inputs + outputs).forEach { it.clear() }
        val targets = outputs.withIndex().associate { (index, buffer) -> index to buffer as Any }
        try {
            interpreter.runForMultipleInputsOutputs(inputs.toTypedArray(), targets)
        } catch (error: IllegalArgumentException) {
            throw failure(error)
        } catch (error: IllegalStateException) {
            throw failure(error)
        }
    }

    private fun failure(error: RuntimeException) =
        EngineException("The model stopped on ${ranOn.id}: ${error.message?.lineSequence()?.first()}", error)

    /** The interpreter uses the delegate until it is closed itself. */
    override fun close() {
        interpreter.close()
        delegate?.close()
    }
}

private fun describe(tensor: Tensor): TensorInfo = TensorInfo(
    name = tensor.name(),
    shape = tensor.shape().toList(),
    type = when (tensor.dataType()) {
        DataType.FLOAT32 -> TensorType.FLOAT32
        DataType.INT32 -> TensorType.INT32
        DataType.UINT8 -> TensorType.UINT8
        DataType.INT64 -> TensorType.INT64
        DataType.STRING -> TensorType.STRING
        DataType.BOOL -> TensorType.BOOL
        DataType.INT16 -> TensorType.INT16
        DataType.INT8 -> TensorType.INT8
        null -> TensorType.OTHER
    },
    scale = tensor.quantizationParams().scale,
    zeroPoint = tensor.quantizationParams().zeroPoint,
)
