package io.github.kerasmobileone.bench

import android.content.Intent
import android.view.View
import android.widget.Button
import android.widget.CompoundButton
import android.widget.LinearLayout
import android.widget.TextView
import java.util.Locale
import org.junit.After
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertTrue
import org.junit.Assume.assumeTrue
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.RobolectricTestRunner
import org.robolectric.RuntimeEnvironment
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode

/** Every screen in every appearance: what it shows, and that nothing of it is cut off. */
@RunWith(RobolectricTestRunner::class)
@GraphicsMode(GraphicsMode.Mode.NATIVE)
@Config(sdk = [24, 36], qualifiers = PHONE)
class ScreensTest {

    private val usual = Locale.getDefault()

    @After fun restoreLocale() = Locale.setDefault(usual)

    /** As Android does it, for resources and for numbers and dates. */
    private fun useGerman() {
        RuntimeEnvironment.setQualifiers("+de")
        Locale.setDefault(Locale.GERMANY)
    }

    private fun main(screen: Int): MainActivity {
        val intent = Intent(app, MainActivity::class.java).putExtra(MainActivity.SCREEN, screen)
        return start<MainActivity>(intent).get()
    }

    private fun result(name: String): ResultActivity =
        start<ResultActivity>(Intent().putExtra(ResultActivity.NAME, name)).get()

    private fun shootAll(suffix: String) {
        app.history.add(exampleBenchmark())
        app.history.add(exampleBenchmark("this machine", rounds = 3), imported = true)
        for ((screen, name) in listOf("models", "benchmark", "results", "classify").withIndex()) {
            val activity = main(screen)
            activity.shoot("$name$suffix")
            assertNothingIsCutOff(activity)
        }
        val activity = result(app.history.list().last().name)
        activity.shoot("result$suffix")
        activity.shoot("result$suffix-whole", tall = true)
        assertNothingIsCutOff(activity)
    }

    @Test fun portrait() = shootAll("")

    @Test fun landscape() {
        RuntimeEnvironment.setQualifiers("+land")
        shootAll("-land")
    }

    @Test fun dark() {
        RuntimeEnvironment.setQualifiers("+night")
        shootAll("-night")
    }

    @Test fun german() {
        useGerman()
        shootAll("-de")
        assertTrue(main(MainActivity.BENCHMARK).texts().contains("Beschleuniger"))
    }

    @Test fun large_text() {
        setFontScale(2f)
        shootAll("-large")
    }

    @Test fun large_text_in_german_and_landscape() {
        RuntimeEnvironment.setQualifiers("+land")
        useGerman()
        setFontScale(2f)
        shootAll("-de-land-large")
    }

    @Test fun the_smallest_phone() {
        RuntimeEnvironment.setQualifiers("+w320dp-h480dp")
        setFontScale(1.3f)
        shootAll("-small")
    }

    @Test fun empty_history() {
        val activity = main(MainActivity.RESULTS)
        activity.shoot("results-empty")
        assertTrue(activity.texts().contains(app.getString(R.string.no_results)))
        assertEquals(View.GONE, activity.findViewById<View>(R.id.results_compare).visibility)
    }

    @Test fun models_say_which_classes_they_know() {
        assumeTrue(modelFiles().isNotEmpty())
        val text = main(MainActivity.MODELS).texts()
        modelFiles().forEach { assertTrue(it.name, text.contains(it.name)) }
        assertTrue(text, text.contains("know %,d classes".format(labelsOf(modelFiles().first()).size)))
    }

    @Test fun a_model_in_detail() {
        assumeTrue(modelFiles().isNotEmpty())
        val activity = start<ModelActivity>(Intent().putExtra(ModelActivity.NAME, modelFiles().last().name)).get()
        activity.shoot("model")
        val text = activity.texts()
        assertTrue(text, text.contains(" × 3 "))
        assertTrue(text, text.contains(labelsOf(modelFiles().last()).first()))
        assertFalse("a model of the app cannot be deleted", text.contains(app.getString(R.string.delete_model)))
    }

    @Test fun every_view_that_can_be_touched_has_a_name_and_is_large_enough() {
        app.history.add(exampleBenchmark())
        app.history.add(exampleBenchmark())
        val activities = (0..3).map(::main) + result(app.history.list().first().name)
        for (activity in activities) {
            for (view in allViews(activity.window.decorView).filter { it.isClickable && it.width > 0 && (it as? TextView)?.isTextSelectable != true }) {
                val named = !view.contentDescription.isNullOrEmpty() || texts(view).any { it.isNotEmpty() }
                assertTrue("$activity: $view has no name", named)
                val density = activity.resources.displayMetrics.density
                assertTrue("$activity: $view is ${view.height / density} dp high", view.height >= 47.5 * density)
            }
        }
    }

    @Test fun a_result_that_is_gone_or_damaged() {
        assertTrue(result("none.json").texts().contains(app.getString(R.string.result_gone)))
        val name = app.history.add(exampleBenchmark())
        java.io.File(app.filesDir, "results/$name").writeText("{\"format\": 1")
        val activity = result(name)
        activity.shoot("result-damaged")
        assertTrue(activity.texts().contains(app.getString(R.string.open_json_only)))
        assertTrue(main(MainActivity.RESULTS).texts().contains(app.getString(R.string.open_json_only)))
    }

    @Test fun start_needs_a_file_an_accelerator_and_threads() {
        assumeTrue(modelFiles().isNotEmpty())
        val activity = main(MainActivity.BENCHMARK)
        val start = activity.findViewById<Button>(R.id.start)
        val hint = activity.findViewById<TextView>(R.id.start_hint)
        assertTrue(start.isEnabled)
        for ((group, sentence) in listOf(
            R.id.choice_threads to R.string.choose_threads,
            R.id.choice_accelerators to R.string.choose_accelerator,
            R.id.choice_files to R.string.choose_file,
        )) {
            views<android.widget.CheckBox>(activity.findViewById<LinearLayout>(group)).forEach { it.isChecked = false }
            assertFalse(start.isEnabled)
            assertEquals(app.getString(sentence), hint.text.toString())
        }
        activity.shoot("benchmark-nothing-chosen")
        settle()
        assertEquals("choices outlive the process", Length.STANDARD, app.choices.read().length)
        assertTrue(app.choices.read().threads.isEmpty())
    }

    /** Each text view is as wide and high as its text, and no single word of a button is broken. */
    private fun assertNothingIsCutOff(activity: android.app.Activity) {
        for (view in views<TextView>(activity.window.decorView)) {
            val layout = view.layout ?: continue
            val room = view.height - view.compoundPaddingTop - view.compoundPaddingBottom
            assertTrue("cut off: '${view.text}' in $activity", layout.height <= room + 1)
            for (line in 0 until layout.lineCount) {
                assertEquals("shortened: '${view.text}'", 0, layout.getEllipsisCount(line))
            }
            if (layout.lineCount > 0 && view is Button && view !is CompoundButton) {
                assertTrue("broken: '${view.text}'", (0 until layout.lineCount - 1).all { view.text[layout.getLineEnd(it) - 1].isWhitespace() })
            }
        }
    }
}
