package io.github.kerasmobileone.bench

import java.io.IOException
import java.io.InputStream
import java.io.OutputStream

/** A stream has more bytes than are read of it. */
class TooLarge(val size: Long) : IOException("The stream has more than $size bytes.")

/**
 * Copies a stream that comes from outside.
 *
 * @throws TooLarge after [maximum] bytes.
 */
fun copyLimited(source: InputStream, sink: OutputStream, maximum: Long) {
    val buffer = ByteArray(1 shl 16)
    var total = 0L
    while (true) {
        val count = source.read(buffer)
        if (count < 0) return
        total += count
        if (total > maximum) throw TooLarge(total)
        sink.write(buffer, 0, count)
    }
}
