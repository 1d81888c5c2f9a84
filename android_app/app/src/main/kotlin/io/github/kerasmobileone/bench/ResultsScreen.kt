package io.github.kerasmobileone.bench

import android.content.ActivityNotFoundException
import android.content.Context
import android.content.Intent
import android.net.Uri
import android.view.View
import android.widget.Button
import android.widget.CheckBox
import android.widget.LinearLayout
import android.widget.TextView

/** The stored results: to open, to compare two, and to import others. */
class ResultsScreen(activity: MainActivity) : Screen(activity, R.layout.screen_results) {
    private val list = view.findViewById<LinearLayout>(R.id.results_list)
    private val notice = view.findViewById<TextView>(R.id.results_notice)
    private val hint = view.findViewById<TextView>(R.id.results_hint)
    private val compare = view.findViewById<Button>(R.id.results_compare)
    private var results: List<StoredResult> = emptyList()

    /** Names of the ticked results, in the order in which they were ticked. */
    private val ticked = LinkedHashSet<String>()

    init {
        view.findViewById<Button>(R.id.results_import).setOnClickListener { choose() }
        compare.setOnClickListener { compare() }
        hint.setText(R.string.loading)
        compare.visibility = View.GONE
    }

    override fun show() = reload()

    override fun onActivityResult(request: Int, data: Intent) {
        if (request == OPEN_RESULT) data.data?.let(::import)
    }

    private fun reload() = activity.load({ activity.bench.history.list() }) {
        results = it
        ticked.retainAll(it.map { result -> result.name }.toSet())
        fill()
    }

    private fun fill() {
        hint.visibility = if (results.size == 1) View.GONE else View.VISIBLE
        hint.setText(if (results.isEmpty()) R.string.no_results else R.string.results_hint)
        list.replaceViews(results.map(::row))
        updateCompare()
    }

    private fun row(result: StoredResult): View {
        val row = activity.layoutInflater.inflate(R.layout.item_result, list, false)
        val title = activity.title(result)
        row.findViewById<TextView>(R.id.item_title).text = title
        row.findViewById<TextView>(R.id.item_body).text = activity.summary(result)
        row.setOnClickListener { open(result) }
        val check = row.findViewById<CheckBox>(R.id.item_check)
        check.contentDescription = activity.getString(R.string.choose_result, title)
        check.isChecked = result.name in ticked
        check.visibility = if (results.size > 1 && result.benchmark != null) View.VISIBLE else View.GONE
        check.setOnCheckedChangeListener { _, checked -> tick(result.name, checked) }
        return row
    }

    /** Ticks a result; of three, the one ticked first is given up. */
    private fun tick(name: String, checked: Boolean) {
        if (checked) ticked.add(name) else ticked.remove(name)
        if (ticked.size > 2) {
            ticked.remove(ticked.first())
            fill()
        } else {
            updateCompare()
        }
    }

    private fun updateCompare() {
        compare.visibility = if (ticked.size == 2) View.VISIBLE else View.GONE
    }

    private fun open(result: StoredResult) = activity.startActivity(
        Intent(activity, ResultActivity::class.java).putExtra(ResultActivity.NAME, result.name),
    )

    private fun compare() {
        // The older one first, which the newer one is compared with.
        val names = ticked.sorted()
        activity.startActivity(
            Intent(activity, CompareActivity::class.java)
                .putExtra(CompareActivity.FIRST, names.first())
                .putExtra(CompareActivity.SECOND, names.last()),
        )
    }

    private fun choose() {
        val intent = Intent(Intent.ACTION_OPEN_DOCUMENT).addCategory(Intent.CATEGORY_OPENABLE).setType("*/*")
        try {
            @Suppress("DEPRECATION") // The successor is in a library that this app does without.
            activity.startActivityForResult(intent, OPEN_RESULT)
        } catch (error: ActivityNotFoundException) {
            tell(activity.getString(R.string.no_app_to_open))
        }
    }

    private fun import(uri: Uri) = activity.load({ ResultImport(activity.bench).import(uri) }) { sentence ->
        tell(sentence)
        reload()
    }

    private fun tell(sentence: String?) {
        notice.text = sentence
        notice.visibility = if (sentence == null) View.GONE else View.VISIBLE
    }

    private companion object {
        const val OPEN_RESULT = 2
    }
}

/** When a result was measured. */
fun Context.title(result: StoredResult): String {
    val time = result.time?.let(::dateTime) ?: result.name
    return if (result.imported) "$time · ${getString(R.string.imported)}" else time
}

/** What a result found, in a line. */
fun Context.summary(result: StoredResult): String {
    val benchmark = result.benchmark ?: return getString(R.string.open_json_only)
    val fastest = benchmark.latencies.minByOrNull { it.median } ?: return getString(R.string.summary_failed)
    val device = benchmark.conditions["device"]?.let { "\n$it" }.orEmpty()
    val found = getString(R.string.summary, benchmark.latencies.size, fastest.path, milliseconds(fastest.median))
    return found + device
}
