package io.github.kerasmobileone.core

import java.io.File

/**
 * Returns the error for a file that a runtime refuses, with what the file itself tells of the reason.
 *
 * @param runtime name and version of the runtime.
 * @param reason what the runtime says, or null if it does not tell.
 */
fun refusal(model: File, runtime: String, reason: String? = null, cause: Throwable? = null): EngineException {
    val custom = try {
        ModelFile.read(model).customOperators
    } catch (error: ModelException) {
        return EngineException(error.message.orEmpty(), cause, error)
    }
    val told = reason?.trim()?.lineSequence()?.firstOrNull()?.trimEnd('.', ' ').orEmpty()
    val refused = when {
        custom.isNotEmpty() -> ModelException(ModelProblem.CUSTOM_OPERATORS, listOf(runtime, custom.joinToString()))
        told.isNotEmpty() -> ModelException(ModelProblem.REFUSED, listOf(runtime, told))
        else -> ModelException(ModelProblem.REFUSED_WITHOUT_REASON, listOf(runtime))
    }
    return EngineException(refused.message.orEmpty(), cause, refused)
}
