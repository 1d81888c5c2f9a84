package io.github.kerasmobileone.bench

import io.github.kerasmobileone.core.Engine
import io.github.kerasmobileone.engine.bytedeco.BytedecoEngine

/** A runtime in this app, by which its native libraries are loaded once it is asked for. */
class EngineSource(val id: String, val create: () -> Engine)

/** The runtimes of this build: TFLite of bytedeco, and that of the product flavor. */
fun allEngines(): List<EngineSource> =
    listOf(EngineSource("tflite-2.21") { BytedecoEngine() }) + flavorEngines()

/**
 * The runtimes that work on this phone.
 *
 * A library built for memory pages of 4 KB does not load on a phone with pages of 16 KB: such a
 * runtime is listed in [missing] with the reason.
 */
class Engines(private val sources: () -> List<EngineSource>) {
    private val loaded: Pair<List<Engine>, Map<String, String>> by lazy(::loadAll)

    /** Loads native libraries at the first call: not for the main thread. */
    val working: List<Engine> get() = loaded.first

    /** The ids of the runtimes that do not work here, and why. */
    val missing: Map<String, String> get() = loaded.second

    /** The working runtime of that id, or null. */
    fun find(id: String): Engine? = working.find { it.id == id }

    private fun loadAll(): Pair<List<Engine>, Map<String, String>> {
        val working = mutableListOf<Engine>()
        val missing = linkedMapOf<String, String>()
        for (source in sources()) {
            try {
                val engine = source.create()
                check(engine.version.isNotEmpty()) { "The runtime does not tell its version." }
                working += engine
            } catch (error: LinkageError) {
                missing[source.id] = error.message ?: error.javaClass.simpleName
            } catch (error: RuntimeException) {
                missing[source.id] = error.message ?: error.javaClass.simpleName
            }
        }
        return working to missing
    }
}
