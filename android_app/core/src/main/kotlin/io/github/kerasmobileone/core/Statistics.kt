package io.github.kerasmobileone.core

import java.math.BigDecimal

/** The part of the runs that is cut off at each end: a fifth, as MobileOne's authors cut 10 of 50. */
private const val TRIMMED = 5

/**
 * Statistics of the runs of one candidate in one round, in milliseconds.
 *
 * @property median median of all runs.
 * @property p95 95th percentile of all runs.
 * @property minimum fastest run.
 * @property initialization time to load and prepare the file.
 * @property p90 90th percentile of all runs; null if it was not reported.
 * @property trimmed mean without the slowest and the fastest fifth of the runs; null if it was not reported.
 */
data class Round(
    val median: Double,
    val p95: Double,
    val minimum: Double,
    val initialization: Double,
    val p90: Double? = null,
    val trimmed: Double? = null,
)

/**
 * Time of one inference of one candidate over all rounds, in milliseconds.
 *
 * @property path name of the file, followed by how it ran if the file was measured in several ways.
 * @property bytes size of the file.
 * @property median median over the rounds of each round's median.
 * @property p95 median over the rounds of each round's 95th percentile.
 * @property minimum fastest run of all rounds.
 * @property initialization median time to load and prepare the file.
 * @property p90 median over the rounds of each round's 90th percentile; null if a round lacks it.
 * @property trimmed median over the rounds of each round's trimmed mean; null if a round lacks it.
 * @property medians median of each round, in order. Ratios between files are computed from these.
 */
data class Latency(
    val path: String,
    val bytes: Long,
    val median: Double,
    val p95: Double,
    val minimum: Double,
    val initialization: Double,
    val p90: Double? = null,
    val trimmed: Double? = null,
    val medians: List<Double> = emptyList(),
)

/** Summarizes single runs, all in milliseconds. There must be at least one. */
fun roundOf(runs: List<Double>, initialization: Double): Round {
    val ordered = runs.sorted()
    val cut = ordered.size / TRIMMED
    return Round(
        median = median(ordered),
        p95 = percentile(ordered, 95.0),
        minimum = ordered.first(),
        initialization = initialization,
        p90 = percentile(ordered, 90.0),
        trimmed = mean(ordered.subList(cut, ordered.size - cut)),
    )
}

/** Summarizes the rounds of a file of [bytes] bytes. There must be at least one round. */
fun latencyOf(path: String, bytes: Long, rounds: List<Round>): Latency = Latency(
    path = path,
    bytes = bytes,
    median = median(rounds.map { it.median }),
    p95 = median(rounds.map { it.p95 }),
    minimum = rounds.minOf { it.minimum },
    initialization = median(rounds.map { it.initialization }),
    p90 = medianOrNull(rounds.map { it.p90 }),
    trimmed = medianOrNull(rounds.map { it.trimmed }),
    medians = rounds.map { it.median },
)

private fun medianOrNull(values: List<Double?>): Double? {
    val known = values.filterNotNull()
    return if (known.size == values.size) median(known) else null
}

/** Returns a percentile of values in ascending order, interpolated linearly. */
fun percentile(ordered: List<Double>, percent: Double): Double {
    require(ordered.isNotEmpty()) { "Expected at least one value. Received: none." }
    val position = (ordered.size - 1) * percent / 100
    val below = position.toInt()
    val above = minOf(below + 1, ordered.size - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])
}

/** Returns the median of values in any order. */
fun median(values: List<Double>): Double {
    require(values.isNotEmpty()) { "Expected at least one value. Received: none." }
    val ordered = values.sorted()
    val middle = ordered.size / 2
    return if (ordered.size % 2 == 1) ordered[middle] else (ordered[middle - 1] + ordered[middle]) / 2
}

/** Returns the mean from the exact sum, as Python's `statistics.fmean` does. */
private fun mean(values: List<Double>): Double =
    values.fold(BigDecimal.ZERO) { sum, value -> sum + BigDecimal(value) }.toDouble() / values.size

/**
 * Returns the ratio of the times of two candidates in one benchmark.
 *
 * The two medians of a round are divided, and the median of these quotients over the rounds is
 * returned, so that a drift of the device, which changes both times, cancels out. If the numbers of
 * rounds differ, the overall medians are divided.
 */
fun ratio(latency: Latency, reference: Latency): Double {
    val quotients = roundRatios(latency, reference)
    return if (quotients.isEmpty()) latency.median / reference.median else median(quotients)
}

/** Returns the quotient of two candidates' medians in each round; empty if their rounds differ. */
fun roundRatios(latency: Latency, reference: Latency): List<Double> =
    if (latency.medians.size != reference.medians.size) emptyList()
    else latency.medians.zip(reference.medians) { one, other -> one / other }
