package io.github.kerasmobileone.bench

import android.os.SystemClock
import io.github.kerasmobileone.core.Accelerator
import io.github.kerasmobileone.core.Benchmark
import io.github.kerasmobileone.core.Candidate
import io.github.kerasmobileone.core.Engine
import io.github.kerasmobileone.core.Listener
import io.github.kerasmobileone.core.Round
import io.github.kerasmobileone.core.Settings
import io.github.kerasmobileone.core.median
import io.github.kerasmobileone.core.runBenchmark
import java.util.concurrent.atomic.AtomicBoolean

/**
 * One benchmark, from the request to the result with its conditions. It runs on the thread of the
 * models, and calls [tell] there.
 */
class Measurement(
    private val app: BenchApplication,
    private val request: RunRequest,
    private val cancelled: AtomicBoolean,
    private val leftForeground: AtomicBoolean,
    private val tell: (Progress) -> Unit,
) : Listener {
    private val thermometer = Thermometer.of(app)
    private val begin = SystemClock.elapsedRealtime()
    private val medians = LinkedHashMap<String, MutableList<Double>>()
    private val heats = mutableListOf<Map<String, Any?>>()
    private val failed = mutableSetOf<Candidate>()
    private val seconds = LinkedHashMap<Candidate, MutableList<Double>>()
    private var progress = Progress(total = 0, rounds = request.rounds)

    /**
     * Measures.
     *
     * @throws NotMeasured if no such runtime is available.
     */
    fun run(): Benchmark {
        val engine = engine()
        val before = PhoneState.now(app, thermometer.read())
        val settings = Settings(runs = request.runs, rounds = request.rounds, warmupRuns = request.warmupRuns)
        val candidates = candidates(RememberingEngine(engine, app.crashMemory))
        candidates.forEach { seconds[it] = mutableListOf() }
        val result = runBenchmark(candidates, settings, this, ::isOver)
        val after = PhoneState.now(app, thermometer.read())
        val measured = conditions(before, after) + roundsOf(result)
        return result.copy(conditions = result.conditions + measured)
    }

    /** The runtime of the request, or the first one that has its accelerators. */
    private fun engine(): Engine {
        val found = if (request.engine.isEmpty()) {
            app.engines.working.find { it.accelerators.containsAll(request.accelerators) }
        } else {
            app.engines.find(request.engine)
        }
        val wanted = request.engine.ifEmpty { request.accelerators.joinToString { it.id } }
        return found ?: throw NotMeasured(app.getString(R.string.run_no_engine, wanted))
    }

    private fun candidates(engine: Engine): List<Candidate> = request.files.flatMap { file ->
        request.accelerators.flatMap { accelerator ->
            // Only the CPU's time depends on the number of threads.
            val numbers = if (accelerator == Accelerator.CPU) request.threads else request.threads.take(1)
            numbers.map { Candidate(file, engine, accelerator, it) }
        }
    }

    private fun isOver() = cancelled.get() || (request.minutes > 0 && passed() >= request.minutes * 60_000L)

    private fun passed() = SystemClock.elapsedRealtime() - begin

    /** When each round of each latency ended, in seconds since the start: the time axis of its curve. */
    private fun roundsOf(result: Benchmark): Map<String, Any?> {
        val rounds = result.latencies.firstOrNull()?.medians?.size ?: 0
        val times = seconds.filter { (candidate, times) -> candidate !in failed && times.isNotEmpty() }
            .values.map { it.take(rounds) }
        return mapOf("round_seconds" to result.latencies.map { it.path }.zip(times).toMap())
    }

    private fun conditions(before: Map<String, Any?>, after: Map<String, Any?>) =
        PhoneState.device() + mapOf(
            "target" to APP_TARGET,
            "before" to before,
            "after" to after,
            "thermal" to heats,
            "left_foreground" to leftForeground.get(),
            "cancelled" to cancelled.get(),
        )

    override fun onRound(candidate: Candidate, round: Int) {
        if (request.coolDown) coolDown()
        progress = progress.copy(round = round, what = name(candidate), cooling = false, heat = thermometer.read())
        tell(progress)
    }

    override fun onMeasured(candidate: Candidate, done: Int, total: Int, round: Round) {
        medians.getOrPut(name(candidate)) { mutableListOf() } += round.median
        seconds.getValue(candidate) += passed() / 1000.0
        val heat = thermometer.read()
        heats += mapOf("seconds" to passed() / 1000, "status" to heat.status, "headroom" to heat.headroom)
        val soFar = medians.mapValues { median(it.value) }
        progress = progress.copy(done = done, total = total, soFar = soFar, heat = heat)
        tell(progress)
    }

    override fun onFailed(candidate: Candidate, done: Int, total: Int, message: String) {
        failed += candidate
        progress = progress.copy(done = done, total = total)
        tell(progress)
    }

    private fun name(candidate: Candidate): String {
        val where = app.acceleratorName(candidate.accelerator)
        return "${breakable(candidate.file.name)} · $where · ${app.threads(candidate.threads)}"
    }

    private fun coolDown() {
        val end = SystemClock.elapsedRealtime() + COOL_DOWN_MILLISECONDS
        while (SystemClock.elapsedRealtime() < end && !isOver()) {
            progress = progress.copy(cooling = true, heat = thermometer.read())
            tell(progress)
            Thread.sleep(LOOK_MILLISECONDS)
        }
    }

    private companion object {
        const val COOL_DOWN_MILLISECONDS = 10_000L
        const val LOOK_MILLISECONDS = 500L
    }
}
