package io.github.kerasmobileone.engine.bytedeco

import io.github.kerasmobileone.core.Accelerator
import io.github.kerasmobileone.core.Engine
import io.github.kerasmobileone.core.EngineException
import io.github.kerasmobileone.core.Session
import io.github.kerasmobileone.core.TensorInfo
import io.github.kerasmobileone.core.refusal
import java.io.File
import java.nio.ByteBuffer
import org.bytedeco.javacpp.Pointer
import org.bytedeco.tensorflowlite.BuiltinOpResolverWithXNNPACK
import org.bytedeco.tensorflowlite.FlatBufferModel
import org.bytedeco.tensorflowlite.Interpreter
import org.bytedeco.tensorflowlite.InterpreterBuilder
import org.bytedeco.tensorflowlite.global.tensorflowlite

/**
 * TensorFlow Lite 2.21 with XNNPACK on the CPU, through the C++ interface that bytedeco wraps.
 *
 * It is the same generation as the converter, and its library also exists for desktops, where the
 * tests run it.
 */
class BytedecoEngine : Engine {
    override val id = "tflite-2.21"
    override val version: String = tensorflowlite.TfLiteVersion().string
    override val accelerators = setOf(Accelerator.CPU)

    override fun load(model: File, accelerator: Accelerator, threads: Int): Session {
        if (accelerator != Accelerator.CPU) {
            throw EngineException("$runtime runs models on the CPU only.")
        }
        val resources = Resources()
        try {
            return BytedecoSession(resources, interpreter(model, threads, resources), model)
        } catch (error: EngineException) {
            resources.close()
            throw error
        } catch (error: RuntimeException) { // an exception of C++
            resources.close()
            throw refusal(model, runtime, error.message, error)
        }
    }

    private val runtime get() = "TensorFlow Lite $version"

    private fun interpreter(model: File, threads: Int, resources: Resources): Interpreter {
        val content: FlatBufferModel? = FlatBufferModel.VerifyAndBuildFromFile(model.path)
        if (content == null || content.isNull) throw refusal(model, runtime)
        resources.add(content)
        val resolver = resources.add(BuiltinOpResolverWithXNNPACK())
        // `InterpreterBuilder` applies XNNPACK; the interpreter of the C interface does not.
        val builder = resources.add(InterpreterBuilder(content, resolver))
        val interpreter = Interpreter(null as Pointer?)
        val built = builder.apply(interpreter, threads) == tensorflowlite.kTfLiteOk && !interpreter.isNull
        if (!built) throw refusal(model, runtime)
        resources.add(interpreter)
        if (interpreter.AllocateTensors() != tensorflowlite.kTfLiteOk) throw refusal(model, runtime)
        return interpreter
    }
}

/** Native objects that are freed together, the latest first. */
internal class Resources : AutoCloseable {
    private val pointers = ArrayDeque<Pointer>()

    fun <T : Pointer> add(pointer: T): T = pointer.also(pointers::addFirst)

    override fun close() {
        pointers.forEach(Pointer::close)
        pointers.clear()
    }
}

private class BytedecoSession(
    private val resources: Resources,
    private val interpreter: Interpreter,
    private val model: File,
) : Session {
    private val inputTensors = List(interpreter.inputs().limit().toInt()) { interpreter.input_tensor(it.toLong()) }
    private val outputTensors = List(interpreter.outputs().limit().toInt()) { interpreter.output_tensor(it.toLong()) }
    override val inputs = inputTensors.map(::describe)
    override val outputs = outputTensors.map(::describe)
    override val ranOn = Accelerator.CPU
    private var open = true

    override fun run(inputs: List<ByteBuffer>, outputs: List<ByteBuffer>) {
        check(open) { "The session is closed." }
        inputTensors.forEachIndexed { index, tensor ->
            val pointer = pointer(inputs[index], this.inputs[index])
            val size = this.inputs[index].byteCount.toLong()
            requireOk(tensorflowlite.TfLiteTensorCopyFromBuffer(tensor, pointer, size), "take its input")
        }
        requireOk(interpreter.Invoke(), "run")
        outputTensors.forEachIndexed { index, tensor ->
            val pointer = pointer(outputs[index], this.outputs[index])
            // A copy fails if the output has got another size than it had after loading.
            val size = this.outputs[index].byteCount.toLong()
            requireOk(tensorflowlite.TfLiteTensorCopyToBuffer(tensor, pointer, size), "give its output")
        }
    }

    private fun requireOk(status: Int, what: String) {
        if (status != tensorflowlite.kTfLiteOk) throw EngineException("The model ${model.name} did not $what.")
    }

    /** Returns the address of a buffer, which has to be large enough, since the native code relies on it. */
    private fun pointer(buffer: ByteBuffer, tensor: TensorInfo): Pointer {
        require(buffer.isDirect && buffer.capacity() >= tensor.byteCount) {
            "Expected a direct buffer of ${tensor.byteCount} bytes. Received: $buffer."
        }
        buffer.clear()
        return Pointer(buffer)
    }

    override fun close() {
        open = false
        resources.close()
    }
}
