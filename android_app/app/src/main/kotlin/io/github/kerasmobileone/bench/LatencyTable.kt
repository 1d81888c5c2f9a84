package io.github.kerasmobileone.bench

import android.app.Activity
import android.view.View
import android.widget.GridLayout
import android.widget.LinearLayout
import android.widget.TextView
import io.github.kerasmobileone.core.Accelerator
import io.github.kerasmobileone.core.Benchmark
import io.github.kerasmobileone.core.Latency
import io.github.kerasmobileone.core.ratio

/** The times of a result: a name and a grid of numbers for each file and setting. */
class LatencyTable(private val activity: Activity, private val card: LinearLayout) {
    private val rows = mutableListOf<View>()

    /** Shows the times with their ratios to one of them. */
    fun fill(benchmark: Benchmark, baseline: Int) {
        rows.forEach(card::removeView)
        rows.clear()
        val reference = benchmark.latencies[baseline]
        val fastest = benchmark.latencies.minByOrNull { it.median }
        for (latency in benchmark.latencies) {
            val best = latency === fastest && benchmark.latencies.size > 1
            val name = if (best) activity.getString(R.string.fastest, latency.path) else latency.path
            add(name, numbers(latency, reference) + listOfNotNull(difference(benchmark, latency)))
        }
    }

    private fun numbers(latency: Latency, reference: Latency): List<Pair<Int, String>> {
        val time = { value: Double? -> value?.let { activity.getString(R.string.milliseconds, milliseconds(it)) } }
        val quotient = decimal(ratio(latency, reference), 2)
        return listOf(
            R.string.column_median to time(latency.median),
            R.string.column_ratio to activity.getString(R.string.times, quotient),
            R.string.column_p90 to time(latency.p90),
            R.string.column_trimmed to time(latency.trimmed),
            R.string.column_initialization to time(latency.initialization),
            R.string.column_size to activity.getString(R.string.megabytes, megabytes(latency.bytes)),
        ).mapNotNull { (name, text) -> text?.let { name to it } }
    }

    /** How much the outputs differ from the CPU's, if something else computed them. */
    private fun difference(benchmark: Benchmark, latency: Latency): Pair<Int, String>? {
        val how = map(map(benchmark.conditions["configurations"])[latency.path])
        val difference = (how["difference"] as? Number)?.toDouble() ?: return null
        if (how["accelerator"] == Accelerator.CPU.id) return null
        return R.string.column_difference to activity.getString(R.string.percent, decimal(100 * difference, 2))
    }

    private fun add(name: String, numbers: List<Pair<Int, String>>) {
        val row = activity.layoutInflater.inflate(R.layout.item_latency, card, false)
        row.findViewById<TextView>(R.id.latency_name).text = breakable(name)
        val grid = row.findViewById<GridLayout>(R.id.latency_numbers)
        grid.columnCount = columns()
        for ((label, text) in numbers) grid.addView(cell(label, text, grid))
        rows += row
        card.addView(row)
    }

    private fun cell(label: Int, text: String, grid: GridLayout): View {
        val cell = activity.layoutInflater.inflate(R.layout.item_fact, grid, false)
        cell.findViewById<TextView>(R.id.fact_name).setText(label)
        cell.findViewById<TextView>(R.id.fact_value).apply {
            this.text = text
            setTextAppearance(R.style.Text_Bench_Number)
        }
        cell.layoutParams = GridLayout.LayoutParams().apply {
            width = 0
            columnSpec = GridLayout.spec(GridLayout.UNDEFINED, 1f)
        }
        return cell
    }

    /** As many columns as the width has room for at the user's text size. */
    private fun columns(): Int {
        val configuration = activity.resources.configuration
        val wide = configuration.screenWidthDp / configuration.fontScale
        return (wide / COLUMN_DP).toInt().coerceIn(1, MAXIMUM_COLUMNS)
    }

    private companion object {
        const val COLUMN_DP = 125
        const val MAXIMUM_COLUMNS = 6
    }
}
