package io.github.kerasmobileone.bench

import android.content.Context
import io.github.kerasmobileone.core.Accelerator
import java.text.DateFormat
import java.text.NumberFormat
import java.util.Date

/** Number with that many digits after the point, as the user's language writes it. */
fun decimal(value: Double, digits: Int): String = NumberFormat.getInstance().apply {
    minimumFractionDigits = digits
    maximumFractionDigits = digits
    isGroupingUsed = false
}.format(value)

/** Milliseconds with three significant digits or more. */
fun milliseconds(value: Double): String = decimal(
    value,
    when {
        value >= 100 -> 0
        value >= 10 -> 1
        value >= 1 -> 2
        else -> 3
    },
)

/** A name of a file that may be broken into lines after its separators; it is for showing only. */
fun breakable(name: String): String = name.replace(Regex("(?<=[_.-])(?=\\w)"), "\u200B")

fun megabytes(bytes: Long): String = decimal(bytes / 1e6, if (bytes < 100_000_000) 1 else 0)

/** Minutes and seconds. */
fun duration(milliseconds: Long): String {
    val seconds = (milliseconds / 1000).coerceAtLeast(0)
    return "%d:%02d".format(seconds / 60, seconds % 60)
}

fun dateTime(time: Long): String =
    DateFormat.getDateTimeInstance(DateFormat.MEDIUM, DateFormat.SHORT).format(Date(time))

fun Context.acceleratorName(accelerator: Accelerator): String = getString(
    when (accelerator) {
        Accelerator.CPU -> R.string.accelerator_cpu
        Accelerator.GPU_FP16 -> R.string.accelerator_gpu_fp16
        Accelerator.GPU_FP32 -> R.string.accelerator_gpu_fp32
        Accelerator.NNAPI -> R.string.accelerator_nnapi
    },
)

fun Context.threads(number: Int): String = resources.getQuantityString(R.plurals.threads, number, number)

/** How warm the phone is, in lines. */
fun Context.describe(heat: Heat?): String {
    val lines = mutableListOf<String>()
    heat?.status?.let { lines += getString(R.string.heat_status, thermalStatus(it)) }
    heat?.headroom?.let { lines += getString(R.string.heat_headroom, decimal(it, 2)) }
    return if (lines.isEmpty()) getString(R.string.heat_unknown) else lines.joinToString("\n")
}

fun Context.thermalStatus(status: Int): String =
    resources.getStringArray(R.array.thermal_status).getOrElse(status) { status.toString() }
