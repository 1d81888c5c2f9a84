package io.github.kerasmobileone.core

import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.util.Base64
import org.junit.jupiter.api.Assumptions.assumeTrue

/** What `src/test/python/fixtures.py` has written: the numbers of the Python package. */
object Fixtures {
    /** Returns a file that the system property `fixtures` leads to. Without it the test is skipped. */
    fun file(path: String): File = File(directory("fixtures"), path)

    /** Returns a TFLite file of the directory that the system property `models` names. */
    fun model(name: String): File = File(directory("models"), name)

    /** Returns parsed JSON. */
    fun json(path: String): Any? = Json.parse(file(path).readText())

    private fun directory(property: String): File {
        val path = System.getProperty(property)
        assumeTrue(path != null, "The system property '$property' is not set.")
        return File(path)
    }
}

/** Returns a field of a parsed JSON object. */
operator fun Any?.get(name: String): Any? {
    val fields = this as Map<*, *>
    return checkNotNull(fields.entries.find { it.key == name }) { "There is no '$name' in ${fields.keys}." }.value
}

fun Any?.items(): List<Any?> = this as List<*>

fun Any?.number(): Double = (this as Number).toDouble()

fun Any?.numbers(): List<Double> = items().map { it.number() }

/** Returns the content of a file in little-endian order. */
fun File.buffer(): ByteBuffer = ByteBuffer.wrap(readBytes()).order(ByteOrder.LITTLE_ENDIAN)

/** Writes a TFLite file that adds its two inputs of shape 1 × 2 × 4 × 3. */
fun smallModel(directory: File, name: String = "small.tflite"): File =
    File(directory, name).apply { writeBytes(Base64.getDecoder().decode(ADDITION)) }

// Written by `small_file` of fixtures.py.
private const val ADDITION =
    "GAAAAFRGTDMAAA4AFAAQAAwACAAAAAQADgAAABAAAAAYAAAAMAEAAAMAAAABAAAABAAAANj+//8BAAAAEAAAAAwAFAAQAAwACAAE" +
        "AAwAAAAQAAAAUAAAAFQAAABcAAAAAQAAABQAAAAAAA4AFAAAABAADAALAAQADgAAABAAAAAAAAALDAAAABAAAAAw////AQAAAAIA" +
        "AAACAAAAAAAAAAEAAAABAAAAAgAAAAIAAAAAAAAAAQAAAAMAAABsAAAAMAAAAAQAAACs////CAAAAAwAAAADAAAAc3VtAAQAAAAB" +
        "AAAAAgAAAAQAAAADAAAA1P///wgAAAAQAAAABgAAAHNlY29uZAAABAAAAAEAAAACAAAABAAAAAMAAAAMAAwACAAAAAAABAAMAAAA" +
        "CAAAABAAAAAFAAAAZmlyc3QAAAAEAAAAAQAAAAIAAAAEAAAAAwAAAAEAAAAIAAAABAAEAAQAAAA="
