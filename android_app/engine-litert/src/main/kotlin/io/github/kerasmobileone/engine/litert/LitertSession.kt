package io.github.kerasmobileone.engine.litert

import com.google.ai.edge.litert.CompiledModel
import com.google.ai.edge.litert.LiteRtException
import com.google.ai.edge.litert.TensorBuffer
import io.github.kerasmobileone.core.Accelerator
import io.github.kerasmobileone.core.EngineException
import io.github.kerasmobileone.core.ModelFile
import io.github.kerasmobileone.core.Session
import io.github.kerasmobileone.core.TensorInfo
import io.github.kerasmobileone.core.TensorType
import java.nio.ByteBuffer

/** A model that LiteRT has compiled. Inputs and outputs are described by the file itself. */
internal class LitertSession(
    private val compiled: CompiledModel,
    description: ModelFile,
    override val ranOn: Accelerator,
) : Session {
    override val inputs = description.inputs
    override val outputs = description.outputs
    private val inputBuffers = compiled.createInputBuffers()
    private val outputBuffers = compiled.createOutputBuffers()

    override fun run(inputs: List<ByteBuffer>, outputs: List<ByteBuffer>) {
        try {
            inputBuffers.forEachIndexed { index, target -> write(inputs[index], target, this.inputs[index]) }
            compiled.run(inputBuffers, outputBuffers)
            outputBuffers.forEachIndexed { index, source -> read(source, outputs[index], this.outputs[index]) }
        } catch (error: LiteRtException) {
            throw EngineException("The model stopped on ${ranOn.id}: ${error.message}", error)
        }
    }

    override fun close() {
        (inputBuffers + outputBuffers).forEach(TensorBuffer::close)
        compiled.close()
    }
}

/** Refuses a tensor of a type that LiteRT's buffers cannot be written from Kotlin with. */
internal fun requireCopyable(tensor: TensorInfo) {
    when (tensor.type) {
        TensorType.FLOAT32, TensorType.INT32, TensorType.INT8, TensorType.UINT8 -> Unit
        else -> throw EngineException("LiteRT does not copy the type ${tensor.type} of '${tensor.name}'.")
    }
}

private fun write(source: ByteBuffer, target: TensorBuffer, tensor: TensorInfo) {
    val view = source.duplicate().order(source.order())
    view.clear()
    when (tensor.type) {
        TensorType.FLOAT32 -> target.writeFloat(FloatArray(tensor.elements).also { view.asFloatBuffer().get(it) })
        TensorType.INT32 -> target.writeInt(IntArray(tensor.elements).also { view.asIntBuffer().get(it) })
        else -> target.writeInt8(ByteArray(tensor.elements).also { view.get(it) })
    }
}

private fun read(source: TensorBuffer, target: ByteBuffer, tensor: TensorInfo) {
    val view = target.duplicate().order(target.order())
    view.clear()
    when (tensor.type) {
        TensorType.FLOAT32 -> view.asFloatBuffer().put(source.readFloat())
        TensorType.INT32 -> view.asIntBuffer().put(source.readInt())
        else -> view.put(source.readInt8())
    }
}
