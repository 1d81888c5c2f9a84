package io.github.kerasmobileone.core

/** Makes a [Benchmark] of parsed JSON, and refuses what is not one. */
internal class BenchmarkReader(private val content: Any?) {

    fun read(): Benchmark {
        val result = content as? Map<*, *> ?: refuse("it is no JSON object")
        val format = result["format"]
        if (format != FORMAT.toLong()) {
            refuse(if (format == null) "it has no format number" else "it has format $format")
        }
        return Benchmark(
            latencies = list(result, "latencies").map(::latency),
            conditions = objectOf(result["conditions"], "conditions").mapKeys { it.key.toString() },
            failures = list(result, "failures").map(::failure),
        )
    }

    private fun latency(value: Any?): Latency {
        val fields = objectOf(value, "latencies")
        val unknown = fields.keys - LATENCY_FIELDS.toSet()
        if (unknown.isNotEmpty()) refuse("a latency has the unknown field '${unknown.first()}'")
        return Latency(
            path = text(fields, "path"),
            bytes = (fields["bytes"] as? Long)?.takeIf { it >= 0 } ?: refuse("a latency lacks its bytes"),
            median = time(fields, "median"),
            p95 = time(fields, "p95"),
            minimum = time(fields, "minimum"),
            initialization = time(fields, "initialization"),
            p90 = timeOrNull(fields, "p90"),
            trimmed = timeOrNull(fields, "trimmed"),
            medians = if ("medians" in fields) list(fields, "medians").map { time(it, "medians") } else emptyList(),
        )
    }

    private fun failure(value: Any?): Failure {
        val fields = objectOf(value, "failures")
        return Failure(text(fields, "path"), text(fields, "message"))
    }

    private fun objectOf(value: Any?, name: String): Map<*, *> =
        value as? Map<*, *> ?: refuse("'$name' is missing or is no JSON object")

    private fun list(fields: Map<*, *>, name: String): List<*> =
        fields[name] as? List<*> ?: refuse("'$name' is missing or is no list")

    private fun text(fields: Map<*, *>, name: String): String =
        fields[name] as? String ?: refuse("'$name' is missing or is no text")

    private fun time(fields: Map<*, *>, name: String): Double = time(fields[name], name)

    private fun timeOrNull(fields: Map<*, *>, name: String): Double? = fields[name]?.let { time(it, name) }

    private fun time(value: Any?, name: String): Double {
        val number = (value as? Number)?.toDouble() ?: refuse("'$name' is missing or is no number")
        return if (number >= 0) number else refuse("'$name' is negative")
    }

    private fun refuse(reason: String): Nothing =
        throw FormatException("The file is no stored benchmark of format $FORMAT: $reason.")
}
