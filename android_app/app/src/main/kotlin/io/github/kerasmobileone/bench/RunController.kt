package io.github.kerasmobileone.bench

import android.os.SystemClock
import io.github.kerasmobileone.core.Accelerator
import io.github.kerasmobileone.core.Benchmark
import java.io.File
import java.io.IOException
import java.util.concurrent.CopyOnWriteArraySet
import java.util.concurrent.atomic.AtomicBoolean

/**
 * What to measure: every file on every accelerator, on the CPU with each number of threads.
 *
 * @property engine id of the runtime; empty for the first one that has the accelerators.
 * @property minutes time after which the benchmark ends; 0 for all [rounds].
 * @property output file that receives the result as well, for a program at the desk.
 */
data class RunRequest(
    val files: List<File>,
    val engine: String,
    val accelerators: List<Accelerator>,
    val threads: List<Int>,
    val rounds: Int,
    val runs: Int,
    val warmupRuns: Int = WARMUP_RUNS,
    val minutes: Int = 0,
    val coolDown: Boolean = false,
    val output: File? = null,
) {
    companion object {
        const val WARMUP_RUNS = 10
    }
}

/**
 * How far a benchmark is.
 *
 * @property done measured rounds of single candidates, of [total].
 * @property round the current round, from 1; 0 before the first.
 * @property what the candidate that is being measured.
 * @property soFar median in milliseconds of each candidate over its rounds until now.
 */
data class Progress(
    val done: Int = 0,
    val total: Int = 0,
    val round: Int = 0,
    val rounds: Int = 0,
    val what: String = "",
    val cooling: Boolean = false,
    val soFar: Map<String, Double> = emptyMap(),
    val heat: Heat? = null,
)

/** What the app is doing or has just done. */
sealed class RunState {
    object Idle : RunState()

    /** @property since start by the clock of [SystemClock.elapsedRealtime]. */
    data class Running(
        val request: RunRequest,
        val since: Long,
        val progress: Progress,
        val cancelling: Boolean = false,
    ) : RunState()

    /** @property result name in the history. */
    data class Finished(val result: String) : RunState()

    data class Failed(val sentence: String) : RunState()
}

/**
 * Runs one benchmark at a time and tells its state. It outlives activities, so that a rotation does
 * not disturb a measurement.
 *
 * Its methods are called on the main thread, and it tells its listeners there.
 */
class RunController(private val app: BenchApplication) {
    private val listeners = CopyOnWriteArraySet<() -> Unit>()
    private val cancelled = AtomicBoolean()
    private val leftForeground = AtomicBoolean()

    var state: RunState = RunState.Idle
        private set(value) {
            field = value
            listeners.forEach { it() }
        }

    /** Calls [listener] at every change of [state] until [removeListener]. */
    fun addListener(listener: () -> Unit) = listeners.add(listener)

    fun removeListener(listener: () -> Unit) = listeners.remove(listener)

    /** Starts a benchmark; false if one is running. */
    fun start(request: RunRequest): Boolean {
        if (state is RunState.Running) return false
        cancelled.set(false)
        leftForeground.set(false)
        state = RunState.Running(request, SystemClock.elapsedRealtime(), Progress())
        app.work.measure {
            val end = measure(request)
            app.work.show { state = end }
        }
        return true
    }

    /** Stops the benchmark after the current round of the current model. */
    fun cancel() {
        val running = state as? RunState.Running ?: return
        cancelled.set(true)
        state = running.copy(cancelling = true)
    }

    /** Notes that the app is no longer in the foreground, where it gets less processor time. */
    fun noteBackground() {
        if (state is RunState.Running) leftForeground.set(true)
    }

    /** Forgets a benchmark that has ended, once its result was shown. */
    fun acknowledge() {
        if (state !is RunState.Running) state = RunState.Idle
    }

    private fun measure(request: RunRequest): RunState {
        val stateFile = StateFile(request.output)
        val end = try {
            stateFile.running(0, 0)
            store(request, measured(request, stateFile))
        } catch (error: NotMeasured) {
            RunState.Failed(error.message.orEmpty())
        } catch (error: IOException) {
            RunState.Failed(app.getString(R.string.run_not_stored))
        }
        try {
            stateFile.ended((end as? RunState.Failed)?.sentence)
        } catch (error: IOException) {
            return RunState.Failed(app.getString(R.string.run_not_stored))
        }
        return end
    }

    private fun measured(request: RunRequest, stateFile: StateFile): Benchmark {
        val measurement = Measurement(app, request, cancelled, leftForeground) { progress ->
            stateFile.running(progress.done, progress.total)
            app.work.show {
                (state as? RunState.Running)?.let { state = it.copy(progress = progress) }
            }
        }
        return measurement.run()
    }

    private fun store(request: RunRequest, result: Benchmark): RunState {
        val empty = result.latencies.isEmpty() && result.failures.isEmpty()
        if (empty) return RunState.Failed(app.getString(R.string.run_cancelled))
        request.output?.let { History.writeWhole(it, result.toJson()) }
        return RunState.Finished(app.history.add(result))
    }
}

/** Why nothing was measured: a sentence for the user. */
class NotMeasured(message: String) : Exception(message)

/** The file beside a result by which a program at the desk sees how far the app is. */
class StateFile(output: File?) {
    private val file = output?.let { File("${it.path}.state") }

    fun running(done: Int, total: Int) = write("running $done/$total")

    /** The end: a failure if there is a sentence. */
    fun ended(failure: String?) =
        write(if (failure == null) "done" else "failed: ${failure.lineSequence().joinToString(" ")}")

    private fun write(text: String) {
        val target = file ?: return
        target.parentFile?.mkdirs()
        History.writeWhole(target, text)
    }
}
