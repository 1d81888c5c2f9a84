package io.github.kerasmobileone.core

import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertNull
import org.junit.jupiter.api.Assertions.assertThrows
import org.junit.jupiter.api.Test

/** The numbers of the Python package, from the same runs, to the last bit. */
class StatisticsTest {
    private val content by lazy { Fixtures.json("statistics.json") }

    private fun rounds(file: Any?): List<Round> =
        file["rounds"].items().map { roundOf(it["runs"].numbers(), it["initialization"].number()) }

    @Test
    fun `rounds are those of Python`() {
        for (file in content["files"].items()) {
            val expected = file["found"].items().map {
                Round(
                    median = it["median"].number(),
                    p95 = it["p95"].number(),
                    minimum = it["minimum"].number(),
                    initialization = it["initialization"].number(),
                    p90 = it["p90"].number(),
                    trimmed = it["trimmed"].number(),
                )
            }
            assertEquals(expected, rounds(file))
        }
    }

    @Test
    fun `latencies are those of Python`() {
        for (file in content["files"].items()) {
            val latency = file["latency"]
            val found = latencyOf(latency["path"] as String, latency["bytes"] as Long, rounds(file))
            val json = Json.parse(Benchmark(listOf(found), emptyMap()).toJson())
            assertEquals(latency, json["latencies"].items().single())
        }
    }

    @Test
    fun `ratios are those of Python`() {
        val latencies = content["files"].items().map { latencyOf("", 0, rounds(it)) }
        val found = latencies.map { one -> latencies.map { other -> ratio(one, other) } }
        assertEquals(content["ratios"].items().map { it.numbers() }, found)
    }

    @Test
    fun `percentiles are those of Python`() {
        for (pair in content["percentiles"].items()) {
            val (percent, expected) = pair.numbers()
            assertEquals(expected, percentile(content["ordered"].numbers(), percent))
        }
    }

    @Test
    fun `a fifth of the runs is cut off at each end`() {
        val round = roundOf(listOf(1000.0, 3.0, 2.0, 4.0, -500.0), 7.0)
        assertEquals(3.0, round.trimmed)
        assertEquals(3.0, round.median)
        assertEquals(-500.0, round.minimum)
        assertEquals(7.0, round.initialization)
    }

    @Test
    fun `the median of an even number of values is between the middle ones`() {
        assertEquals(2.5, median(listOf(9.0, 1.0, 3.0, 2.0)))
    }

    @Test
    fun `ratios are formed within rounds`() {
        val rounds = { medians: List<Double> -> latencyOf("", 0, medians.map { Round(it, it, it, 1.0) }) }
        val (drifting, reference) = rounds(listOf(2.0, 40.0, 6.0)) to rounds(listOf(1.0, 10.0, 3.0))
        assertEquals(listOf(2.0, 4.0, 2.0), roundRatios(drifting, reference))
        assertEquals(2.0, ratio(drifting, reference))
        assertEquals(2.0, ratio(drifting, rounds(listOf(3.0))))
    }

    @Test
    fun `what a round lacks is unknown in the latency`() {
        val complete = Round(1.0, 1.0, 1.0, 1.0, p90 = 1.0, trimmed = 1.0)
        val latency = latencyOf("", 0, listOf(complete, complete.copy(p90 = null)))
        assertNull(latency.p90)
        assertEquals(1.0, latency.trimmed)
    }

    @Test
    fun `no values have no statistics`() {
        assertThrows(IllegalArgumentException::class.java) { median(emptyList()) }
        assertThrows(IllegalArgumentException::class.java) { percentile(emptyList(), 50.0) }
    }
}
