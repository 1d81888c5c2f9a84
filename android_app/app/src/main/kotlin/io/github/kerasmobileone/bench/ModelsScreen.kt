package io.github.kerasmobileone.bench

import android.content.ActivityNotFoundException
import android.content.Intent
import android.net.Uri
import android.view.View
import android.widget.Button
import android.widget.LinearLayout
import android.widget.TextView

/** The models in the app and those that were opened. */
class ModelsScreen(activity: MainActivity) : Screen(activity, R.layout.screen_models) {
    private val list = view.findViewById<LinearLayout>(R.id.models_list)
    private val notice = view.findViewById<TextView>(R.id.models_notice)
    private val classes = view.findViewById<TextView>(R.id.models_classes)

    init {
        view.findViewById<Button>(R.id.models_open).setOnClickListener { choose() }
        classes.setText(R.string.loading)
    }

    override fun show() {
        activity.intent.takeOpened()?.let(::open)
        reload()
    }

    override fun onActivityResult(request: Int, data: Intent) {
        if (request == OPEN_MODEL) data.data?.let(::open)
    }

    private fun reload() = activity.load({ activity.bench.models.list() }, ::showModels)

    private fun showModels(models: List<StoredModel>) {
        classes.text = classesOf(models)
        list.replaceViews(models.map(::row))
    }

    private fun classesOf(models: List<StoredModel>): String {
        val bundled = models.filter { it.bundled }
        if (bundled.isEmpty()) return activity.getString(R.string.no_bundled)
        val labels = bundled.mapNotNull { it.details?.labels }.maxByOrNull { it.size } ?: return ""
        val examples = labels.filterIndexed { index, _ -> index % (labels.size / EXAMPLES).coerceAtLeast(1) == 0 }
        val number = "%,d".format(labels.size)
        return activity.getString(R.string.bundled_classes, number, examples.take(EXAMPLES).joinToString())
    }

    private fun row(model: StoredModel): View {
        val row = activity.layoutInflater.inflate(R.layout.item_model, list, false)
        row.findViewById<TextView>(R.id.item_title).text = breakable(model.file.name)
        row.findViewById<TextView>(R.id.item_body).text = activity.summary(model)
        row.setOnClickListener {
            activity.startActivity(
                Intent(activity, ModelActivity::class.java).putExtra(ModelActivity.NAME, model.file.name),
            )
        }
        return row
    }

    private fun choose() {
        val intent = Intent(Intent.ACTION_OPEN_DOCUMENT).addCategory(Intent.CATEGORY_OPENABLE).setType("*/*")
        try {
            @Suppress("DEPRECATION") // The successor is in a library that this app does without.
            activity.startActivityForResult(intent, OPEN_MODEL)
        } catch (error: ActivityNotFoundException) {
            tell(activity.getString(R.string.no_app_to_open))
        }
    }

    private fun open(uri: Uri) {
        tell(activity.getString(R.string.opening))
        activity.load({ opened(uri) }) { sentence ->
            tell(sentence)
            reload()
        }
    }

    /** Opens a document; returns what went wrong, if anything did. */
    private fun opened(uri: Uri): String? = try {
        activity.bench.models.open(uri)
        null
    } catch (error: NotOpened) {
        error.message
    }

    private fun tell(sentence: String?) {
        notice.text = sentence
        notice.visibility = if (sentence == null) View.GONE else View.VISIBLE
    }

    private companion object {
        const val OPEN_MODEL = 1
        const val EXAMPLES = 3
    }
}

/** The address of a model that another app gives, which is taken only once. */
private fun Intent.takeOpened(): Uri? {
    val uri = data?.takeIf { action == OpenModelActivity.OPEN } ?: return null
    data = null
    return uri
}

/** Size, shapes and classes of a model in one or two lines. */
fun android.content.Context.summary(model: StoredModel): String {
    val source = getString(if (model.bundled) R.string.in_the_app else R.string.opened_by_you)
    val size = getString(R.string.megabytes, megabytes(model.file.length()))
    val problem = model.problem?.let { getString(R.string.unusable, sentence(it)) }
    val details = model.details ?: return "${problem.orEmpty()}\n$size · $source"
    val shapes = details.inputs.joinToString { it.shape.joinToString("×") + " " + it.type.name.lowercase() } +
        " → " + details.outputs.joinToString { it.shape.joinToString("×") }
    return "$size · $source\n$shapes"
}
