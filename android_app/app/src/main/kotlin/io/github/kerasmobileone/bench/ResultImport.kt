package io.github.kerasmobileone.bench

import android.content.Context
import android.net.Uri
import io.github.kerasmobileone.core.Benchmark
import io.github.kerasmobileone.core.FormatException
import java.io.ByteArrayOutputStream
import java.io.IOException
import java.io.InputStream

/** Reads results that other programs have written. */
class ResultImport(private val context: Context) {

    /** Stores the result in a document in the history; returns a sentence if it is none. */
    fun import(uri: Uri): String? = try {
        val stream = context.contentResolver.openInputStream(uri)
        val bytes = stream?.use(::readLimited) ?: return context.getString(R.string.open_failed)
        context.bench.history.add(Benchmark.parse(String(bytes, Charsets.UTF_8)), imported = true)
        null
    } catch (error: FormatException) {
        error.message
    } catch (error: TooLarge) {
        context.getString(R.string.open_too_large, megabytes(error.size), megabytes(MAXIMUM_BYTES.toLong()))
    } catch (error: IOException) {
        context.getString(R.string.open_failed)
    } catch (error: SecurityException) {
        context.getString(R.string.open_failed)
    }

    private class TooLarge(val size: Long) : Exception()

    private fun readLimited(stream: InputStream): ByteArray {
        val found = ByteArrayOutputStream()
        val buffer = ByteArray(1 shl 14)
        while (true) {
            val count = stream.read(buffer)
            if (count < 0) return found.toByteArray()
            found.write(buffer, 0, count)
            if (found.size() > MAXIMUM_BYTES) throw TooLarge(found.size().toLong())
        }
    }

    private companion object {
        const val MAXIMUM_BYTES = 10_000_000
    }
}
