package io.github.kerasmobileone.core

import java.nio.ByteBuffer
import kotlin.math.abs
import kotlin.random.Random

/** One measured round of a candidate; [difference] is null if the CPU's outputs are not known. */
internal class Measured(val round: Round, val ranOn: Accelerator, val difference: Double?)

/**
 * Measures the rounds of one file, and compares its outputs with those of the CPU.
 *
 * All rounds have the same input. Their buffers are reused, since they may be large.
 */
internal class Measurer(
    private val model: ModelFile,
    private val settings: Settings,
    private val cancelled: () -> Boolean,
) {
    private var buffers = Buffers(emptyList(), emptyList())
    private val references = HashMap<Engine, List<ByteBuffer>>()

    /** Notes the outputs of the candidate's file on the CPU. If the CPU refuses it, they stay unknown. */
    fun takeReference(candidate: Candidate) {
        try {
            candidate.engine.load(candidate.file, Accelerator.CPU, 1).use { session ->
                prepare(session)
                session.run(buffers.inputs, buffers.outputs)
                references[candidate.engine] = buffers.outputs.map(::copy)
            }
        } catch (error: EngineException) {
            references.remove(candidate.engine) // The rounds on the CPU fail for the same reason and tell it.
        }
    }

    /**
     * Loads the candidate in a new session and measures one round; returns null if it was cancelled.
     *
     * @throws EngineException if the engine refuses the file or fails.
     */
    fun measure(candidate: Candidate): Measured? {
        val start = System.nanoTime()
        return candidate.engine.load(candidate.file, candidate.accelerator, candidate.threads).use { session ->
            val initialization = milliseconds(start)
            prepare(session)
            val reference = references[candidate.engine]
            if (!warmUp(session)) return null
            val before = if (settings.warmupRuns == 0) null else reference?.let { difference(session, it) }
            buffers.spoilOutputs()
            val runs = times(session) ?: return null
            val after = reference?.let { difference(session, it) }
            Measured(roundOf(runs, initialization), session.ranOn, listOfNotNull(before, after).maxOrNull())
        }
    }

    private fun warmUp(session: Session): Boolean {
        repeat(settings.warmupRuns) {
            if (cancelled()) return false
            session.run(buffers.inputs, buffers.outputs)
        }
        return true
    }

    private fun times(session: Session): List<Double>? = List(settings.runs) {
        if (cancelled()) return null
        val start = System.nanoTime()
        session.run(buffers.inputs, buffers.outputs)
        milliseconds(start)
    }

    private fun milliseconds(start: Long): Double = (System.nanoTime() - start) / 1e6

    private fun prepare(session: Session) {
        if (buffers.tensors != session.inputs to session.outputs) {
            buffers = try {
                Buffers(session.inputs, session.outputs)
            } catch (error: OutOfMemoryError) {
                throw EngineException("There is not enough memory for the inputs and outputs of the model.", error)
            }
            fillInputs(session.inputs)
        }
        buffers.spoilOutputs()
    }

    /** Fills the inputs with random values, the same at every call. */
    private fun fillInputs(tensors: List<TensorInfo>) {
        val random = Random(SEED)
        for ((tensor, buffer) in tensors.zip(buffers.inputs)) fill(buffer, tensor, rangeOf(tensor), random)
    }

    /** What random values of an input range over: normalized pixels if the file tells it takes images. */
    private fun rangeOf(tensor: TensorInfo): ClosedFloatingPointRange<Float> {
        val config = model.imageConfig
        if (config == null || tensor.type != TensorType.FLOAT32 && tensor.type != TensorType.FLOAT16) return -1f..1f
        val channels = 0 until CHANNELS
        return channels.minOf { config.normalized(0, it) }..channels.maxOf { config.normalized(255, it) }
    }

    private fun difference(session: Session, reference: List<ByteBuffer>): Double {
        // Outputs of other sizes than the CPU's are wrong in any case.
        if (buffers.outputs.map { it.capacity() } != reference.map { it.capacity() }) return 1.0
        return session.outputs.indices.maxOfOrNull { index ->
            relativeDifference(buffers.outputs[index], reference[index], session.outputs[index])
        } ?: 0.0
    }

    private fun copy(buffer: ByteBuffer): ByteBuffer {
        val copy = ByteBuffer.allocate(buffer.capacity()).order(buffer.order())
        copy.put(buffer.duplicate().apply { clear() })
        return copy
    }

    private companion object {
        const val SEED = 0
    }
}

/** The buffers of all inputs and outputs. */
private class Buffers(inputTensors: List<TensorInfo>, outputTensors: List<TensorInfo>) {
    val tensors = inputTensors to outputTensors
    val inputs = inputTensors.map(::bufferFor)
    val outputs = outputTensors.map(::bufferFor)

    /** Overwrites the outputs, so that a delegate that writes nothing does not seem to be right. */
    fun spoilOutputs() {
        for (output in outputs) {
            for (place in 0 until output.capacity()) output.put(place, -1) // NaN as floating point
        }
    }
}

/**
 * Fills a tensor with random values: floating-point values in [range], and integers in the range of
 * int8 as far as the type has it.
 */
internal fun fill(buffer: ByteBuffer, tensor: TensorInfo, range: ClosedFloatingPointRange<Float>, random: Random) {
    val real = tensor.type == TensorType.FLOAT32 || tensor.type == TensorType.FLOAT16
    // Integers are written as they are stored.
    val stored = tensor.copy(scale = 0f, zeroPoint = 0)
    val limits = if (real) LongRange.EMPTY else integers(tensor.type)
    for (index in 0 until tensor.elements) {
        val value = if (real) {
            range.start + random.nextFloat() * (range.endInclusive - range.start)
        } else {
            random.nextLong(maxOf(limits.first, -128), minOf(limits.last, 127) + 1).toFloat()
        }
        putReal(buffer, stored, index, value)
    }
}

/**
 * Returns the largest difference of two outputs over the largest value of [expected].
 *
 * A value that is not finite where the expected one is counts as a difference of 1, since JSON has no
 * infinity.
 */
internal fun relativeDifference(found: ByteBuffer, expected: ByteBuffer, tensor: TensorInfo): Double {
    var largest = 0.0
    var difference = 0.0
    var broken = false
    for (index in 0 until tensor.elements) {
        val value = realValue(expected, tensor, index)
        if (value.isNaN() || value.isInfinite()) continue
        val distance = abs(realValue(found, tensor, index) - value)
        if (distance.isNaN() || distance.isInfinite()) broken = true else difference = maxOf(difference, distance)
        largest = maxOf(largest, abs(value))
    }
    val relative = if (largest == 0.0) minOf(difference, 1.0) else difference / largest
    return if (broken) maxOf(relative, 1.0) else relative
}
