package io.github.kerasmobileone.core

import java.nio.ByteBuffer
import java.util.zip.CRC32
import java.util.zip.DataFormatException
import java.util.zip.Inflater

/**
 * The zip archive that may follow the model in a TFLite file, with files such as labels.
 *
 * Android's own `ZipFile` refuses an archive that does not begin with the file.
 *
 * @param buffer the whole file in little-endian order.
 */
internal class AssociatedFiles(private val buffer: ByteBuffer) {

    /** Returns the content of a file in the archive; null if there is none or it is damaged. */
    fun read(name: String): ByteArray? = try {
        find(name)?.let(::content)
    } catch (error: IndexOutOfBoundsException) {
        null // Fields of a damaged archive point outside of the file.
    } catch (error: DataFormatException) {
        null
    }

    /** An entry of the archive's directory, which begins at [place]; [base] is where the archive does. */
    private inner class Entry(place: Int, base: Int) {
        val method = short(place + 10)
        val checksum = buffer.getInt(place + 16)
        val compressed = buffer.getInt(place + 20)
        val size = buffer.getInt(place + 24)
        val header = base + buffer.getInt(place + 42)
        val name = String(bytes(place + 46, short(place + 28)), Charsets.UTF_8)
        val end = place + 46 + short(place + 28) + short(place + 30) + short(place + 32)
    }

    private fun find(name: String): Entry? {
        val end = findEnd() ?: return null
        val directory = end - buffer.getInt(end + 12)
        // Some programs count offsets from the start of the file, others from that of the archive.
        val base = directory - buffer.getInt(end + 16)
        var place = directory
        repeat(short(end + 10)) {
            if (buffer.getInt(place) != ENTRY) return null
            val entry = Entry(place, base)
            if (entry.name == name) return entry
            place = entry.end
        }
        return null
    }

    /** Finds the record at the end of the archive, which only a comment may follow. */
    private fun findEnd(): Int? {
        val last = buffer.limit() - END_SIZE
        return (last downTo maxOf(0, last - MAXIMUM_COMMENT)).firstOrNull { buffer.getInt(it) == END }
    }

    private fun content(entry: Entry): ByteArray? {
        if (entry.size !in 0..MAXIMUM_BYTES || buffer.getInt(entry.header) != FILE) return null
        val start = entry.header + 30 + short(entry.header + 26) + short(entry.header + 28)
        val stored = bytes(start, entry.compressed)
        val found = when (entry.method) {
            0 -> stored
            8 -> inflate(stored, entry.size)
            else -> return null
        }
        val checksum = CRC32().apply { update(found, 0, found.size) }
        return found.takeIf { checksum.value.toInt() == entry.checksum }
    }

    private fun inflate(stored: ByteArray, size: Int): ByteArray {
        val inflater = Inflater(true)
        try {
            inflater.setInput(stored)
            val found = ByteArray(size)
            var count = 0
            while (count < size) {
                val more = inflater.inflate(found, count, size - count)
                if (more == 0) throw DataFormatException("The compressed file is cut short.")
                count += more
            }
            return found
        } finally {
            inflater.end()
        }
    }

    private fun short(place: Int): Int = buffer.getShort(place).toInt() and 0xFFFF

    private fun bytes(start: Int, size: Int): ByteArray {
        if (start < 0 || size < 0 || start.toLong() + size > buffer.limit()) throw IndexOutOfBoundsException()
        val source = buffer.duplicate()
        source.position(start)
        return ByteArray(size).also { source.get(it) }
    }

    private companion object {
        // Signatures and sizes of PKWARE's APPNOTE.TXT.
        const val END = 0x06054b50
        const val ENTRY = 0x02014b50
        const val FILE = 0x04034b50
        const val END_SIZE = 22
        const val MAXIMUM_COMMENT = 0xFFFF
        const val MAXIMUM_BYTES = 16_000_000
    }
}
