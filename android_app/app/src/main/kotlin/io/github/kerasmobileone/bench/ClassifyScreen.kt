package io.github.kerasmobileone.bench

import android.content.ActivityNotFoundException
import android.content.Intent
import android.graphics.Bitmap
import android.net.Uri
import android.os.Build
import android.provider.MediaStore
import android.view.View
import android.widget.AdapterView
import android.widget.ArrayAdapter
import android.widget.Button
import android.widget.ImageView
import android.widget.Spinner
import android.widget.TextView
import io.github.kerasmobileone.core.Engine
import io.github.kerasmobileone.core.EngineException
import java.io.File
import java.io.IOException

/** Classifies a photograph, and leads to the camera. */
class ClassifyScreen(activity: MainActivity, private val fresh: Boolean) : Screen(activity, R.layout.screen_classify) {
    private val app = activity.bench
    private val spinner = view.findViewById<Spinner>(R.id.classify_model)
    private val notice = view.findViewById<TextView>(R.id.classify_notice)
    private val photo = view.findViewById<ImageView>(R.id.classify_photo)
    private val camera = view.findViewById<Button>(R.id.classify_camera)
    private val gallery = view.findViewById<Button>(R.id.classify_gallery)

    /** The chosen photograph, which outlives rotation and process. */
    private val copy by lazy { File(activity.cacheDir, "photograph") }
    private var cleared = !fresh
    private var models: List<StoredModel> = emptyList()
    private var shown: Bitmap? = null

    init {
        gallery.setOnClickListener { choose() }
        camera.setOnClickListener { openCamera() }
        spinner.onItemSelectedListener = object : AdapterView.OnItemSelectedListener {
            override fun onItemSelected(parent: AdapterView<*>?, chosen: View?, position: Int, id: Long) =
                select(position)

            override fun onNothingSelected(parent: AdapterView<*>?) = Unit
        }
    }

    private class Loaded(val models: List<StoredModel>, val chosen: String, val photograph: Bitmap?)

    override fun show() = activity.load(::read) {
        models = it.models
        shown = it.photograph
        fill(it.chosen)
    }

    override fun onActivityResult(request: Int, data: Intent) {
        if (request == CHOOSE_PHOTOGRAPH) data.data?.let(::take)
    }

    private fun read(): Loaded {
        if (!cleared) copy.delete()
        cleared = true
        val photograph = if (copy.isFile) Photograph.read(copy) else null
        return Loaded(app.models.list().filter { it.classifies }, app.choices.read().classifier, photograph)
    }

    private fun fill(chosen: String) {
        gallery.isEnabled = models.isNotEmpty()
        camera.isEnabled = models.isNotEmpty()
        tell(if (models.isEmpty()) activity.getString(R.string.no_classifier) else null)
        spinner.adapter = ArrayAdapter(activity, R.layout.item_spinner, models.map { breakable(it.file.name) })
            .apply { setDropDownViewResource(R.layout.item_spinner_choice) }
        spinner.setSelection(models.indexOfFirst { it.file.name == chosen }.coerceAtLeast(0))
        classify()
    }

    private fun select(position: Int) {
        val model = models.getOrNull(position) ?: return
        app.work.write { app.choices.write(app.choices.read().copy(classifier = model.file.name)) }
        classify()
    }

    private fun choose() {
        val intent = if (Build.VERSION.SDK_INT >= 33) {
            Intent(MediaStore.ACTION_PICK_IMAGES)
        } else {
            Intent(Intent.ACTION_OPEN_DOCUMENT).addCategory(Intent.CATEGORY_OPENABLE)
        }
        try {
            @Suppress("DEPRECATION") // The successor is in a library that this app does without.
            activity.startActivityForResult(intent.setType("image/*"), CHOOSE_PHOTOGRAPH)
        } catch (error: ActivityNotFoundException) {
            tell(activity.getString(R.string.no_app_to_open))
        }
    }

    private fun openCamera() {
        val model = models.getOrNull(spinner.selectedItemPosition) ?: return
        activity.startActivity(
            Intent(activity, CameraActivity::class.java).putExtra(CameraActivity.MODEL, model.file.name),
        )
    }

    private fun take(uri: Uri) = activity.load({ copied(uri) }) { photograph ->
        shown = photograph
        tell(if (photograph == null) activity.getString(R.string.not_a_photograph) else null)
        classify()
    }

    private fun copied(uri: Uri): Bitmap? {
        try {
            val stream = activity.contentResolver.openInputStream(uri) ?: return null
            stream.use { source -> copy.outputStream().use { copyLimited(source, it, MAXIMUM_BYTES) } }
        } catch (error: IOException) {
            return null
        } catch (error: SecurityException) {
            return null
        }
        return Photograph.read(copy)
    }

    private fun classify() {
        val bitmap = shown
        val model = models.getOrNull(spinner.selectedItemPosition)
        photo.setImageBitmap(bitmap)
        photo.visibility = if (bitmap == null) View.GONE else View.VISIBLE
        view.findViewById<View>(R.id.classify_hint).visibility = if (bitmap == null) View.VISIBLE else View.GONE
        view.findViewById<View>(R.id.classify_card).visibility = View.GONE
        if (bitmap == null || model == null) return
        if (app.runs.state is RunState.Running) {
            tell(activity.getString(R.string.busy_benchmark))
            return
        }
        app.work.measure {
            val found = classified(model, bitmap)
            app.work.show { if (!activity.isDestroyed && bitmap === shown) found.fold(::showClasses, ::fail) }
        }
    }

    private fun classified(model: StoredModel, bitmap: Bitmap): Result<Classified> = try {
        Result.success(Classifier(engine(), model).use { it.classify(Photograph.pixels(bitmap)) })
    } catch (error: EngineException) {
        Result.failure(error)
    }

    private fun engine(): Engine =
        app.engines.working.firstOrNull() ?: throw EngineException(activity.getString(R.string.run_no_engine, ""))

    private fun fail(error: Throwable) = tell(error.message)

    private fun showClasses(found: Classified) {
        view.findViewById<View>(R.id.classify_card).visibility = View.VISIBLE
        view.findViewById<BarsView>(R.id.classify_classes).show(activity.barsOf(found.classes), full = 1.0)
        view.findViewById<TextView>(R.id.classify_time).text =
            activity.getString(R.string.classified_in, milliseconds(found.milliseconds))
    }

    private fun tell(sentence: String?) {
        notice.text = sentence
        notice.visibility = if (sentence == null) View.GONE else View.VISIBLE
    }

    private companion object {
        const val CHOOSE_PHOTOGRAPH = 3
        const val MAXIMUM_BYTES = 100_000_000L
    }
}
