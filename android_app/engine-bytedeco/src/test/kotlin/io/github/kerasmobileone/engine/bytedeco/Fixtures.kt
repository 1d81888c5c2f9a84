package io.github.kerasmobileone.engine.bytedeco

import io.github.kerasmobileone.core.Json
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import org.junit.jupiter.api.Assumptions.assumeTrue

/** Returns a file that `core/src/test/python/fixtures.py` has written. Without it the test is skipped. */
internal fun fixture(path: String): File = File(directory("fixtures"), path)

/** Returns the models of the directory that the system property `models` names. */
internal fun models(): List<File> =
    directory("models").listFiles { file -> file.name.endsWith(".tflite") }.orEmpty().sortedBy { it.name }

private fun directory(property: String): File {
    val path = System.getProperty(property)
    assumeTrue(path != null, "The system property '$property' is not set.")
    return File(path)
}

/** Returns the content of a file in little-endian order. */
internal fun bytes(file: File): ByteBuffer = ByteBuffer.wrap(file.readBytes()).order(ByteOrder.LITTLE_ENDIAN)

/** Returns the labels and probabilities of the best classes that Python has found. */
internal fun expectedClasses(model: File, case: String): Pair<List<String>, List<Double>> {
    val files = Json.parse(fixture("logits/index.json").readText()) as List<*>
    val cases = files.map { it as Map<*, *> }.first { it["file"] == model.name }["cases"] as List<*>
    val found = cases.map { it as Map<*, *> }.first { it["name"] == case }
    val labels = (found["top"] as List<*>).map { it as String }
    return labels to (found["probabilities"] as List<*>).map { (it as Number).toDouble() }
}
