package io.github.kerasmobileone.bench

import io.github.kerasmobileone.core.Accelerator
import io.github.kerasmobileone.core.Engine
import io.github.kerasmobileone.core.EngineException
import io.github.kerasmobileone.core.Session
import java.io.File
import java.io.IOException

/** What was running when the process ended. */
data class Interruption(val engine: String, val accelerator: Accelerator, val file: String, val threads: Int)

/**
 * Remembers across the death of the process what was running, since a crash in a driver of a GPU
 * ends the process at once.
 *
 * A marker is written before a model is loaded and removed when it is closed. A marker that the next
 * start finds is what was running at the end. Every method accesses the disk.
 */
class CrashMemory(private val directory: File) {
    private val marker = File(directory, "running")
    private val notice = File(directory, "interrupted")
    private val running = mutableListOf<Interruption>()

    /** Notes what is about to run. */
    @Synchronized
    fun enter(what: Interruption) {
        running += what
        write(marker, what)
    }

    /** Notes that it is over. What was entered before it and is still running is noted again. */
    @Synchronized
    fun leave(what: Interruption) {
        running.remove(what)
        val other = running.lastOrNull()
        if (other == null) delete(marker) else write(marker, other)
    }

    /** Called once at the start of the process: a marker left over becomes the interruption to tell. */
    @Synchronized
    fun recover() {
        val found = read(marker) ?: return
        write(notice, found)
        delete(marker)
    }

    /** What was running when an earlier process ended; it stays until [dismiss]. */
    @Synchronized
    fun interruption(): Interruption? = read(notice)

    /** Forgets the interruption. */
    @Synchronized
    fun dismiss() = delete(notice)

    private fun write(file: File, what: Interruption) {
        // A rename replaces the old marker in one step, so that none is ever half written.
        val temporary = File(directory, "${file.name}.new")
        temporary.writeText(listOf(what.engine, what.accelerator.id, what.threads, what.file).joinToString("\n"))
        if (!temporary.renameTo(file)) throw IOException("Could not write $file.")
    }

    private fun read(file: File): Interruption? {
        if (!file.isFile) return null
        val lines = file.readText().split("\n", limit = 4)
        val accelerator = Accelerator.entries.find { it.id == lines.getOrNull(1) } ?: return null
        val threads = lines.getOrNull(2)?.toIntOrNull() ?: return null
        return Interruption(lines[0], accelerator, lines.getOrElse(3) { "" }, threads)
    }

    private fun delete(file: File) {
        if (file.exists() && !file.delete()) throw IOException("Could not delete $file.")
    }
}

/** An engine that notes in a [CrashMemory] what it is about to run. */
class RememberingEngine(private val engine: Engine, private val memory: CrashMemory) : Engine by engine {

    override fun load(model: File, accelerator: Accelerator, threads: Int): Session {
        val what = Interruption(engine.id, accelerator, model.name, threads)
        memory.enter(what)
        val session = try {
            engine.load(model, accelerator, threads)
        } catch (error: EngineException) {
            memory.leave(what)
            throw error
        } catch (error: LinkageError) {
            memory.leave(what)
            throw EngineException("The library of this accelerator does not load on this phone.", error)
        }
        return object : Session by session {
            override fun close() {
                session.close()
                memory.leave(what)
            }
        }
    }
}
