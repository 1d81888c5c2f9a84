package org.tensorflow.lite

/**
 * Returns how many operators and delegates an interpreter runs one after the other.
 *
 * The runtime has this number but shows it to its own package only, which is why this file is in it.
 */
internal fun executionPlanLength(interpreter: Interpreter): Int = interpreter.executionPlanLength
