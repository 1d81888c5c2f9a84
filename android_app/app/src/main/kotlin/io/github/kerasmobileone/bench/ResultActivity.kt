package io.github.kerasmobileone.bench

import android.content.ActivityNotFoundException
import android.content.Intent
import android.os.Bundle
import android.view.View
import android.widget.AdapterView
import android.widget.ArrayAdapter
import android.widget.LinearLayout
import android.widget.Spinner
import io.github.kerasmobileone.core.Benchmark

/** One result: times, charts, warnings and conditions. */
class ResultActivity : BenchActivity() {
    private val cards by lazy { Cards(this, findViewById<LinearLayout>(R.id.detail_content)) }
    private lateinit var name: String
    private var baseline = 0

    override fun onCreate(state: Bundle?) {
        super.onCreate(state)
        setScreen(R.layout.detail)
        name = intent.getStringExtra(NAME).orEmpty()
        baseline = state?.getInt(BASELINE) ?: 0
        setBack(getString(R.string.title_result))
        load({ bench.history.find(name) }) { result ->
            if (result == null) cards.warning(getString(R.string.result_gone)) else show(result)
        }
    }

    override fun onSaveInstanceState(state: Bundle) {
        super.onSaveInstanceState(state)
        state.putInt(BASELINE, baseline)
    }

    private fun show(result: StoredResult) {
        cards.clear()
        cards.heading(title(result))
        val benchmark = result.benchmark
        if (benchmark == null) {
            cards.warning(getString(R.string.open_json_only))
        } else {
            val warnings = warningsOf(benchmark)
            if (warnings.isNotEmpty()) cards.warning(warnings.joinToString("\n\n", transform = ::breakable))
            showTimes(benchmark)
            showCharts(benchmark)
            showFailures(benchmark)
            showConditions(benchmark)
            cards.button(R.string.share_json) { share(benchmark, json = true) }
            cards.button(R.string.share_csv) { share(benchmark, json = false) }
        }
        cards.button(R.string.delete_result, ::ask)
    }

    private fun showTimes(benchmark: Benchmark) {
        if (benchmark.latencies.isEmpty()) return
        baseline = baseline.coerceIn(benchmark.latencies.indices)
        val card = cards.card(R.string.section_table)
        val table = LatencyTable(this, card)
        if (benchmark.latencies.size > 1) card.addView(baselineChooser(benchmark, table))
        table.fill(benchmark, baseline)
    }

    private fun baselineChooser(benchmark: Benchmark, table: LatencyTable): View {
        val view = layoutInflater.inflate(R.layout.baseline, null)
        val spinner = view.findViewById<Spinner>(R.id.baseline)
        val names = benchmark.latencies.map { breakable(it.path) }
        spinner.adapter = ArrayAdapter(this, R.layout.item_spinner, names).apply {
            setDropDownViewResource(R.layout.item_spinner_choice)
        }
        spinner.setSelection(baseline)
        spinner.onItemSelectedListener = object : AdapterView.OnItemSelectedListener {
            override fun onItemSelected(parent: AdapterView<*>?, chosen: View?, position: Int, id: Long) {
                if (position == baseline) return
                baseline = position
                table.fill(benchmark, position)
            }

            override fun onNothingSelected(parent: AdapterView<*>?) = Unit
        }
        return view
    }

    private fun showCharts(benchmark: Benchmark) {
        if (benchmark.latencies.isEmpty()) return
        val bars = BarsView(this)
        bars.show(
            benchmark.latencies.map {
                val text = getString(R.string.milliseconds, milliseconds(it.median))
                Bar(breakable(it.path), it.median, text, it.medians)
            },
        )
        cards.card(R.string.section_bars).addView(bars)
        if (benchmark.latencies.none { it.medians.size > 2 }) return
        val curve = CurveView(this)
        val seconds = map(benchmark.conditions["round_seconds"])
        val timed = benchmark.latencies.all { latency ->
            val times = numbers(seconds[latency.path])
            times.size == latency.medians.size && times.last() > times.first()
        }
        curve.axis = getString(if (timed) R.string.curve_seconds else R.string.curve_rounds)
        curve.curves = benchmark.latencies.map { latency ->
            val times = if (timed) numbers(seconds[latency.path]) else latency.medians.indices.map { it + 1.0 }
            Curve(breakable(latency.path), times.zip(latency.medians))
        }
        curve.contentDescription = getString(R.string.curve_description, describe(benchmark))
        cards.card(R.string.section_curve).addView(curve)
    }

    private fun numbers(value: Any?) = (value as? List<*>).orEmpty().map { (it as? Number)?.toDouble() ?: 0.0 }

    private fun describe(benchmark: Benchmark) = benchmark.latencies.filter { it.medians.isNotEmpty() }.joinToString {
        val (first, last) = listOf(it.medians.first(), it.medians.last()).map { value ->
            getString(R.string.milliseconds, milliseconds(value))
        }
        getString(R.string.curve_line, it.path, first, last)
    }

    private fun showFailures(benchmark: Benchmark) {
        if (benchmark.failures.isEmpty()) return
        val card = cards.card(R.string.section_failures)
        benchmark.failures.forEach { cards.fact(card, breakable(it.path), it.message) }
    }

    private fun showConditions(benchmark: Benchmark) {
        val card = cards.card(R.string.section_conditions)
        for ((key, value) in flatten(benchmark.conditions - SHOWN_ELSEWHERE)) cards.fact(card, key, value)
    }

    private fun share(benchmark: Benchmark, json: Boolean) {
        val file = name.removeSuffix(".json") + if (json) ".json" else ".csv"
        val text = { if (json) benchmark.toJson() else benchmark.toCsv() }
        load({ ResultProvider.share(this, "mobileone-bench-$file", text()) }) { uri ->
            val intent = Intent(Intent.ACTION_SEND)
                .setType(if (json) "application/json" else "text/csv")
                .putExtra(Intent.EXTRA_STREAM, uri)
                .addFlags(Intent.FLAG_GRANT_READ_URI_PERMISSION)
            // The share sheet shows a preview only of what stands in the clip data.
            intent.clipData = android.content.ClipData.newRawUri(file, uri)
            startOrTell(Intent.createChooser(intent, getString(R.string.share)))
        }
    }

    private fun startOrTell(intent: Intent) {
        try {
            startActivity(intent)
        } catch (error: ActivityNotFoundException) {
            cards.warning(getString(R.string.no_app_to_share))
        }
    }

    private fun ask() = askToDelete(getString(R.string.delete_result_question)) {
        load({ bench.history.delete(name) }) { finish() }
    }

    companion object {
        /** Extra of the intent: name of the result in the history. */
        const val NAME = "name"
        private const val BASELINE = "baseline"

        /** Conditions that the table and the curve show, or that are too long to read. */
        private val SHOWN_ELSEWHERE = setOf("configurations", "round_seconds", "thermal")
    }
}

/** Names and values of nested conditions, one line each. */
internal fun flatten(conditions: Map<String, Any?>, prefix: String = ""): List<Pair<String, String>> =
    conditions.flatMap { (key, value) ->
        val name = if (prefix.isEmpty()) key.replace('_', ' ') else "$prefix › ${key.replace('_', ' ')}"
        when (value) {
            null -> emptyList()
            is Map<*, *> -> flatten(value.entries.associate { it.key.toString() to it.value }, name)
            is List<*> -> listOf(name to value.joinToString())
            is Double -> listOf(name to if (value == Math.rint(value)) "%.0f".format(value) else "%.4g".format(value))
            else -> listOf(name to value.toString())
        }
    }
