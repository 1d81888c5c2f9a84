package io.github.kerasmobileone.core

import java.io.File

/**
 * How a benchmark runs; the defaults are those of `keras-mobileone benchmark`.
 *
 * @property runs number of timed inferences of each candidate in each round.
 * @property rounds number of rounds over all candidates.
 * @property warmupRuns number of inferences of each candidate in each round before the timed ones.
 */
data class Settings(val runs: Int = 50, val rounds: Int = 5, val warmupRuns: Int = 10) {
    init {
        require(runs >= 1 && rounds >= 1 && warmupRuns >= 0) {
            "Expected at least 1 run, 1 round and 0 warm-up runs. Received: $runs, $rounds and $warmupRuns."
        }
    }
}

/** A file together with one way to run it. */
data class Candidate(val file: File, val engine: Engine, val accelerator: Accelerator, val threads: Int)

/** Is told how a benchmark proceeds, on the thread that runs it and never while time is taken. */
interface Listener {
    /** Called before each round of a candidate; it may wait, for example to let the device cool down. */
    fun onRound(candidate: Candidate, round: Int) {}

    /** Called after each measured round: [done] of [total] rounds of single candidates are over. */
    fun onMeasured(candidate: Candidate, done: Int, total: Int, round: Round) {}

    /** Called when a candidate has failed. Its further rounds are not measured and count as done. */
    fun onFailed(candidate: Candidate, done: Int, total: Int, message: String) {}
}

/**
 * Measures the latency of candidates side by side: batch 1, inference only.
 *
 * Each round runs every candidate once, freshly loaded: warm-up runs, then timed runs. A drift of the
 * device thus affects all candidates alike. The outputs are compared with those of the CPU in the
 * same engine, before and after the timed runs. Everything happens on the calling thread, as a GPU
 * needs it.
 *
 * A candidate that fails is listed in the failures, and the others are still measured.
 *
 * @param candidates what to measure, each pair of file and way at most once.
 * @param cancelled asked between inferences. Once it returns true, the benchmark ends, and the result
 *   has the rounds that every candidate has completed.
 */
fun runBenchmark(
    candidates: List<Candidate>,
    settings: Settings,
    listener: Listener = object : Listener {},
    cancelled: () -> Boolean = { false },
): Benchmark {
    require(candidates.isNotEmpty()) { "Expected at least one candidate. Received: none." }
    require(candidates.all { it.threads >= 1 }) { "Expected at least 1 thread for each candidate." }
    require(candidates.distinct().size == candidates.size) { "Expected each candidate once." }
    return BenchmarkRun(candidates, settings, listener, cancelled).run()
}
