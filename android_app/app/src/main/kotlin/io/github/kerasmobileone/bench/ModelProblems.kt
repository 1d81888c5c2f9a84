package io.github.kerasmobileone.bench

import android.content.Context
import io.github.kerasmobileone.core.ModelException
import io.github.kerasmobileone.core.ModelProblem

/** Why a model is not usable, in the language of the user. */
fun Context.sentence(error: ModelException): String =
    getString(resourceOf(error.problem), *error.details.toTypedArray())

internal fun resourceOf(problem: ModelProblem): Int = when (problem) {
    ModelProblem.UNREADABLE -> R.string.problem_unreadable
    ModelProblem.NOT_TFLITE -> R.string.problem_not_tflite
    ModelProblem.TOO_LARGE -> R.string.problem_too_large
    ModelProblem.DAMAGED -> R.string.problem_damaged
    ModelProblem.NO_INPUTS -> R.string.problem_no_inputs
    ModelProblem.OPEN_SHAPE -> R.string.problem_open_shape
    ModelProblem.NO_NUMBERS -> R.string.problem_no_numbers
    ModelProblem.NO_VALUES -> R.string.problem_no_values
    ModelProblem.LARGE_INPUT -> R.string.problem_large_input
    ModelProblem.CUSTOM_OPERATORS -> R.string.problem_custom_operators
    ModelProblem.REFUSED -> R.string.problem_refused
    ModelProblem.REFUSED_WITHOUT_REASON -> R.string.problem_refused_without_reason
}
