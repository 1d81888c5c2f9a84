package io.github.kerasmobileone.bench

import android.content.SharedPreferences
import io.github.kerasmobileone.core.Accelerator

/**
 * How long a benchmark takes.
 *
 * @property minutes time after which a sustained benchmark ends; 0 for a fixed number of rounds.
 */
enum class Length(val rounds: Int, val runs: Int, val minutes: Int) {
    QUICK(5, 20, 0),
    STANDARD(20, 50, 0),
    SUSTAINED(100_000, 50, 5),
}

/** What the screens are set to; it is kept from one start of the app to the next. */
data class Choices(
    val unchecked: Set<String> = emptySet(),
    val engine: String = "",
    val accelerators: Set<Accelerator> = setOf(Accelerator.CPU),
    val threads: Set<Int> = DEFAULT_THREADS,
    val length: Length = Length.STANDARD,
    val coolDown: Boolean = false,
    val crashed: Set<String> = emptySet(),
    val classifier: String = "",
) {
    /** Whether a driver crashed with that accelerator and that engine. */
    fun hasCrashed(engine: String, accelerator: Accelerator) = "$engine/${accelerator.id}" in crashed

    /** The choices after a crash: the accelerator is no longer chosen, and marked. */
    fun afterCrash(engine: String, accelerator: Accelerator) =
        if (accelerator == Accelerator.CPU) {
            this
        } else {
            copy(accelerators = accelerators - accelerator, crashed = crashed + "$engine/${accelerator.id}")
        }

    private companion object {
        val DEFAULT_THREADS = setOf(1, minOf(4, Runtime.getRuntime().availableProcessors()))
    }
}

/** Stores [Choices]. Reading waits for the disk the first time. */
class ChoicesStore(private val preferences: SharedPreferences) {

    fun read(): Choices {
        val usual = Choices()
        return Choices(
            unchecked = strings("unchecked", usual.unchecked),
            engine = preferences.getString("engine", null) ?: usual.engine,
            accelerators = strings("accelerators", usual.accelerators.map { it.id }.toSet())
                .mapNotNull { id -> Accelerator.entries.find { it.id == id } }.toSet(),
            threads = strings("threads", usual.threads.map { it.toString() }.toSet())
                .mapNotNull { it.toIntOrNull() }.toSet(),
            length = Length.entries.find { it.name == preferences.getString("length", null) } ?: usual.length,
            coolDown = preferences.getBoolean("cool_down", usual.coolDown),
            crashed = strings("crashed", usual.crashed),
            classifier = preferences.getString("classifier", null) ?: usual.classifier,
        )
    }

    fun write(choices: Choices) = preferences.edit()
        .putStringSet("unchecked", choices.unchecked)
        .putString("engine", choices.engine)
        .putStringSet("accelerators", choices.accelerators.map { it.id }.toSet())
        .putStringSet("threads", choices.threads.map { it.toString() }.toSet())
        .putString("length", choices.length.name)
        .putBoolean("cool_down", choices.coolDown)
        .putStringSet("crashed", choices.crashed)
        .putString("classifier", choices.classifier)
        .apply()

    private fun strings(name: String, usual: Set<String>): Set<String> =
        preferences.getStringSet(name, null)?.toSet() ?: usual
}
