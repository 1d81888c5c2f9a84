package io.github.kerasmobileone.bench

import android.app.Activity
import android.app.AlertDialog
import android.content.DialogInterface
import android.content.Intent
import android.content.pm.ProviderInfo
import android.net.Uri
import android.view.View
import android.widget.Button
import android.widget.CheckBox
import io.github.kerasmobileone.core.Benchmark
import java.io.File
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNotNull
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.Robolectric
import org.robolectric.RobolectricTestRunner
import org.robolectric.Shadows.shadowOf
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode
import org.robolectric.shadows.ShadowAlertDialog

/** What one does with results: compare, share, delete. */
@RunWith(RobolectricTestRunner::class)
@GraphicsMode(GraphicsMode.Mode.NATIVE)
@Config(sdk = [24, 36], qualifiers = PHONE)
class ResultsTest {

    private fun list() = start<MainActivity>(
        Intent(app, MainActivity::class.java).putExtra(MainActivity.SCREEN, MainActivity.RESULTS),
    ).get()

    private fun result(name: String) = start<ResultActivity>(Intent().putExtra(ResultActivity.NAME, name)).get()

    private fun button(activity: Activity, text: Int) =
        views<Button>(activity.window.decorView).first { it.text == app.getString(text) }

    private fun answer(which: Int) {
        val dialog = ShadowAlertDialog.getLatestDialog() as AlertDialog
        dialog.getButton(which).performClick()
        settle()
    }

    private fun slower(benchmark: Benchmark, times: Double) =
        benchmark.copy(latencies = benchmark.latencies.map { it.copy(median = times * it.median) })

    @Test fun two_of_three_results_are_compared() {
        repeat(3) { app.history.add(slower(exampleBenchmark(), 1.0 + it)) }
        val activity = list()
        val compare = activity.findViewById<Button>(R.id.results_compare)
        assertEquals(View.GONE, compare.visibility)
        for (index in 0..2) views<CheckBox>(activity.findViewById(R.id.results_list))[index].isChecked = true
        layOut(activity)
        assertEquals(2, views<CheckBox>(activity.findViewById(R.id.results_list)).count { it.isChecked })
        compare.performClick()
        val shown = start<CompareActivity>(shadowOf(activity).nextStartedActivity).get()
        shown.shoot("compare")
        assertTrue(shown.texts(), shown.texts().contains("2.00×"))
    }

    @Test fun results_under_different_conditions_and_without_anything_in_common() {
        val first = app.history.add(exampleBenchmark())
        val other = exampleBenchmark("this machine")
        val second = app.history.add(other.copy(latencies = other.latencies.map { it.copy(path = "b ${it.path}") }))
        val intent = Intent().putExtra(CompareActivity.FIRST, first).putExtra(CompareActivity.SECOND, second)
        val texts = start<CompareActivity>(intent).get().texts()
        assertTrue(texts, texts.contains(app.getString(R.string.compare_conditions, "target")))
        assertTrue(texts, texts.contains(app.getString(R.string.compare_nothing)))
    }

    @Test fun a_result_is_shared_as_JSON_and_as_CSV() {
        val activity = result(app.history.add(exampleBenchmark()))
        for ((text, type) in listOf(R.string.share_json to "application/json", R.string.share_csv to "text/csv")) {
            button(activity, text).performClick()
            settle()
            val chooser = shadowOf(activity).nextStartedActivity
            @Suppress("DEPRECATION")
            val sent = checkNotNull(chooser.getParcelableExtra<Intent>(Intent.EXTRA_INTENT))
            assertEquals(type, sent.type)
            assertTrue(sent.flags and Intent.FLAG_GRANT_READ_URI_PERMISSION != 0)
            @Suppress("DEPRECATION")
            val uri = checkNotNull(sent.getParcelableExtra<Uri>(Intent.EXTRA_STREAM))
            val shared = File(app.cacheDir, "shared/${uri.lastPathSegment}").readText()
            val expected = if (type == "text/csv") exampleBenchmark().toCsv() else exampleBenchmark().toJson()
            assertEquals(expected, shared)
        }
    }

    @Test fun a_result_is_deleted_only_after_a_question() {
        val name = app.history.add(exampleBenchmark())
        val activity = result(name)
        button(activity, R.string.delete_result).performClick()
        answer(DialogInterface.BUTTON_NEGATIVE)
        assertNotNull(app.history.find(name))
        button(activity, R.string.delete_result).performClick()
        answer(DialogInterface.BUTTON_POSITIVE)
        assertNull(app.history.find(name))
        assertTrue(activity.isFinishing)
    }

    @Test fun a_result_is_imported_by_the_file_chooser() {
        Robolectric.buildContentProvider(FilesTest.Documents::class.java).create(ProviderInfo().apply { authority = "documents" })
        val activity = list()
        activity.findViewById<Button>(R.id.results_import).performClick()
        val asked = shadowOf(activity).nextStartedActivityForResult
        assertEquals(Intent.ACTION_OPEN_DOCUMENT, asked.intent.action)
        shadowOf(activity).receiveResult(asked.intent, Activity.RESULT_OK, Intent().setData(Uri.parse("content://documents/none")))
        settle()
        assertTrue(activity.texts().contains(app.getString(R.string.open_failed)))
    }

    @Test fun a_name_does_not_lead_out_of_the_history() {
        File(app.filesDir, "secret.json").writeText(exampleBenchmark().toJson())
        app.history.add(exampleBenchmark())
        assertNull(app.history.find("../secret.json"))
    }

    @Test fun a_write_that_is_cut_short_leaves_the_old_result() {
        val name = app.history.add(exampleBenchmark())
        val file = android.util.AtomicFile(File(app.filesDir, "results/$name"))
        file.startWrite().use { it.write("{".toByteArray()) } // The process dies before it is finished.
        assertEquals(exampleBenchmark().latencies, app.history.find(name)?.benchmark?.latencies)
    }

    @Test fun warnings_are_given_for_each_reason_and_only_then() {
        val good = exampleBenchmark().copy(
            conditions = mapOf(
                "target" to APP_TARGET,
                "before" to mapOf("thermal_status" to 1, "power_save" to false),
                "after" to mapOf("thermal_status" to 1, "power_save" to false),
                "configurations" to mapOf("a" to mapOf("accelerator" to "gpu-fp16", "ran_on" to "gpu-fp16", "difference" to 0.01)),
            ),
        )
        assertEquals(emptyList<String>(), app.warningsOf(good))
        assertEquals(5, app.warningsOf(exampleBenchmark("this machine")).size)
    }

    @Test fun the_forecast_of_the_heat_is_asked_for_at_most_once_a_second() {
        var time = 0L
        var asked = 0
        val thermometer = Thermometer({ 0 }, { asked++; if (asked == 2) Float.NaN else 0.5f }, { time })
        repeat(10) { thermometer.read() }
        assertEquals(1, asked)
        assertEquals(0.5, checkNotNull(thermometer.read().headroom), 0.0)
        time = 1_200
        assertNull("NaN is no number for JSON", thermometer.read().headroom)
        assertEquals(2, asked)
    }

    @Test fun the_marker_stays_until_everything_has_ended() {
        val memory = CrashMemory(app.noBackupFilesDir)
        val gpu = Interruption("e", io.github.kerasmobileone.core.Accelerator.GPU_FP16, "a", 1)
        val cpu = gpu.copy(accelerator = io.github.kerasmobileone.core.Accelerator.CPU)
        memory.enter(gpu)
        memory.enter(cpu)
        memory.leave(cpu)
        assertEquals(gpu, CrashMemory(app.noBackupFilesDir).apply { recover() }.interruption())
        memory.dismiss()
        memory.leave(gpu)
        assertNull(CrashMemory(app.noBackupFilesDir).apply { recover() }.interruption())
    }

    @Test fun axes_have_round_numbers_around_the_values() {
        assertEquals(listOf(0.0, 5.0, 10.0, 15.0, 20.0), Scale(1.0, 19.0).ticks)
        assertFalse(Scale(3.0, 3.0).ticks.any { it.isNaN() })
    }
}
