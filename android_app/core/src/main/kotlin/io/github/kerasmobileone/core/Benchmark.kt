package io.github.kerasmobileone.core

import java.io.File
import java.io.FileOutputStream
import java.io.IOException

/** Number of the JSON layout; it is raised when the meaning of a field changes. */
const val FORMAT = 1

/**
 * A file that could not be measured.
 *
 * @property path name of the file, followed by how it was to run if it was measured in several ways.
 * @property message why it could not be measured.
 */
data class Failure(val path: String, val message: String)

/**
 * Result of a benchmark: latencies, and the conditions under which they were measured.
 *
 * Its JSON is that of the Python package keras_mobileone, whose `load_benchmark` reads it.
 *
 * @property latencies the measured candidates, in the order given.
 * @property conditions target, settings, versions and state of the device, as values of JSON.
 * @property failures the candidates that could not be measured.
 */
data class Benchmark(
    val latencies: List<Latency>,
    val conditions: Map<String, Any?>,
    val failures: List<Failure> = emptyList(),
) {
    /** The [ratio] of each latency to the first one. */
    val ratios: List<Double> get() = latencies.map { ratio(it, latencies.first()) }

    /** Returns the result as JSON, with the number of the format and the ratios. */
    fun toJson(): String = Json.write(
        linkedMapOf(
            "format" to FORMAT,
            "latencies" to latencies.map(::latencyToMap),
            "conditions" to conditions,
            "failures" to failures.map { linkedMapOf("path" to it.path, "message" to it.message) },
            "ratios" to ratios,
        ),
    )

    /**
     * Returns the latencies as a table of comma-separated values (RFC 4180), the times in milliseconds.
     *
     * The columns are those of a latency in JSON with the ratio to the first one. The last column has
     * the medians of the rounds, separated by spaces. Numbers have a decimal point in every language.
     */
    fun toCsv(): String {
        val rows = latencies.zip(ratios) { latency, ratio ->
            val fields = latencyToMap(latency) - MEDIANS
            fields.values + ratio + latency.medians.joinToString(" ")
        }
        val table = listOf(CSV_HEADER) + rows
        return table.joinToString("") { row -> row.joinToString(",", postfix = "\r\n", transform = ::cell) }
    }

    private fun cell(value: Any?): String {
        val text = value?.toString().orEmpty()
        return if (text.any { it in "\",\r\n" }) "\"${text.replace("\"", "\"\"")}\"" else text
    }

    /**
     * Writes the JSON to a file, which is replaced in one step: a reader sees the old file or the new one.
     *
     * @throws IOException if the file cannot be written. An existing file is then unchanged.
     */
    fun save(file: File) {
        val temporary = File.createTempFile(".${file.nameWithoutExtension}-", ".json", file.absoluteFile.parentFile)
        try {
            FileOutputStream(temporary).use { stream ->
                stream.write(toJson().toByteArray())
                stream.fd.sync()
            }
            if (!temporary.renameTo(file)) throw IOException("Could not replace $file.")
        } finally {
            temporary.delete()
        }
    }

    companion object {
        private const val MEDIANS = "medians"
        private val CSV_HEADER = LATENCY_FIELDS - MEDIANS + "ratio" + MEDIANS

        /**
         * Reads the JSON of a result.
         *
         * @throws FormatException if the text is not JSON, has another format, or lacks parts.
         */
        fun parse(text: String): Benchmark = BenchmarkReader(Json.parse(text)).read()
    }
}

internal val LATENCY_FIELDS =
    listOf("path", "bytes", "median", "p95", "minimum", "initialization", "p90", "trimmed", "medians")

private fun latencyToMap(latency: Latency): Map<String, Any?> = LATENCY_FIELDS.zip(
    listOf(
        latency.path, latency.bytes, latency.median, latency.p95, latency.minimum,
        latency.initialization, latency.p90, latency.trimmed, latency.medians,
    ),
).toMap()
