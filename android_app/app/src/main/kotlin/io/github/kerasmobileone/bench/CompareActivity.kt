package io.github.kerasmobileone.bench

import android.os.Bundle
import android.widget.LinearLayout
import io.github.kerasmobileone.core.Benchmark

/** Two results side by side: the times of what both have measured. */
class CompareActivity : BenchActivity() {
    private val cards by lazy { Cards(this, findViewById<LinearLayout>(R.id.detail_content)) }

    override fun onCreate(state: Bundle?) {
        super.onCreate(state)
        setScreen(R.layout.detail)
        setBack(getString(R.string.compare))
        val names = listOf(FIRST, SECOND).map { intent.getStringExtra(it).orEmpty() }
        load({ names.map { bench.history.find(it) } }) { (first, second) -> show(first, second) }
    }

    private fun show(first: StoredResult?, second: StoredResult?) {
        cards.clear()
        val (one, other) = first?.benchmark to second?.benchmark
        if (first == null || second == null || one == null || other == null) {
            cards.warning(getString(R.string.result_gone))
            return
        }
        val different = CONDITIONS.filter { one.conditions[it] != other.conditions[it] }
        if (different.isNotEmpty()) {
            val names = different.joinToString { it.replace('_', ' ') }
            cards.warning(getString(R.string.compare_conditions, names))
        }
        val card = cards.card(R.string.section_table)
        cards.text(card, getString(R.string.compare_first, title(first)))
        cards.text(card, getString(R.string.compare_second, title(second)))
        showTimes(one, other)
    }

    private fun showTimes(one: Benchmark, other: Benchmark) {
        val pairs = one.latencies.mapNotNull { latency ->
            other.latencies.find { it.path == latency.path }?.let { latency to it }
        }
        if (pairs.isEmpty()) cards.warning(getString(R.string.compare_nothing))
        for ((first, second) in pairs) {
            val card = cards.card(breakable(first.path))
            // The rounds of two runs have nothing to do with each other, so only medians are divided.
            val quotient = second.median / first.median
            val times = listOf(first, second).map { getString(R.string.milliseconds, milliseconds(it.median)) }
            cards.fact(card, getString(R.string.column_median), times.joinToString("  →  "))
            val change = getString(R.string.times, decimal(quotient, 2))
            cards.fact(card, getString(R.string.compare_change), change)
        }
    }

    companion object {
        /** Extras of the intent: names of the results in the history. */
        const val FIRST = "first"
        const val SECOND = "second"

        /** Conditions that must agree for a comparison of times. */
        private val CONDITIONS =
            listOf("target", "device", "build", "engine", "engine_version", "runs", "warmup_runs")
    }
}
