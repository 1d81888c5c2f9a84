package io.github.kerasmobileone.bench

import android.os.SystemClock
import android.view.View
import android.widget.Button
import android.widget.LinearLayout
import android.widget.ProgressBar
import android.widget.TextView

/** The part of the benchmark screen that shows a benchmark going on. */
class BenchmarkRunning(private val activity: MainActivity, val view: View) {
    private val step = view.findViewById<TextView>(R.id.running_step)
    private val what = view.findViewById<TextView>(R.id.running_what)
    private val bar = view.findViewById<ProgressBar>(R.id.running_progress)
    private val time = view.findViewById<TextView>(R.id.running_time)
    private val heat = view.findViewById<TextView>(R.id.running_heat)
    private val table = view.findViewById<LinearLayout>(R.id.running_table)
    private val cards = Cards(activity, table)
    private val cancel = view.findViewById<Button>(R.id.cancel)

    init {
        cancel.setOnClickListener { activity.bench.runs.cancel() }
    }

    /** Shows how far the benchmark is. */
    fun show(state: RunState.Running) {
        val progress = state.progress
        step.text = step(state)
        what.text = if (progress.cooling) activity.getString(R.string.cooling) else progress.what
        heat.text = activity.describe(progress.heat)
        cancel.isEnabled = !state.cancelling
        showTime(state)
        view.findViewById<View>(R.id.running_card).visibility =
            if (progress.soFar.isEmpty()) View.GONE else View.VISIBLE
        cards.clear()
        for ((name, median) in progress.soFar) {
            cards.fact(table, name, activity.getString(R.string.milliseconds, milliseconds(median)))
        }
    }

    private fun step(state: RunState.Running): String {
        val progress = state.progress
        return when {
            state.cancelling -> activity.getString(R.string.cancelling)
            progress.round == 0 -> activity.getString(R.string.starting)
            state.request.minutes > 0 -> activity.getString(R.string.round_open, progress.round)
            else -> activity.getString(R.string.round_of, progress.round, progress.rounds)
        }
    }

    private fun showTime(state: RunState.Running) {
        val passed = SystemClock.elapsedRealtime() - state.since
        val part = part(state, passed)
        bar.isIndeterminate = part == null
        if (part == null) {
            time.text = activity.getString(R.string.time_passed, duration(passed))
            return
        }
        bar.max = STEPS
        bar.progress = (part * STEPS).toInt()
        val left = (passed / part - passed).toLong()
        time.text = activity.getString(R.string.time_left, duration(passed), duration(left))
    }

    /** Which part of the benchmark is done; null before the first round. */
    private fun part(state: RunState.Running, passed: Long): Double? {
        val minutes = state.request.minutes
        return when {
            minutes > 0 -> (passed / (minutes * 60_000.0)).coerceIn(0.001, 1.0)
            state.progress.done == 0 || state.progress.total == 0 -> null
            else -> state.progress.done.toDouble() / state.progress.total
        }
    }

    private companion object {
        const val STEPS = 1000
    }
}
