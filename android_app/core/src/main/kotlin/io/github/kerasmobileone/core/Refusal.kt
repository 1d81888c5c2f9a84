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
        return EngineException(error.message.orEmpty(), error)
    }
    val told = reason?.trim()?.lineSequence()?.firstOrNull()?.trimEnd('.', ' ').orEmpty()
    val sentence = when {
        custom.isNotEmpty() ->
            "$runtime cannot run the model, which has operators that are not part of TFLite: ${custom.joinToString()}."
        told.isNotEmpty() -> "$runtime cannot run the model: $told."
        else -> "$runtime cannot run the model; it may have operators that are newer than this runtime."
    }
    return EngineException(sentence, cause)
}
