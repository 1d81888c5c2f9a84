package io.github.kerasmobileone.bench

import android.content.Intent
import android.view.View
import android.view.WindowManager
import android.widget.Button
import android.widget.Spinner
import io.github.kerasmobileone.core.Accelerator
import java.time.Duration
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNotNull
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Assume.assumeTrue
import org.junit.Before
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.RobolectricTestRunner
import org.robolectric.RuntimeEnvironment
import org.robolectric.Shadows.shadowOf
import org.robolectric.android.controller.ActivityController
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode
import org.robolectric.shadows.ShadowSystemClock

/** Benchmarks of real models through the runtime that the app contains, started by a touch. */
@RunWith(RobolectricTestRunner::class)
@GraphicsMode(GraphicsMode.Mode.NATIVE)
@Config(sdk = [24, 36], qualifiers = PHONE)
class BenchmarkFlowTest {

    @Before fun needsModels() = assumeTrue(modelFiles().isNotEmpty())

    private fun benchmarkScreen(choices: Choices): ActivityController<MainActivity> {
        app.choices.write(choices)
        val intent = Intent(app, MainActivity::class.java).putExtra(MainActivity.SCREEN, MainActivity.BENCHMARK)
        return start<MainActivity>(intent)
    }

    private fun click(activity: MainActivity, id: Int) {
        assertTrue(activity.findViewById<Button>(id).performClick())
    }

    /** What an earlier process leaves on the disk that dies while it runs a model. */
    private fun dieWhile(what: Interruption) = CrashMemory(app.noBackupFilesDir).enter(what)

    private fun waitForEnd() = waitFor("the end of the benchmark", 120) { app.runs.state !is RunState.Running }

    @Test fun a_click_on_start_measures_every_model_and_shows_the_result() {
        val controller = benchmarkScreen(Choices(threads = setOf(1), length = Length.QUICK))
        val activity = controller.get()
        click(activity, R.id.start)
        waitFor("the first round") { (app.runs.state as? RunState.Running)?.progress?.done ?: 0 > 0 }
        activity.shoot("running")
        assertEquals(View.VISIBLE, activity.findViewById<View>(R.id.benchmark_running).visibility)
        assertTrue(activity.texts(), activity.texts().contains("of 5"))
        val flags = activity.window.attributes.flags
        assertTrue("the screen stays on", flags and WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON != 0)
        waitForEnd()
        settle()

        val result = app.history.list().single()
        val benchmark = checkNotNull(result.benchmark)
        assertEquals(modelFiles().map { it.name }, benchmark.latencies.map { it.path })
        assertTrue(benchmark.failures.isEmpty())
        assertTrue(benchmark.latencies.all { it.medians.size == 5 && it.median > 0.1 })
        assertEquals("android-app", benchmark.conditions["target"])
        assertEquals("tflite-2.21", benchmark.conditions["engine"])
        assertEquals(20L, (benchmark.conditions["runs"] as Number).toLong())
        assertEquals(false, benchmark.conditions["left_foreground"])
        assertNull("nothing is left of the marker", app.crashMemory.interruption())

        val started = shadowOf(activity).nextStartedActivity
        assertEquals(ResultActivity::class.java.name, started.component?.className)
        val shown = start<ResultActivity>(started).get()
        shown.shoot("result-measured", tall = true)
        modelFiles().forEach { assertTrue(it.name, shown.texts().contains(it.name)) }
        assertEquals(View.VISIBLE, activity.findViewById<View>(R.id.benchmark_setup).visibility)
    }

    @Test fun a_rotation_does_not_disturb_a_benchmark() {
        val controller = benchmarkScreen(Choices(threads = setOf(1), length = Length.QUICK))
        click(controller.get(), R.id.start)
        RuntimeEnvironment.setQualifiers("+land")
        controller.recreate()
        settle()
        val activity = controller.get()
        assertEquals(View.VISIBLE, activity.findViewById<View>(R.id.benchmark_running).visibility)
        waitFor("the first round") { (app.runs.state as? RunState.Running)?.progress?.soFar?.size == 3 }
        activity.shoot("running-land")
        waitForEnd()
        settle()
        val conditions = app.history.list().single().benchmark?.conditions.orEmpty()
        assertEquals(false, conditions["left_foreground"])
        assertNotNull(shadowOf(activity).nextStartedActivity)
    }

    @Test fun cancelling_keeps_the_rounds_that_were_measured() {
        val controller = benchmarkScreen(Choices(threads = setOf(1), length = Length.STANDARD))
        click(controller.get(), R.id.start)
        waitFor("two rounds") { (app.runs.state as? RunState.Running)?.progress?.round ?: 0 > 2 }
        click(controller.get(), R.id.cancel)
        assertFalse(controller.get().findViewById<Button>(R.id.cancel).isEnabled)
        waitForEnd()
        settle()
        val benchmark = checkNotNull(app.history.list().single().benchmark)
        assertTrue(benchmark.latencies.all { it.medians.size in 2..3 })
        assertTrue(app.warningsOf(benchmark).contains(app.getString(R.string.stopped_early)))
    }

    @Test fun leaving_the_app_is_noted() {
        val controller = benchmarkScreen(Choices(threads = setOf(1), length = Length.QUICK))
        click(controller.get(), R.id.start)
        controller.pause().stop()
        waitForEnd()
        settle()
        assertNull("no screen opens in the background", shadowOf(controller.get()).nextStartedActivity)
        val benchmark = checkNotNull(app.history.list().single().benchmark)
        assertTrue(app.warningsOf(benchmark).contains(app.getString(R.string.left_foreground)))
        controller.restart().start().resume()
        settle()
        assertNotNull("the result opens on return", shadowOf(controller.get()).nextStartedActivity)
    }

    @Test fun a_sustained_benchmark_ends_with_its_time() {
        val controller = benchmarkScreen(Choices(threads = setOf(1), length = Length.SUSTAINED))
        click(controller.get(), R.id.start)
        waitFor("two rounds") { (app.runs.state as? RunState.Running)?.progress?.round ?: 0 > 2 }
        controller.get().shoot("running-sustained")
        assertFalse(controller.get().texts(), controller.get().texts().contains("100000"))
        ShadowSystemClock.advanceBy(Duration.ofMinutes(5))
        waitForEnd()
        settle()
        val benchmark = checkNotNull(app.history.list().single().benchmark)
        assertTrue(benchmark.latencies.all { it.medians.size in 2..4 })
        assertFalse(app.warningsOf(benchmark).contains(app.getString(R.string.stopped_early)))
    }

    @Test fun a_pause_is_made_before_each_round_and_can_be_cancelled() {
        val controller = benchmarkScreen(Choices(threads = setOf(1), length = Length.QUICK, coolDown = true))
        click(controller.get(), R.id.start)
        waitFor("the pause") { (app.runs.state as? RunState.Running)?.progress?.cooling == true }
        assertTrue(controller.get().texts().contains(app.getString(R.string.cooling)))
        click(controller.get(), R.id.cancel)
        waitForEnd()
        settle()
        assertTrue(app.history.list().isEmpty())
        assertTrue(controller.get().texts().contains(app.getString(R.string.run_cancelled)))
    }

    @Test fun a_crash_in_a_driver_is_told_at_the_next_start() {
        dieWhile(Interruption("tflite-2.16", Accelerator.GPU_FP16, "mobileone_s0_float32.tflite", 1))
        val controller = benchmarkScreen(Choices(accelerators = setOf(Accelerator.CPU, Accelerator.GPU_FP16)))
        val activity = controller.get()
        activity.shoot("benchmark-crashed")
        assertTrue(activity.texts(), activity.texts().contains("GPU, half precision"))
        assertTrue(activity.texts().contains("may have crashed"))
        assertEquals(setOf(Accelerator.CPU), app.choices.read().accelerators)
        assertTrue(app.choices.read().hasCrashed("tflite-2.16", Accelerator.GPU_FP16))
        click(activity, R.id.notice_dismiss)
        settle()
        assertNull(app.crashMemory.interruption())
        controller.recreate()
        settle()
        assertFalse(controller.get().texts().contains("may have crashed"))
    }

    @Test fun the_death_of_the_process_in_the_middle_loses_only_that_benchmark() {
        app.history.add(exampleBenchmark())
        dieWhile(Interruption("tflite-2.21", Accelerator.CPU, "mobileone_s0_int8.tflite", 4))
        val controller = benchmarkScreen(Choices())
        val state = android.os.Bundle()
        controller.saveInstanceState(state).pause().stop().destroy()
        // A new process gets only the saved state.
        val activity = org.robolectric.Robolectric.buildActivity(MainActivity::class.java, Intent()).setup(state).get()
        settle()
        assertEquals(app.getString(R.string.screen_benchmark), activity.title)
        assertTrue(activity.texts().contains(app.getString(R.string.interrupted_cpu).trim()))
        assertTrue(activity.findViewById<Button>(R.id.start).isEnabled)
        assertEquals(1, app.history.list().size)
    }

    @Test fun the_baseline_changes_the_ratios_and_outlives_a_rotation() {
        val name = app.history.add(exampleBenchmark())
        val controller = start<ResultActivity>(Intent().putExtra(ResultActivity.NAME, name))
        assertTrue(controller.get().texts().contains("0.17×"))
        controller.get().findViewById<Spinner>(R.id.baseline).setSelection(3)
        settle()
        assertTrue(controller.get().texts().contains("5.80×"))
        controller.recreate()
        settle()
        assertTrue(controller.get().texts().contains("5.80×"))
    }
}
