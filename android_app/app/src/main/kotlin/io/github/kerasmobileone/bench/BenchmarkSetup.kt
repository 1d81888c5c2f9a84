package io.github.kerasmobileone.bench

import android.text.SpannableStringBuilder
import android.text.Spanned
import android.text.style.TextAppearanceSpan
import android.view.View
import android.view.ViewGroup
import android.widget.Button
import android.widget.CheckBox
import android.widget.CompoundButton
import android.widget.LinearLayout
import android.widget.RadioButton
import android.widget.RadioGroup
import android.widget.Switch
import android.widget.TextView
import io.github.kerasmobileone.core.Accelerator
import io.github.kerasmobileone.core.Engine

/** The part of the benchmark screen that chooses what to measure. */
class BenchmarkSetup(private val activity: MainActivity, val view: View) {
    private val app = activity.bench
    private val files = view.findViewById<LinearLayout>(R.id.choice_files)
    private val engines = view.findViewById<RadioGroup>(R.id.choice_engine)
    private val accelerators = view.findViewById<LinearLayout>(R.id.choice_accelerators)
    private val threads = view.findViewById<LinearLayout>(R.id.choice_threads)
    private val lengths = view.findViewById<RadioGroup>(R.id.choice_length)
    private val coolDown = view.findViewById<Switch>(R.id.choice_cool_down)
    private val start = view.findViewById<Button>(R.id.start)
    private val hint = view.findViewById<TextView>(R.id.start_hint)

    private class Loaded(
        val models: List<StoredModel>,
        val engines: List<Engine>,
        val missing: Map<String, String>,
        val interruption: Interruption?,
        val choices: Choices,
    )

    private var loaded: Loaded? = null
    private var choices = Choices()
    private var filling = false

    init {
        start.isEnabled = false
        start.setOnClickListener { start() }
        view.findViewById<Button>(R.id.notice_dismiss).setOnClickListener { dismiss() }
        lengths.setOnCheckedChangeListener { _, id ->
            Length.entries.getOrNull(LENGTHS.indexOf(id))?.let { change(choices.copy(length = it)) }
        }
        coolDown.setOnCheckedChangeListener { _, checked -> change(choices.copy(coolDown = checked)) }
    }

    /** Reads models, runtimes and the last choices, and shows them. */
    fun reload() = activity.load(::read) {
        loaded = it
        choices = it.choices
        fill()
    }

    /** Shows a sentence above the choices until it is dismissed. */
    fun tell(sentence: String?) {
        view.findViewById<TextView>(R.id.notice_text).text = sentence
        view.findViewById<View>(R.id.notice).visibility = if (sentence == null) View.GONE else View.VISIBLE
    }

    private fun read(): Loaded {
        val interruption = app.crashMemory.interruption()
        var choices = app.choices.read()
        if (interruption != null) {
            choices = choices.afterCrash(interruption.engine, interruption.accelerator)
            app.choices.write(choices)
        }
        return Loaded(app.models.list(), app.engines.working, app.engines.missing, interruption, choices)
    }

    private fun dismiss() {
        tell(null)
        app.work.write { app.crashMemory.dismiss() }
    }

    private fun change(changed: Choices) {
        if (filling || changed == choices) return
        val refill = changed.engine != choices.engine
        choices = changed
        app.work.write { app.choices.write(changed) }
        if (refill) fill() else updateStart()
    }

    private fun fill() {
        val found = loaded ?: return
        filling = true
        found.interruption?.let { tell(sentence(it)) }
        files.replaceViews(found.models.filter { it.details != null }.map(::fileBox))
        fillEngines(found)
        val engine = engine()
        accelerators.replaceViews(engine?.accelerators.orEmpty().sorted().map(::acceleratorBox))
        val others = found.engines.any { it !== engine && it.accelerators.size > 1 }
        if (engine?.accelerators?.size == 1 && others) accelerators.addView(note(R.string.accelerators_elsewhere))
        threads.replaceViews(threadNumbers().map(::threadBox))
        lengths.check(LENGTHS[choices.length.ordinal])
        coolDown.isChecked = choices.coolDown
        lengths.jumpDrawablesToCurrentState()
        coolDown.jumpDrawablesToCurrentState()
        filling = false
        updateStart()
    }

    private fun engine(): Engine? {
        val working = loaded?.engines.orEmpty()
        return working.find { it.id == choices.engine } ?: working.firstOrNull()
    }

    private fun fillEngines(found: Loaded) {
        val chosen = engine()
        engines.setOnCheckedChangeListener(null)
        engines.clearCheck()
        engines.removeAllViews()
        for (engine in found.engines) {
            val names = engine.accelerators.sorted().map(SHORT_NAMES::getValue).distinct().joinToString()
            val button = RadioButton(activity, null, 0, R.style.Widget_Bench_Radio)
            button.text = activity.getString(R.string.engine_choice, engine.version, names)
            button.id = View.generateViewId()
            button.tag = engine.id
            // Set before it is attached, it appears without an animation.
            button.isChecked = engine === chosen
            engines.addView(button, wide())
        }
        for (id in found.missing.keys) engines.addView(note(activity.getString(R.string.engine_missing, id)))
        engines.setOnCheckedChangeListener { group, id ->
            (group.findViewById<View>(id)?.tag as? String)?.let { change(choices.copy(engine = it)) }
        }
    }

    private fun fileBox(model: StoredModel): View {
        val name = model.file.name
        val size = activity.getString(R.string.megabytes, megabytes(model.file.length()))
        return box(breakable(name), size, name !in choices.unchecked) { checked ->
            change(choices.copy(unchecked = if (checked) choices.unchecked - name else choices.unchecked + name))
        }
    }

    private fun acceleratorBox(accelerator: Accelerator): View {
        val name = activity.acceleratorName(accelerator)
        val crashed = choices.hasCrashed(engine()?.id.orEmpty(), accelerator)
        val text = if (crashed) activity.getString(R.string.accelerator_crashed, name) else name
        return box(text, "", accelerator in choices.accelerators) { checked ->
            val kept = choices.accelerators
            change(choices.copy(accelerators = if (checked) kept + accelerator else kept - accelerator))
        }
    }

    private fun threadBox(number: Int): View {
        val all = number == Runtime.getRuntime().availableProcessors()
        val text = if (all) activity.getString(R.string.all_threads, number) else number.toString()
        val box = box(text, "", number in choices.threads) { checked ->
            change(choices.copy(threads = if (checked) choices.threads + number else choices.threads - number))
        }
        box.contentDescription = activity.threads(number)
        return box
    }

    private fun box(text: String, detail: String, checked: Boolean, changed: (Boolean) -> Unit): View {
        val box = CheckBox(activity, null, 0, R.style.Widget_Bench_Check)
        box.text = if (detail.isEmpty()) text else twoLines(text, detail)
        box.isChecked = checked
        box.isSaveEnabled = false
        box.setOnCheckedChangeListener { _: CompoundButton, on: Boolean -> changed(on) }
        box.layoutParams = wide()
        return box
    }

    private fun twoLines(text: String, detail: String): CharSequence {
        val small = TextAppearanceSpan(activity, R.style.Text_Bench_Body)
        return SpannableStringBuilder("$text\n").append(detail, small, Spanned.SPAN_EXCLUSIVE_EXCLUSIVE)
    }

    private fun note(text: Int) = note(activity.getString(text))

    private fun note(text: String): View =
        TextView(activity, null, 0, R.style.Widget_Bench_Body).apply { this.text = text }

    private fun wide() =
        LinearLayout.LayoutParams(ViewGroup.LayoutParams.MATCH_PARENT, ViewGroup.LayoutParams.WRAP_CONTENT)

    private fun chosenModels() = loaded?.models.orEmpty()
        .filter { it.details != null && it.file.name !in choices.unchecked }

    private fun chosenAccelerators() = engine()?.accelerators.orEmpty().filter { it in choices.accelerators }.sorted()

    private fun chosenThreads() = threadNumbers().filter { it in choices.threads }

    private fun updateStart() {
        val missing = when {
            loaded == null -> R.string.loading
            chosenModels().isEmpty() -> R.string.choose_file
            chosenAccelerators().isEmpty() -> R.string.choose_accelerator
            Accelerator.CPU in chosenAccelerators() && chosenThreads().isEmpty() -> R.string.choose_threads
            else -> null
        }
        start.isEnabled = missing == null
        hint.text = missing?.let(activity::getString)
    }

    private fun start() {
        val length = choices.length
        app.runs.start(
            RunRequest(
                files = chosenModels().map { it.file },
                engine = engine()?.id.orEmpty(),
                accelerators = chosenAccelerators(),
                threads = chosenThreads().ifEmpty { listOf(1) },
                rounds = length.rounds,
                runs = length.runs,
                minutes = length.minutes,
                coolDown = choices.coolDown,
            ),
        )
    }

    private fun sentence(what: Interruption): String {
        val (accelerator, threads) = activity.acceleratorName(what.accelerator) to activity.threads(what.threads)
        val end = if (what.accelerator == Accelerator.CPU) R.string.interrupted_cpu else R.string.interrupted_driver
        return activity.getString(R.string.interrupted, what.file, accelerator, threads) + activity.getString(end)
    }

    private companion object {
        val LENGTHS = listOf(R.id.length_quick, R.id.length_standard, R.id.length_sustained)
        val SHORT_NAMES = mapOf(
            Accelerator.CPU to "CPU",
            Accelerator.GPU_FP16 to "GPU",
            Accelerator.GPU_FP32 to "GPU",
            Accelerator.NNAPI to "NNAPI",
        )

        /** The numbers of threads to choose from. */
        fun threadNumbers(): List<Int> {
            val all = Runtime.getRuntime().availableProcessors()
            return listOf(1, 2, 4, all).filter { it <= all }.distinct().sorted()
        }
    }
}
