package io.github.kerasmobileone.core

import kotlin.math.abs
import kotlin.math.exp

/** How far the sum of probabilities may be from 1, which int8 outputs need. */
private const val SUM_TOLERANCE = 0.02

/** One of the most probable classes. [label] is its index if the model has no labels. */
data class TopClass(val index: Int, val label: String, val probability: Double)

/**
 * Returns the most probable classes, the best first.
 *
 * @param scores outputs of a classifier, logits or probabilities.
 * @param labels names of the classes. They are not used if there are not as many as scores, since a
 *   wrong name is worse than a number.
 */
fun topClasses(scores: FloatArray, labels: List<String>?, count: Int = 5): List<TopClass> {
    val probabilities = probabilities(scores)
    val names = labels?.takeIf { it.size == scores.size }
    return scores.indices.sortedByDescending { probabilities[it] }.take(count).map { index ->
        TopClass(index, names?.get(index) ?: index.toString(), probabilities[index])
    }
}

/** Applies a softmax to logits. Scores that are probabilities already are returned as they are. */
fun probabilities(scores: FloatArray): DoubleArray {
    if (scores.isEmpty()) return DoubleArray(0)
    val sum = scores.sumOf { it.toDouble() }
    if (scores.all { it >= 0 } && abs(sum - 1) <= SUM_TOLERANCE) {
        return DoubleArray(scores.size) { scores[it].toDouble() }
    }
    val largest = scores.max()
    val exponentials = DoubleArray(scores.size) { exp((scores[it] - largest).toDouble()) }
    val total = exponentials.sum()
    return DoubleArray(scores.size) { exponentials[it] / total }
}
