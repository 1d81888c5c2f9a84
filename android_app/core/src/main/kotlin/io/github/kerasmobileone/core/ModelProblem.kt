package io.github.kerasmobileone.core

/**
 * Why a file is not usable as a model.
 *
 * @property sentence what results and logs say, with places for details as [String.format] reads
 *   them. The app has the same sentences in the languages of its users.
 */
enum class ModelProblem(val sentence: String) {
    UNREADABLE("The file cannot be read: %1\$s."),
    NOT_TFLITE("The file is no TFLite file: it lacks the identifier TFL3."),
    TOO_LARGE("The file has %1\$s bytes, but TFLite files have at most %2\$s."),
    DAMAGED("The file is damaged or cut short; copy or export it again."),
    NO_INPUTS("The model has no inputs."),
    OPEN_SHAPE(
        "The input '%1\$s' has the open shape %2\$s, where −1 marks a size that is not fixed; " +
            "convert the model with a batch of 1 and a fixed image size.",
    ),
    NO_NUMBERS("The input '%1\$s' takes no numbers of a known type; only models of numbers can be measured."),
    NO_VALUES("The input '%1\$s' of shape %2\$s has no values."),
    LARGE_INPUT("The input '%1\$s' of shape %2\$s is larger than 2 GB."),
    CUSTOM_OPERATORS("%1\$s cannot run the model, which has operators that are not part of TFLite: %2\$s."),
    REFUSED("%1\$s cannot run the model: %2\$s."),
    REFUSED_WITHOUT_REASON(
        "%1\$s cannot run the model; it may have operators that are newer than this runtime.",
    ),
}

/**
 * A file that is not usable as a model: one sentence for the person who chose it.
 *
 * @property details what the sentence of the problem names, in its order.
 */
class ModelException(val problem: ModelProblem, val details: List<Any> = emptyList(), cause: Throwable? = null) :
    Exception(problem.sentence.format(*details.toTypedArray()), cause)
