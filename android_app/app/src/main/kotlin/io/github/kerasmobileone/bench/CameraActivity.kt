package io.github.kerasmobileone.bench

import android.Manifest
import android.content.Intent
import android.content.pm.PackageManager
import android.content.res.Configuration
import android.graphics.Bitmap
import android.net.Uri
import android.os.Build
import android.os.Bundle
import android.os.SystemClock
import android.provider.Settings
import android.view.Surface
import android.view.View
import android.widget.Button
import android.widget.ImageView
import android.widget.LinearLayout
import android.widget.TextView
import io.github.kerasmobileone.core.EngineException
import java.util.concurrent.atomic.AtomicBoolean

/** Classifies what the camera sees, picture after picture. */
class CameraActivity : BenchActivity() {
    private val busy = AtomicBoolean()
    private var frames: CameraFrames? = null
    private var live: LiveClassifier? = null
    private var asked = false

    override fun onCreate(state: Bundle?) {
        super.onCreate(state)
        setScreen(R.layout.camera)
        setBack(getString(R.string.camera))
        asked = state?.getBoolean(ASKED) ?: false
        if (resources.configuration.orientation == Configuration.ORIENTATION_LANDSCAPE) placeSideBySide()
        findViewById<Button>(R.id.camera_settings).setOnClickListener { openSettings() }
    }

    override fun onSaveInstanceState(state: Bundle) {
        super.onSaveInstanceState(state)
        state.putBoolean(ASKED, asked)
    }

    override fun onStart() {
        super.onStart()
        when {
            bench.runs.state is RunState.Running -> tell(R.string.busy_benchmark)
            checkSelfPermission(Manifest.permission.CAMERA) == PackageManager.PERMISSION_GRANTED -> begin()
            asked -> deny()
            else -> {
                asked = true
                requestPermissions(arrayOf(Manifest.permission.CAMERA), PERMISSION)
            }
        }
    }

    override fun onStop() {
        frames?.close()
        frames = null
        live?.let { old -> bench.work.measure { old.close() } }
        live = null
        super.onStop()
    }

    override fun onRequestPermissionsResult(request: Int, permissions: Array<out String>, results: IntArray) {
        super.onRequestPermissionsResult(request, permissions, results)
        if (results.firstOrNull() == PackageManager.PERMISSION_GRANTED) begin() else deny()
    }

    private fun deny() {
        tell(R.string.camera_denied)
        findViewById<View>(R.id.camera_settings).visibility = View.VISIBLE
    }

    private fun begin() {
        if (frames != null) return
        tell(null)
        findViewById<View>(R.id.camera_settings).visibility = View.GONE
        val name = intent.getStringExtra(MODEL).orEmpty()
        load({ bench.models.find(name) to CameraFrames.find(this) }) { (model, camera) ->
            when {
                model == null || !model.classifies -> tell(R.string.no_classifier)
                camera == null -> tell(R.string.camera_none)
                frames == null && !isFinishing -> open(model, camera)
            }
        }
    }

    private fun open(model: StoredModel, camera: String) {
        live = LiveClassifier(bench, model)
        frames = CameraFrames(this, screenRotation(), ::onFrame) { bench.work.show { tell(R.string.camera_failed) } }
            .also { it.open(camera) }
    }

    /** On the camera's thread: the picture is shown, and classified unless another one still is. */
    private fun onFrame(pixels: Pixels) {
        val bitmap = Bitmap.createBitmap(pixels.values, pixels.width, pixels.height, Bitmap.Config.ARGB_8888)
        bench.work.show { if (!isDestroyed) show(bitmap) }
        val classifier = live ?: return
        if (!busy.compareAndSet(false, true)) return
        bench.work.measure {
            try {
                classify(classifier, pixels)
            } finally {
                busy.set(false)
            }
        }
    }

    private fun show(bitmap: Bitmap) = findViewById<ImageView>(R.id.camera_preview).run {
        visibility = View.VISIBLE
        setImageBitmap(bitmap)
    }

    private fun classify(classifier: LiveClassifier, pixels: Pixels) {
        try {
            val found = classifier.classify(pixels) ?: return
            bench.work.show { if (!isDestroyed) show(found, classifier.perSecond) }
        } catch (error: EngineException) {
            bench.work.show { if (!isDestroyed) tell(error.message) }
        }
    }

    private fun show(found: Classified, perSecond: Double) {
        findViewById<BarsView>(R.id.camera_classes).show(barsOf(found.classes), full = 1.0)
        findViewById<TextView>(R.id.camera_speed).text =
            getString(R.string.camera_speed, decimal(perSecond, 1), milliseconds(found.milliseconds))
    }

    private fun tell(sentence: Int) = tell(getString(sentence))

    private fun tell(sentence: String?) {
        val notice = findViewById<TextView>(R.id.camera_notice)
        notice.text = sentence
        notice.visibility = if (sentence == null) View.GONE else View.VISIBLE
    }

    private fun openSettings() = startActivity(
        Intent(Settings.ACTION_APPLICATION_DETAILS_SETTINGS, Uri.fromParts("package", packageName, null)),
    )

    private fun placeSideBySide() {
        findViewById<LinearLayout>(R.id.camera_panes).orientation = LinearLayout.HORIZONTAL
        for (id in listOf(R.id.camera_preview, R.id.camera_found)) {
            findViewById<View>(id).layoutParams =
                LinearLayout.LayoutParams(0, LinearLayout.LayoutParams.MATCH_PARENT, 1f)
        }
    }

    @Suppress("DEPRECATION") // The successor needs API 30.
    private fun screenRotation(): Int {
        val display = if (Build.VERSION.SDK_INT >= 30) display else windowManager.defaultDisplay
        return when (display?.rotation) {
            Surface.ROTATION_90 -> 90
            Surface.ROTATION_180 -> 180
            Surface.ROTATION_270 -> 270
            else -> 0
        }
    }

    companion object {
        /** Extra of the intent: name of the model's file. */
        const val MODEL = "model"
        private const val ASKED = "asked"
        private const val PERMISSION = 1
    }
}

/** A classifier that is loaded at the first picture and counts pictures. It stays on the thread of the models. */
class LiveClassifier(private val app: BenchApplication, private val model: StoredModel) {
    private var classifier: Classifier? = null
    private var closed = false
    private val ends = ArrayDeque<Long>()

    /** Classified pictures per second, over the last ones. */
    var perSecond = 0.0
        private set

    /** Classifies a picture; null after [close]. */
    fun classify(pixels: Pixels): Classified? {
        if (closed) return null
        val engine = app.engines.working.firstOrNull()
            ?: throw EngineException(app.getString(R.string.run_no_engine, ""))
        val loaded = classifier ?: Classifier(engine, model).also { classifier = it }
        return loaded.classify(pixels).also { count() }
    }

    private fun count() {
        ends.addLast(SystemClock.elapsedRealtime())
        if (ends.size > COUNTED) ends.removeFirst()
        val passed = ends.last() - ends.first()
        perSecond = if (passed > 0) 1000.0 * (ends.size - 1) / passed else 0.0
    }

    fun close() {
        closed = true
        classifier?.close()
    }

    private companion object {
        const val COUNTED = 20
    }
}
