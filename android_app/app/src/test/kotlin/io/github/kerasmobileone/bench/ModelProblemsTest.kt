package io.github.kerasmobileone.bench

import android.content.ContentProvider
import android.content.ContentValues
import android.content.pm.ProviderInfo
import android.database.Cursor
import android.net.Uri
import android.os.ParcelFileDescriptor
import io.github.kerasmobileone.core.ModelProblem
import java.io.File
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNotEquals
import org.junit.Assert.assertNull
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Assume.assumeTrue
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.Robolectric
import org.robolectric.RobolectricTestRunner
import org.robolectric.RuntimeEnvironment
import org.robolectric.annotation.Config

/** Files that no runtime takes, and what the user is told about them. */
@RunWith(RobolectricTestRunner::class)
@Config(sdk = [24, 36], qualifiers = PHONE)
class ModelProblemsTest {

    /** Offers the files of a directory as a document provider does. */
    class Directory : ContentProvider() {
        override fun onCreate() = true
        override fun getType(uri: Uri) = "application/octet-stream"
        override fun query(uri: Uri, p: Array<String>?, s: String?, a: Array<String>?, o: String?): Cursor? = null
        override fun insert(uri: Uri, values: ContentValues?): Uri? = null
        override fun update(uri: Uri, values: ContentValues?, s: String?, a: Array<String>?) = 0
        override fun delete(uri: Uri, s: String?, a: Array<String>?) = 0
        override fun openFile(uri: Uri, mode: String): ParcelFileDescriptor =
            ParcelFileDescriptor.open(fixture(uri.lastPathSegment.orEmpty()), ParcelFileDescriptor.MODE_READ_ONLY)
    }

    private fun refusal(name: String): String {
        Robolectric.buildContentProvider(Directory::class.java).create(ProviderInfo().apply { authority = "directory" })
        val error = assertThrows(NotOpened::class.java) { app.models.open(Uri.parse("content://directory/$name")) }
        assertNull(app.models.find(name))
        assertNull("A refusal is no crash.", app.crashMemory.interruption())
        return error.message.orEmpty()
    }

    @Test fun a_model_with_unknown_operators_is_refused_when_it_is_opened() {
        assumeTrue(fixture("custom.tflite").isFile)
        assertTrue(refusal("custom.tflite").endsWith("which has operators that are not part of TFLite: FlexErf."))
        assertTrue(refusal("newer.tflite").contains("operators that are newer than this runtime"))
        assertTrue(refusal("open.tflite").contains("open shape 1 × −1 × 4 × 3".replace('−', '-')))
        assertTrue(refusal("string.tflite").contains("takes no numbers of a known type"))
    }

    @Test fun every_problem_is_told_as_the_core_tells_it_and_in_German() {
        val details = arrayOf<Any>("first", "second")
        val english = ModelProblem.entries.map { app.getString(resourceOf(it), *details) }
        assertEquals(ModelProblem.entries.map { it.sentence.format(*details) }, english)
        RuntimeEnvironment.setQualifiers("+de")
        for ((problem, sentence) in ModelProblem.entries.zip(english)) {
            val german = app.getString(resourceOf(problem), *details)
            assertNotEquals(sentence, german)
            assertEquals(details.filter { it.toString() in sentence }, details.filter { it.toString() in german })
        }
    }

    private companion object {
        fun fixture(name: String) = File(System.getProperty("fixtures").orEmpty(), "files/$name")
    }
}
