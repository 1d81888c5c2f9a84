package io.github.kerasmobileone.bench

import io.github.kerasmobileone.core.Accelerator
import io.github.kerasmobileone.core.Engine
import io.github.kerasmobileone.core.EngineException
import io.github.kerasmobileone.core.ImageConfig
import io.github.kerasmobileone.core.TopClass
import io.github.kerasmobileone.core.bufferFor
import io.github.kerasmobileone.core.evaluationCrop
import io.github.kerasmobileone.core.realValues
import io.github.kerasmobileone.core.topClasses
import io.github.kerasmobileone.core.writeImage
import java.io.Closeable

/** Upright pixels as `0xAARRGGBB`, row by row. */
class Pixels(val values: IntArray, val width: Int, val height: Int)

/** The most probable classes of an image, and the milliseconds of the inference alone. */
class Classified(val classes: List<TopClass>, val milliseconds: Double)

/**
 * A loaded model that classifies images on the CPU, with the labels and the preprocessing that its
 * file describes. It is used and closed on the thread that made it.
 *
 * @throws EngineException if the runtime refuses the model.
 */
class Classifier(engine: Engine, model: StoredModel) : Closeable {
    private val labels = model.details?.labels
    private val config: ImageConfig =
        requireNotNull(model.details?.imageConfig) { "The model ${model.file.name} does not say how it takes images." }
    private val session = engine.load(model.file, Accelerator.CPU, THREADS)
    private val inputs = session.inputs.map(::bufferFor)
    private val outputs = session.outputs.map(::bufferFor)

    fun classify(pixels: Pixels): Classified {
        val cropped = evaluationCrop(pixels.values, pixels.width, pixels.height, config)
        writeImage(cropped, config, session.inputs[0], inputs[0])
        val start = System.nanoTime()
        session.run(inputs, outputs)
        val time = (System.nanoTime() - start) / 1e6
        return Classified(topClasses(realValues(outputs[0], session.outputs[0]), labels), time)
    }

    override fun close() = session.close()

    private companion object {
        /** What most phones have of fast cores. */
        val THREADS = minOf(4, Runtime.getRuntime().availableProcessors())
    }
}

/** Whether a model can classify photographs. */
val StoredModel.classifies: Boolean get() = details != null && details.imageProblem == null

/** The classes as bars of their probabilities. */
fun android.content.Context.barsOf(classes: List<TopClass>): List<Bar> = classes.map {
    Bar(it.label, it.probability, getString(R.string.percent, decimal(100 * it.probability, 1)), emptyList())
}
