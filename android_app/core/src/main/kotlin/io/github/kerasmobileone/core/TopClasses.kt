package io.github.kerasmobileone.core

/** One of the most probable classes. [label] is its index if the model has no labels. */
data class TopClass(val index: Int, val label: String, val probability: Double)

/**
 * Returns the most probable classes, the best first.
 *
 * @param scores outputs of a classifier, logits or probabilities.
 * @param labels names of the classes. They are not used if there are not as many as scores.
 */
fun topClasses(scores: FloatArray, labels: List<String>?, count: Int = 5): List<TopClass> = TODO()

/** Applies a softmax to logits. Scores that are probabilities already are returned as they are. */
fun probabilities(scores: FloatArray): DoubleArray = TODO()
