package io.github.kerasmobileone.bench

import android.content.Context
import android.net.Uri
import io.github.kerasmobileone.core.Benchmark
import io.github.kerasmobileone.core.FormatException
import java.io.ByteArrayOutputStream
import java.io.IOException

/** Reads results that other programs have written. */
class ResultImport(private val context: Context) {

    /** Stores the result in a document in the history; returns a sentence if it is none. */
    fun import(uri: Uri): String? = try {
        val bytes = ByteArrayOutputStream()
        val stream = context.contentResolver.openInputStream(uri) ?: return context.getString(R.string.open_failed)
        stream.use { copyLimited(it, bytes, MAXIMUM_BYTES) }
        context.bench.history.add(Benchmark.parse(String(bytes.toByteArray(), Charsets.UTF_8)), imported = true)
        null
    } catch (error: FormatException) {
        error.message
    } catch (error: TooLarge) {
        context.getString(R.string.open_too_large, megabytes(error.size), megabytes(MAXIMUM_BYTES))
    } catch (error: IOException) {
        context.getString(R.string.open_failed)
    } catch (error: SecurityException) {
        context.getString(R.string.open_failed)
    }

    private companion object {
        const val MAXIMUM_BYTES = 10_000_000L
    }
}
