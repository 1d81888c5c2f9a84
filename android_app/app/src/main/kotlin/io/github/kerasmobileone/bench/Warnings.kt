package io.github.kerasmobileone.bench

import android.content.Context
import io.github.kerasmobileone.core.Benchmark

/** Target of this app's own results. */
const val APP_TARGET = "android-app"

/** Outputs may differ from the CPU's by this part of the largest: what half precision and int8 cause. */
private const val TOLERANCE = 0.05

/** Sentences for each reason to doubt a result. */
fun Context.warningsOf(benchmark: Benchmark): List<String> {
    val conditions = benchmark.conditions
    val target = conditions["target"]?.toString()
    val found = mutableListOf<String>()
    if (target != APP_TARGET) found += getString(R.string.measured_elsewhere, target ?: "?")
    if (conditions["cancelled"] == true) found += getString(R.string.stopped_early)
    if (conditions["left_foreground"] == true) found += getString(R.string.left_foreground)
    found += warningsOfConfigurations(benchmark) + warningsOfPower(conditions)
    return found
}

private fun Context.warningsOfConfigurations(benchmark: Benchmark): List<String> {
    val found = mutableListOf<String>()
    for ((path, described) in map(benchmark.conditions["configurations"])) {
        val how = map(described)
        if (how["ran_on"] != how["accelerator"]) found += getString(R.string.fell_back, path)
        val difference = (how["difference"] as? Number)?.toDouble() ?: continue
        if (!(difference <= TOLERANCE)) found += getString(R.string.differs, path, "${decimal(100 * difference, 1)} %")
    }
    return found
}

private fun Context.warningsOfPower(conditions: Map<String, Any?>): List<String> {
    val (before, after) = listOf("before", "after").map { map(conditions[it]) }
    val found = mutableListOf<String>()
    if (before["power_save"] == true || after["power_save"] == true) found += getString(R.string.power_save_on)
    val statuses = listOf(before, after).map { (it["thermal_status"] as? Number)?.toInt() ?: 0 }
    if (statuses[1] > statuses[0]) {
        found += getString(R.string.got_warm, thermalStatus(statuses[0]), thermalStatus(statuses[1]))
    }
    return found
}

/** A value of a JSON object as a map; empty if it is none. */
internal fun map(value: Any?): Map<String, Any?> =
    (value as? Map<*, *>).orEmpty().entries.associate { it.key.toString() to it.value }
