package io.github.kerasmobileone.core

import java.io.File

/** What has been found out about a candidate so far. */
internal class Entry(val candidate: Candidate, val label: String) {
    val rounds = mutableListOf<Round>()
    var failure: String? = null

    /** Where the candidate ran: not the CPU only if it never did. */
    var ranOn = candidate.accelerator

    /** Largest relative difference from the CPU's outputs; null if they are not known. */
    var difference: Double? = null
}

/** One execution of [runBenchmark]. */
internal class BenchmarkRun(
    candidates: List<Candidate>,
    private val settings: Settings,
    private val listener: Listener,
    private val cancelled: () -> Boolean,
) {
    private val entries = labelsOf(candidates).zip(candidates) { label, candidate -> Entry(candidate, label) }
    private val measurers = HashMap<File, Measurer>()
    private val fileFailures = LinkedHashMap<File, Failure>()
    private val remaining get() = entries.filter { it.failure == null && it.candidate.file !in fileFailures }
    private var done = 0
    private var total = 0

    fun run(): Benchmark {
        readFiles()
        total = settings.rounds * remaining.size
        takeReferences()
        for (round in 1..settings.rounds) {
            for (entry in remaining) {
                if (cancelled()) return result()
                listener.onRound(entry.candidate, round)
                if (!measure(entry)) return result()
            }
        }
        return result()
    }

    private fun readFiles() {
        val files = entries.map { it.candidate.file }.distinct()
        for (file in files) {
            try {
                measurers[file] = Measurer(ModelFile.read(file), settings, cancelled)
            } catch (error: ModelException) {
                fileFailures[file] = Failure(nameOf(file, files), sentence(error))
            }
        }
    }

    /** Notes the CPU's outputs in each engine, before any time is taken. */
    private fun takeReferences() {
        for (candidate in remaining.map { it.candidate }.distinctBy { it.file to it.engine }) {
            if (cancelled()) return
            if (Accelerator.CPU in candidate.engine.accelerators) measurer(candidate).takeReference(candidate)
        }
    }

    /** Measures one round of a candidate; false if it was cancelled. */
    private fun measure(entry: Entry): Boolean {
        val candidate = entry.candidate
        val measured = try {
            measurer(candidate).measure(candidate) ?: return false
        } catch (error: EngineException) {
            fail(entry, sentence(error))
            return true
        }
        entry.rounds += measured.round
        if (measured.ranOn != candidate.accelerator) entry.ranOn = measured.ranOn
        entry.difference = listOfNotNull(entry.difference, measured.difference).maxOrNull()
        done++
        listener.onMeasured(candidate, done, total, measured.round)
        return true
    }

    private fun fail(entry: Entry, message: String) {
        entry.failure = message
        done += settings.rounds - entry.rounds.size
        listener.onFailed(entry.candidate, done, total, message)
    }

    private fun measurer(candidate: Candidate) = measurers.getValue(candidate.file)

    private fun result(): Benchmark {
        // All candidates must have the same rounds, of which the ratios are made.
        val complete = remaining.minOfOrNull { it.rounds.size } ?: 0
        val measured = if (complete == 0) emptyList() else remaining
        return Benchmark(
            latencies = measured.map {
                latencyOf(it.label, it.candidate.file.length(), it.rounds.take(complete))
            },
            conditions = conditions(complete, measured),
            failures = fileFailures.values + entries.mapNotNull { entry ->
                entry.failure?.let { Failure(entry.label, it) }
            },
        )
    }

    private fun conditions(rounds: Int, measured: List<Entry>): Map<String, Any?> = linkedMapOf(
        "engine" to oneOrList(entries.map { it.candidate.engine.id }),
        "engine_version" to oneOrList(entries.map { it.candidate.engine.version }),
        "configurations" to measured.associate { it.label to configuration(it) },
        "threads" to oneOrList(entries.map { it.candidate.threads }),
        "runs" to settings.runs,
        "warmup_runs" to settings.warmupRuns,
        "batch" to 1,
        "rounds" to rounds,
    )

    private fun configuration(entry: Entry): Map<String, Any?> = linkedMapOf(
        "file" to entry.candidate.file.name,
        "engine" to entry.candidate.engine.id,
        "accelerator" to entry.candidate.accelerator.id,
        "threads" to entry.candidate.threads,
        "ran_on" to entry.ranOn.id,
        "difference" to entry.difference,
    )

    private fun <T> oneOrList(values: List<T>): Any? = values.distinct().let { it.singleOrNull() ?: it }

    private fun sentence(error: Exception): String =
        error.message.orEmpty().split(Regex("\\s+")).joinToString(" ").trim().ifEmpty { error.javaClass.simpleName }
}

/**
 * Returns what results call each candidate: the name of its file, followed by how it runs if the file
 * is measured in several ways. Files of equal names in several directories are called by their paths.
 */
internal fun labelsOf(candidates: List<Candidate>): List<String> {
    val severalEngines = candidates.map { it.engine.id }.distinct().size > 1
    return candidates.map { candidate ->
        val name = nameOf(candidate.file, candidates.map { it.file })
        if (candidates.count { it.file == candidate.file } == 1) return@map name
        val threads = if (candidate.threads == 1) "1 thread" else "${candidate.threads} threads"
        val engine = if (severalEngines) ", ${candidate.engine.id}" else ""
        "$name (${candidate.accelerator.id}, $threads$engine)"
    }
}

/** Returns the name of a file, or its path if another one has the same name. */
private fun nameOf(file: File, files: List<File>): String =
    if (files.any { it != file && it.name == file.name }) file.path else file.name
