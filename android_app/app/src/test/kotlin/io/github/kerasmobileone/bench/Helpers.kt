package io.github.kerasmobileone.bench

import android.app.Activity
import android.graphics.Bitmap
import android.graphics.Canvas
import android.os.Build
import android.view.View
import android.view.ViewGroup
import android.widget.TextView
import io.github.kerasmobileone.core.Benchmark
import io.github.kerasmobileone.core.Failure
import io.github.kerasmobileone.core.ModelFile
import io.github.kerasmobileone.core.latencyOf
import io.github.kerasmobileone.core.roundOf
import java.io.File
import org.robolectric.Robolectric
import org.robolectric.RuntimeEnvironment
import org.robolectric.android.controller.ActivityController
import org.robolectric.shadows.ShadowLooper

const val PHONE = "w411dp-h891dp-xhdpi"

val app: BenchApplication get() = RuntimeEnvironment.getApplication() as BenchApplication

/** Lets background threads and the main thread work until a condition holds. */
fun waitFor(what: String, seconds: Int = 60, condition: () -> Boolean) {
    val end = System.nanoTime() + seconds * 1_000_000_000L
    while (true) {
        ShadowLooper.idleMainLooper()
        if (condition()) return
        check(System.nanoTime() < end) { "Waited $seconds s in vain for $what." }
        Thread.sleep(10)
    }
}

/** Waits until everything given to the disk's thread was done and shown. */
fun settle() {
    repeat(3) {
        var done = false
        app.work.load({}) { done = true }
        waitFor("the disk") { done }
    }
}

inline fun <reified T : Activity> start(intent: android.content.Intent? = null): ActivityController<T> {
    val controller = Robolectric.buildActivity(T::class.java, intent).setup()
    settle()
    layOut(controller.get())
    return controller
}

/** Measures and lays out what an activity shows, which Robolectric leaves out before API 28. */
fun layOut(activity: Activity, screens: Int = 1) {
    ShadowLooper.idleMainLooper()
    val metrics = activity.resources.displayMetrics
    val view = activity.window.decorView
    view.measure(
        View.MeasureSpec.makeMeasureSpec(metrics.widthPixels, View.MeasureSpec.EXACTLY),
        View.MeasureSpec.makeMeasureSpec(screens * metrics.heightPixels, View.MeasureSpec.EXACTLY),
    )
    view.layout(0, 0, metrics.widthPixels, screens * metrics.heightPixels)
}

/** All texts that a view shows. */
fun texts(view: View): List<String> = when {
    view.visibility != View.VISIBLE -> emptyList()
    view is TextView -> listOf(view.text.toString().replace("\u200B", ""))
    view is ViewGroup -> (0 until view.childCount).flatMap { texts(view.getChildAt(it)) }
    else -> emptyList()
}

fun Activity.texts(): String = texts(window.decorView).joinToString("\n")

/** All views of a class that are visible. */
inline fun <reified T : View> views(view: View): List<T> = allViews(view).filterIsInstance<T>()

fun allViews(view: View): List<View> = when {
    view.visibility != View.VISIBLE -> emptyList()
    view is ViewGroup -> listOf(view) + (0 until view.childCount).flatMap { allViews(view.getChildAt(it)) }
    else -> listOf(view)
}

/**
 * Writes what an activity shows to the directory of screenshots, if there is one.
 *
 * Robolectric draws no texts before API 26. With [tall], the picture shows what one would scroll to.
 */
fun Activity.shoot(name: String, tall: Boolean = false) {
    layOut(this, if (tall) 3 else 1)
    if (Build.VERSION.SDK_INT < 26) return
    val directory = System.getProperty("screenshots") ?: return
    val view = window.decorView
    val picture = Bitmap.createBitmap(view.width, view.height, Bitmap.Config.ARGB_8888)
    view.draw(Canvas(picture))
    File(directory, "$name.png").outputStream().use {
        check(picture.compress(Bitmap.CompressFormat.PNG, 100, it))
    }
}

/** The demonstration models; tests that need them are skipped without. */
fun modelFiles(): List<File> =
    System.getProperty("models")?.let(::File)?.listFiles().orEmpty().filter { it.name.endsWith(".tflite") }.sorted()

const val IMAGENET_CLASSES = 1000

/** The names of the classes that a model knows. */
fun labelsOf(model: File): List<String> = ModelFile.read(model).labels.orEmpty()

/** A result with three files, as this app writes it. */
fun exampleBenchmark(target: String = APP_TARGET, rounds: Int = 20): Benchmark {
    fun latency(name: String, bytes: Long, time: Double) = latencyOf(
        name,
        bytes,
        List(rounds) { round -> roundOf(List(50) { time * (1 + 0.01 * round + 0.002 * (it % 7)) }, 8 * time) },
    )
    val configurations = mapOf(
        "mobileone_s0_float32.tflite (gpu-fp16, 1 thread)" to
            mapOf("file" to "mobileone_s0_float32.tflite", "accelerator" to "gpu-fp16", "threads" to 1, "ran_on" to "cpu", "difference" to 0.2),
    )
    return Benchmark(
        listOf(
            latency("mobileone_s0_float32.tflite (cpu, 1 thread)", 8_360_087, 9.4),
            latency("mobileone_s0_float32.tflite (cpu, 4 threads)", 8_360_087, 3.1),
            latency("mobileone_s0_float32.tflite (gpu-fp16, 1 thread)", 8_360_087, 9.6),
            latency("mobileone_s0_int8.tflite (cpu, 4 threads)", 2_384_855, 1.62),
        ),
        mapOf(
            "target" to target,
            "device" to "Google Pixel 8",
            "engine" to "tflite-2.16",
            "runs" to 50,
            "rounds" to rounds,
            "before" to mapOf("thermal_status" to 0, "thermal_headroom" to 0.41, "battery" to 83, "power_save" to false),
            "after" to mapOf("thermal_status" to 2, "thermal_headroom" to 0.87, "battery" to 82, "power_save" to true),
            "configurations" to configurations,
        ),
        listOf(Failure("broken.tflite (nnapi, 1 thread)", "The runtime refused the file: an operator is unknown.")),
    )
}

/** Changes the size of all texts, as the settings of Android do. */
fun setFontScale(scale: Float) = RuntimeEnvironment.setFontScale(scale)
