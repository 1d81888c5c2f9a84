package io.github.kerasmobileone.engine.litert

import com.google.ai.edge.litert.Accelerator as LitertAccelerator
import com.google.ai.edge.litert.CompiledModel
import com.google.ai.edge.litert.LiteRtException
import io.github.kerasmobileone.core.Accelerator
import io.github.kerasmobileone.core.Engine
import io.github.kerasmobileone.core.EngineException
import io.github.kerasmobileone.core.ModelException
import io.github.kerasmobileone.core.ModelFile
import io.github.kerasmobileone.core.Session
import io.github.kerasmobileone.core.refusal
import java.io.File

/**
 * LiteRT 2.1 with its `CompiledModel`, for the CPU and for the GPU in half precision.
 *
 * Its library is in Google's Maven repository alone, so that Android Studio compiles this file and
 * `android_app/build` does not. The project itself has not run it.
 *
 * LiteRT copies inputs and outputs through arrays of Java, which the measured times include.
 */
class LitertEngine : Engine {
    override val id = "litert-2.1"

    /** The version in `gradle/libs.versions.toml`: the runtime does not tell its own. */
    override val version = "2.1.0"
    override val accelerators = setOf(Accelerator.CPU, Accelerator.GPU_FP16)

    override fun load(model: File, accelerator: Accelerator, threads: Int): Session {
        if (accelerator !in accelerators) throw EngineException("LiteRT $version does not offer ${accelerator.id}.")
        val description = try {
            ModelFile.read(model)
        } catch (error: ModelException) {
            throw EngineException(error.message.orEmpty(), error, error)
        }
        (description.inputs + description.outputs).forEach(::requireCopyable)
        return try {
            val compiled = CompiledModel.create(model.path, options(accelerator, threads))
            LitertSession(compiled, description, accelerator)
        } catch (error: LiteRtException) {
            throw refusal(model, "LiteRT $version (${accelerator.id})", error.message, error)
        }
    }

    private fun options(accelerator: Accelerator, threads: Int): CompiledModel.Options =
        if (accelerator == Accelerator.CPU) {
            CompiledModel.Options(LitertAccelerator.CPU).apply {
                cpuOptions = CompiledModel.CpuOptions(numThreads = threads)
            }
        } else {
            // Without the CPU among the accelerators LiteRT refuses a model that the GPU cannot run whole.
            CompiledModel.Options(LitertAccelerator.GPU)
        }
}
