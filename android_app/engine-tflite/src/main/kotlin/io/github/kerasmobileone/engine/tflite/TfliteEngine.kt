package io.github.kerasmobileone.engine.tflite

import android.os.Build
import io.github.kerasmobileone.core.Accelerator
import io.github.kerasmobileone.core.Engine
import io.github.kerasmobileone.core.EngineException
import io.github.kerasmobileone.core.ModelException
import io.github.kerasmobileone.core.ModelFile
import io.github.kerasmobileone.core.Session
import io.github.kerasmobileone.core.refusal
import java.io.File
import org.tensorflow.lite.Delegate
import org.tensorflow.lite.Interpreter
import org.tensorflow.lite.TensorFlowLite
import org.tensorflow.lite.gpu.GpuDelegate
import org.tensorflow.lite.gpu.GpuDelegateFactory
import org.tensorflow.lite.nnapi.NnApiDelegate

/**
 * TensorFlow Lite 2.16 of Google: XNNPACK on the CPU, and delegates for the GPU and for NNAPI.
 *
 * A delegate may leave a model, or some of its operators, to the CPU without telling. This is found out
 * by the number of steps that the interpreter is left with: one if the delegate runs everything.
 */
class TfliteEngine : Engine {
    override val id = "tflite-2.16"
    override val version: String = TensorFlowLite.runtimeVersion()

    override val accelerators: Set<Accelerator> =
        Accelerator.entries.toSet() - if (Build.VERSION.SDK_INT < NNAPI_SDK) setOf(Accelerator.NNAPI) else emptySet()

    override fun load(model: File, accelerator: Accelerator, threads: Int): Session {
        if (accelerator !in accelerators) throw EngineException("This phone does not have ${accelerator.id}.")
        if (accelerator == Accelerator.CPU) return open(model, accelerator, threads, null)
        // A delegate that does not take the whole model leaves the rest to XNNPACK, which also turns it
        // into a single step. Without XNNPACK the steps can be counted.
        val whole = open(model, accelerator, threads, useXnnpack = false)
        if (whole.steps == 1 && operators(model) > 1) return whole
        whole.close()
        return open(model, accelerator, threads, useXnnpack = true).apply { ranOn = Accelerator.CPU }
    }

    private val runtime get() = "TensorFlow Lite $version"

    private fun open(model: File, accelerator: Accelerator, threads: Int, useXnnpack: Boolean?): TfliteSession {
        val options = Interpreter.Options().setNumThreads(threads)
        if (useXnnpack != null) options.setUseXNNPACK(useXnnpack)
        val delegate = refusing(model, accelerator) { delegate(accelerator) }
        delegate?.let(options::addDelegate)
        return try {
            refusing(model, accelerator) { session(Interpreter(model, options), delegate, accelerator) }
        } catch (error: EngineException) {
            delegate?.close()
            throw error
        }
    }

    private fun session(interpreter: Interpreter, delegate: Delegate?, accelerator: Accelerator): TfliteSession = try {
        TfliteSession(interpreter, delegate, accelerator)
    } catch (error: IllegalArgumentException) { // a tensor of a type that Java lacks
        interpreter.close()
        throw error
    }

    /** Turns what the runtime throws into one sentence. */
    private fun <T> refusing(model: File, accelerator: Accelerator, action: () -> T): T = try {
        action()
    } catch (error: IllegalArgumentException) {
        throw refused(model, accelerator, error)
    } catch (error: IllegalStateException) {
        throw refused(model, accelerator, error)
    } catch (error: UnsupportedOperationException) {
        throw refused(model, accelerator, error)
    } catch (error: LinkageError) { // the library of a delegate does not load on this phone
        throw refused(model, accelerator, error)
    }

    private fun refused(model: File, accelerator: Accelerator, error: Throwable) =
        refusal(model, "$runtime (${accelerator.id})", error.message, error)

    private fun delegate(accelerator: Accelerator): Delegate? = when (accelerator) {
        Accelerator.CPU -> null
        Accelerator.GPU_FP16 -> gpu(precisionLossAllowed = true)
        Accelerator.GPU_FP32 -> gpu(precisionLossAllowed = false)
        // Android's own implementation of NNAPI on the CPU would measure the wrong thing.
        Accelerator.NNAPI -> NnApiDelegate(NnApiDelegate.Options().setUseNnapiCpu(false))
    }

    private fun gpu(precisionLossAllowed: Boolean): Delegate = GpuDelegate(
        GpuDelegateFactory.Options()
            .setPrecisionLossAllowed(precisionLossAllowed)
            .setQuantizedModelsAllowed(true)
            .setInferencePreference(GpuDelegateFactory.Options.INFERENCE_PREFERENCE_SUSTAINED_SPEED),
    )

    private fun operators(model: File): Int = try {
        ModelFile.read(model).operators
    } catch (error: ModelException) {
        throw EngineException(error.message.orEmpty(), error, error)
    }

    private companion object {
        /** Android 8.1, the first version that has NNAPI. */
        const val NNAPI_SDK = 27
    }
}
