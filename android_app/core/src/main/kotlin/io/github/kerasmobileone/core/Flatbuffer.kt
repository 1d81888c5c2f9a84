package io.github.kerasmobileone.core

import java.nio.ByteBuffer

/**
 * A table of a flatbuffer, whose fields are read by their numbers in the schema.
 *
 * A file that is damaged or cut short makes any method throw an [IndexOutOfBoundsException].
 *
 * @param buffer the whole file in little-endian order.
 */
internal class FlatTable(private val buffer: ByteBuffer, private val position: Int) {

    /** Returns the number in a field of one byte; 0 if the field is not set. */
    fun byte(field: Int): Int = place(field)?.let { buffer.get(it).toInt() } ?: 0

    /** Returns the number in a field of four bytes; 0 if the field is not set. */
    fun int(field: Int): Int = place(field)?.let { buffer.getInt(it) } ?: 0

    /** Returns the number in a field of eight bytes; 0 if the field is not set. */
    fun long(field: Int): Long = place(field)?.let { buffer.getLong(it) } ?: 0

    /** Returns the table in a field, or null if the field is not set. */
    fun table(field: Int): FlatTable? = place(field)?.let { FlatTable(buffer, target(it)) }

    /** Returns the text in a field, or null if the field is not set. */
    fun text(field: Int): String? = bytes(field)?.let { String(it, Charsets.UTF_8) }

    /** Returns the bytes in a field, or null if the field is not set. */
    fun bytes(field: Int): ByteArray? {
        val vector = vector(field, 1) ?: return null
        val copy = ByteArray(vector.size)
        val source = buffer.duplicate()
        source.position(vector.start)
        source.get(copy)
        return copy
    }

    /** Returns the number of bytes in a field and checks that the file has all of them. */
    fun byteCount(field: Int): Int = vector(field, 1)?.size ?: 0

    /** Returns the tables in a field; none if it is not set. */
    fun tables(field: Int): List<FlatTable> = elements(field, 4) { FlatTable(buffer, target(it)) }.orEmpty()

    /** Returns the numbers of four bytes in a field, or null if the field is not set. */
    fun ints(field: Int): List<Int>? = elements(field, 4, buffer::getInt)

    /** Returns the numbers of eight bytes in a field; none if it is not set. */
    fun longs(field: Int): List<Long> = elements(field, 8, buffer::getLong).orEmpty()

    /** Returns the float32 numbers in a field; none if it is not set. */
    fun floats(field: Int): List<Float> = elements(field, 4, buffer::getFloat).orEmpty()

    private fun <T> elements(field: Int, size: Int, read: (Int) -> T): List<T>? {
        val vector = vector(field, size) ?: return null
        return List(vector.size) { read(vector.start + size * it) }
    }

    private class Vector(val start: Int, val size: Int)

    private fun vector(field: Int, elementSize: Int): Vector? {
        val start = target(place(field) ?: return null)
        val size = buffer.getInt(start)
        if (size < 0 || start + 4 + size.toLong() * elementSize > buffer.limit()) {
            throw IndexOutOfBoundsException("A vector of $size elements ends after the file.")
        }
        return Vector(start + 4, size)
    }

    /** Returns where a field is, or null if it is not set. */
    private fun place(field: Int): Int? {
        val fields = position - buffer.getInt(position) // the table that tells where the fields are
        val entry = 4 + 2 * field
        if (entry >= buffer.getShort(fields).toInt() and 0xFFFF) return null
        val offset = buffer.getShort(fields + entry).toInt() and 0xFFFF
        return if (offset == 0) null else position + offset
    }

    /** Returns the place that the offset at a place refers to. */
    private fun target(place: Int): Int = place + buffer.getInt(place)

    companion object {
        /** Returns the root table of a flatbuffer. */
        fun root(buffer: ByteBuffer) = FlatTable(buffer, buffer.getInt(0))
    }
}
