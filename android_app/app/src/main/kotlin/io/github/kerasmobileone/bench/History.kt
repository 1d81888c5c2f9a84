package io.github.kerasmobileone.bench

import android.util.AtomicFile
import io.github.kerasmobileone.core.Benchmark
import io.github.kerasmobileone.core.FormatException
import java.io.File
import java.io.IOException
import java.text.ParsePosition
import java.text.SimpleDateFormat
import java.util.Date
import java.util.Locale
import java.util.TimeZone

/**
 * A stored result.
 *
 * @property name name of its file, which identifies it.
 * @property benchmark the result, or null if the file is damaged.
 */
class StoredResult(val name: String, val benchmark: Benchmark?) {
    /** When it was measured or imported, in milliseconds since 1970; null for a foreign name. */
    val time: Long? get() = format().parse(name, ParsePosition(0))?.time

    val imported: Boolean get() = name.contains(IMPORTED)

    internal companion object {
        const val IMPORTED = "imported"
        const val TIME = "yyyyMMdd-HHmmss-SSS"

        fun format() = SimpleDateFormat(TIME, Locale.ROOT).apply {
            timeZone = TimeZone.getTimeZone("UTC")
        }
    }
}

/** Results on the disk, each in a JSON file that is written atomically. */
class History(private val directory: File) {

    /** All results, the newest first. */
    @Synchronized
    fun list(): List<StoredResult> = directory.listFiles().orEmpty()
        .filter { it.name.endsWith(EXTENSION) }
        .sortedByDescending { it.name }
        .map { StoredResult(it.name, read(it)) }

    /** The result of that name, or null if there is none or it is damaged. */
    @Synchronized
    fun find(name: String): StoredResult? {
        val file = File(directory, name)
        if (file.parentFile != directory || !file.isFile) return null
        return StoredResult(name, read(file))
    }

    /** Stores a result and returns its name. */
    @Synchronized
    fun add(benchmark: Benchmark, imported: Boolean = false): String {
        directory.mkdirs()
        val ending = if (imported) "-${StoredResult.IMPORTED}$EXTENSION" else EXTENSION
        // Names in order of time; of two in one millisecond, the later one gets the next.
        val taken = directory.list().orEmpty().map { it.take(StoredResult.TIME.length) }.toSet()
        val times = generateSequence(System.currentTimeMillis()) { it + 1 }.map { StoredResult.format().format(Date(it)) }
        val name = times.first { it !in taken } + ending
        writeWhole(File(directory, name), benchmark.toJson())
        return name
    }

    @Synchronized
    fun delete(name: String) = AtomicFile(File(directory, name)).delete()

    private fun read(file: File): Benchmark? = try {
        Benchmark.parse(String(AtomicFile(file).readFully(), Charsets.UTF_8))
    } catch (error: FormatException) {
        null // The list shows that the file is damaged, and offers to delete it.
    }

    companion object {
        private const val EXTENSION = ".json"

        /** Writes a text so that a reader sees the old file or the new one, never a part. */
        fun writeWhole(file: File, text: String) {
            val atomic = AtomicFile(file)
            val stream = atomic.startWrite()
            try {
                stream.write(text.toByteArray())
                atomic.finishWrite(stream)
            } catch (error: IOException) {
                atomic.failWrite(stream)
                throw error
            }
        }
    }
}
