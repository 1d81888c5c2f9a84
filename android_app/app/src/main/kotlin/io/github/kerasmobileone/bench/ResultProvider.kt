package io.github.kerasmobileone.bench

import android.content.ContentProvider
import android.content.ContentValues
import android.content.Context
import android.database.Cursor
import android.database.MatrixCursor
import android.net.Uri
import android.os.ParcelFileDescriptor
import android.provider.OpenableColumns
import java.io.File
import java.io.FileNotFoundException

/** Gives other apps the files that the user shares, and nothing else. They can only be read. */
class ResultProvider : ContentProvider() {

    override fun onCreate() = true

    override fun getType(uri: Uri): String =
        if (uri.lastPathSegment.orEmpty().endsWith(".csv")) "text/csv" else "application/json"

    override fun openFile(uri: Uri, mode: String): ParcelFileDescriptor {
        if (mode != "r") throw FileNotFoundException("Shared results can only be read. Received: mode $mode.")
        return ParcelFileDescriptor.open(fileOf(uri), ParcelFileDescriptor.MODE_READ_ONLY)
    }

    override fun query(
        uri: Uri,
        projection: Array<String>?,
        selection: String?,
        selectionArgs: Array<String>?,
        sortOrder: String?,
    ): Cursor {
        val file = fileOf(uri)
        val known = mapOf(OpenableColumns.DISPLAY_NAME to file.name, OpenableColumns.SIZE to file.length())
        val columns = (projection ?: known.keys.toTypedArray()).filter { it in known }
        return MatrixCursor(columns.toTypedArray(), 1).apply { addRow(columns.map { known[it] }) }
    }

    override fun insert(uri: Uri, values: ContentValues?): Uri? = refuse()

    override fun update(uri: Uri, values: ContentValues?, selection: String?, arguments: Array<String>?): Int = refuse()

    override fun delete(uri: Uri, selection: String?, arguments: Array<String>?): Int = refuse()

    private fun refuse(): Nothing = throw UnsupportedOperationException("Shared results can only be read.")

    private fun fileOf(uri: Uri): File {
        val name = uri.lastPathSegment.orEmpty()
        val directory = directory(requireNotNull(context) { "The provider has no context yet." })
        // A name from outside must not lead out of the directory.
        val file = directory.listFiles().orEmpty().find { it.name == name && it.isFile }
        return file ?: throw FileNotFoundException("There is no shared file $name.")
    }

    companion object {
        private fun directory(context: Context) = File(context.cacheDir, "shared")

        /**
         * Puts a text where other apps can read it once they were given the address.
         *
         * It writes to the disk: not for the main thread.
         */
        fun share(context: Context, name: String, text: String): Uri {
            val directory = directory(context)
            directory.mkdirs()
            File(directory, name).writeText(text)
            return Uri.Builder().scheme("content").authority("${context.packageName}.results").appendPath(name).build()
        }
    }
}
