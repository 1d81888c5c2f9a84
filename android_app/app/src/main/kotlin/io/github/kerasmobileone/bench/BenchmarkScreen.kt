package io.github.kerasmobileone.bench

import android.content.Intent
import android.view.View

/** Choosing what to measure, and watching it being measured. */
class BenchmarkScreen(activity: MainActivity) : Screen(activity, R.layout.screen_benchmark) {
    private val setup = BenchmarkSetup(activity, view.findViewById(R.id.benchmark_setup))
    private val running = BenchmarkRunning(activity, view.findViewById(R.id.benchmark_running))
    private val runs = activity.bench.runs
    private val listener: () -> Unit = ::update

    override fun show() {
        runs.addListener(listener)
        setup.reload()
        update()
    }

    override fun hide() {
        runs.removeListener(listener)
    }

    private fun update() {
        val state = runs.state
        setup.view.visibility = if (state is RunState.Running) View.GONE else View.VISIBLE
        running.view.visibility = if (state is RunState.Running) View.VISIBLE else View.GONE
        when (state) {
            is RunState.Running -> running.show(state)
            is RunState.Finished -> openResult(state.result)
            is RunState.Failed -> fail(state.sentence)
            RunState.Idle -> Unit
        }
    }

    private fun fail(sentence: String) {
        runs.acknowledge()
        setup.tell(sentence)
    }

    private fun openResult(name: String) {
        runs.acknowledge()
        activity.startActivity(Intent(activity, ResultActivity::class.java).putExtra(ResultActivity.NAME, name))
    }
}
