package io.github.kerasmobileone.bench

import android.content.ContentProvider
import android.content.ContentValues
import android.content.Intent
import android.content.pm.ProviderInfo
import android.database.Cursor
import android.database.MatrixCursor
import android.net.Uri
import android.os.ParcelFileDescriptor
import android.provider.OpenableColumns
import android.view.View
import java.io.File
import java.io.FileNotFoundException
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNull
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Assume.assumeTrue
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.Robolectric
import org.robolectric.RobolectricTestRunner
import org.robolectric.Shadows.shadowOf
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode

/** Files that come from outside and go there: models, results, and the intent from the desk. */
@RunWith(RobolectricTestRunner::class)
@GraphicsMode(GraphicsMode.Mode.NATIVE)
@Config(sdk = [24, 36], qualifiers = PHONE)
class FilesTest {

    /** Another app's documents. */
    class Documents : ContentProvider() {
        override fun onCreate() = true
        override fun getType(uri: Uri) = "application/octet-stream"

        override fun query(uri: Uri, p: Array<String>?, s: String?, a: Array<String>?, o: String?): Cursor =
            MatrixCursor(arrayOf(OpenableColumns.DISPLAY_NAME, OpenableColumns.SIZE)).apply {
                addRow(arrayOf<Any?>(names[uri.lastPathSegment] ?: uri.lastPathSegment, sizes[uri.lastPathSegment]))
            }

        override fun openFile(uri: Uri, mode: String): ParcelFileDescriptor {
            val file = files[uri.lastPathSegment] ?: throw FileNotFoundException("There is no such document.")
            return ParcelFileDescriptor.open(file, ParcelFileDescriptor.MODE_READ_ONLY)
        }

        override fun insert(uri: Uri, values: ContentValues?): Uri? = null
        override fun update(uri: Uri, values: ContentValues?, s: String?, a: Array<String>?) = 0
        override fun delete(uri: Uri, s: String?, a: Array<String>?) = 0

        val files = HashMap<String?, File>()
        val names = HashMap<String?, String>()
        val sizes = HashMap<String?, Long>()
    }

    private val documents by lazy {
        Robolectric.buildContentProvider(Documents::class.java).create(ProviderInfo().apply { authority = "documents" }).get()
    }

    private fun document(id: String, file: File?, name: String = id, size: Long? = file?.length()): Uri {
        if (file != null) documents.files[id] = file
        documents.names[id] = name
        if (size != null) documents.sizes[id] = size
        return Uri.parse("content://documents/$id")
    }

    private fun written(text: String): File = File.createTempFile("document", null).apply { writeText(text) }

    /** Opens a document as "open with" does; returns the screen on which its model appears. */
    private fun open(uri: Uri, action: String = Intent.ACTION_VIEW): MainActivity {
        val intent = Intent(action)
        if (action == Intent.ACTION_SEND) intent.putExtra(Intent.EXTRA_STREAM, uri) else intent.data = uri
        val opener = Robolectric.buildActivity(OpenModelActivity::class.java, intent).create().get()
        assertTrue(opener.isFinishing)
        return start<MainActivity>(shadowOf(opener).nextStartedActivity).get()
    }

    @Test fun a_model_is_opened_from_another_app() {
        assumeTrue(modelFiles().isNotEmpty())
        for ((action, name) in listOf(Intent.ACTION_VIEW to "my model.tflite", Intent.ACTION_SEND to "../evil.tflite")) {
            val activity = open(document("1", modelFiles().last(), name), action)
            val kept = ModelStore.modelName(name)
            assertTrue(activity.texts(), activity.texts().contains(kept))
            assertFalse(checkNotNull(app.models.find(kept)).bundled)
        }
        val detail = start<ModelActivity>(Intent().putExtra(ModelActivity.NAME, "my_model.tflite")).get()
        assertTrue(detail.texts().contains(app.getString(R.string.delete_model)))
    }

    @Test fun a_file_that_is_no_model_gets_one_sentence() {
        val activity = open(document("2", written("This is a text, not a model."), "text.tflite"))
        activity.shoot("models-refused")
        assertEquals(View.VISIBLE, activity.findViewById<View>(R.id.models_notice).visibility)
        assertNull(app.models.find("text.tflite"))
    }

    @Test fun a_truncated_model_gets_one_sentence() {
        assumeTrue(modelFiles().isNotEmpty())
        val half = File.createTempFile("half", null)
        half.writeBytes(modelFiles().last().readBytes().copyOf(100_000))
        open(document("3", half, "half.tflite"))
        assertNull(app.models.find("half.tflite"))
    }

    @Test fun a_file_of_4_GB_is_refused_before_it_is_read() {
        val uri = document("4", null, "huge.tflite", 4_000_000_000)
        val error = assertThrows(NotOpened::class.java) { app.models.open(uri) }
        assertTrue(error.message.orEmpty(), error.message.orEmpty().contains("4000"))
    }

    @Test fun a_document_that_is_gone_and_a_file_address_are_refused() {
        for (uri in listOf(document("5", null, "gone.tflite"), Uri.parse("file:///etc/passwd"))) {
            val error = assertThrows(NotOpened::class.java) { app.models.open(uri) }
            assertEquals(app.getString(R.string.open_failed), error.message)
        }
    }

    @Test fun the_same_model_is_kept_once_and_another_of_its_name_beside_it() {
        assumeTrue(modelFiles().size > 1)
        val names = listOf(modelFiles()[0], modelFiles()[0], modelFiles()[1]).map {
            app.models.open(document("6", it, "model.tflite")).file.name
        }
        assertEquals(listOf("model.tflite", "model.tflite", "model-2.tflite"), names)
        app.models.delete(checkNotNull(app.models.find("model-2.tflite")))
        assertNull(app.models.find("model-2.tflite"))
    }

    @Test fun a_result_is_imported_and_a_damaged_one_refused() {
        val good = written(exampleBenchmark("this machine").toJson())
        assertNull(ResultImport(app).import(document("7", good)))
        assertEquals(exampleBenchmark("this machine").latencies, app.history.list().single().benchmark?.latencies)
        val sentence = ResultImport(app).import(document("8", written("{\"format\": 7}")))
        assertTrue(sentence.orEmpty(), sentence.orEmpty().contains("it has format 7"))
        assertEquals(1, app.history.list().size)
    }

    @Test fun a_shared_result_is_read_through_the_provider_and_nothing_else_is() {
        val uri = ResultProvider.share(app, "result.json", exampleBenchmark().toJson())
        val provider = Robolectric.buildContentProvider(ResultProvider::class.java).create("io.github.kerasmobileone.bench.results").get()
        assertEquals("application/json", provider.getType(uri))
        provider.openFile(uri, "r").use { assertEquals(exampleBenchmark().toJson().length.toLong(), it.statSize) }
        provider.query(uri, null, null, null, null).use {
            assertTrue(it.moveToFirst())
            assertEquals("result.json", it.getString(it.getColumnIndex(OpenableColumns.DISPLAY_NAME)))
        }
        File(app.filesDir, "secret.json").writeText("{}")
        for (name in listOf("other.json", "..%2F..%2Ffiles%2Fsecret.json", "../../files/secret.json")) {
            val foreign = Uri.parse("content://io.github.kerasmobileone.bench.results/$name")
            assertThrows(FileNotFoundException::class.java) { provider.openFile(foreign, "r") }
        }
        assertThrows(FileNotFoundException::class.java) { provider.openFile(uri, "rw") }
    }

    private fun run(vararg extras: Pair<String, Any>) {
        val intent = Intent("io.github.kerasmobileone.bench.RUN")
        for ((name, value) in extras) if (value is Int) intent.putExtra(name, value) else intent.putExtra(name, value.toString())
        val activity = Robolectric.buildActivity(RunActivity::class.java, intent).create().get()
        assertTrue(activity.isFinishing)
        settle()
    }

    private fun output(name: String) = File(app.getExternalFilesDir(null), name)

    @Test fun the_desk_starts_a_benchmark() {
        assumeTrue(modelFiles().isNotEmpty())
        val path = modelFiles().last().path
        val name = modelFiles().first().name
        run("files" to "$name,$path", "threads" to "1,2", "rounds" to 2, "runs" to 3, "warmup_runs" to 1, "output" to "desk.json")
        waitFor("the state") { output("desk.json.state").let { it.isFile && it.readText() == "done" } }
        val result = io.github.kerasmobileone.core.Benchmark.parse(output("desk.json").readText())
        assertEquals(4, result.latencies.size)
        assertTrue(result.latencies.all { it.medians.size == 2 })
        assertEquals(3L, (result.conditions["runs"] as Number).toLong())
        // For the command line, which has to read it.
        System.getProperty("screenshots")?.let { output("desk.json").copyTo(File(it, "desk.json"), overwrite = true) }
    }

    @Test fun what_the_desk_cannot_have_is_told_in_one_sentence() {
        for ((extras, sentence) in listOf(
            listOf("files" to "none.tflite") to "none.tflite",
            listOf("files" to "") to "at least one file",
            listOf("files" to "/none", "threads" to "x") to "/none",
            listOf("files" to modelFiles().firstOrNull()?.name.orEmpty(), "accelerators" to "tpu") to "tpu",
            listOf("files" to modelFiles().firstOrNull()?.name.orEmpty(), "rounds" to 0) to "rounds",
        )) {
            if (modelFiles().isEmpty() && sentence in listOf("tpu", "rounds")) continue
            run(*extras.toTypedArray(), "output" to "bad.json")
            val state = output("bad.json.state").readText()
            assertTrue(state, state.startsWith("failed: ") && state.contains(sentence) && state.lines().size == 1)
        }
        for (name in listOf("../x.json", "", "a/b", ".hidden")) {
            run("files" to modelFiles().firstOrNull()?.name.orEmpty(), "output" to name)
            assertTrue(app.runs.state is RunState.Idle)
        }
    }
}
