package io.github.kerasmobileone.bench

import android.app.Activity
import android.content.Intent
import android.os.Bundle
import io.github.kerasmobileone.core.Accelerator
import java.io.File
import java.io.IOException

/**
 * Starts a benchmark over adb:
 *
 *     adb shell am start -n io.github.kerasmobileone.bench/.RunActivity \
 *         -a io.github.kerasmobileone.bench.RUN --es files a.tflite,/path/b.tflite \
 *         --es accelerators cpu,gpu-fp16 --es threads 1,4 --ei rounds 20 --ei runs 50 \
 *         --ei warmup_runs 10 --es output result.json
 *
 * The result is written to `output` in the app's directory on shared storage, and the state to
 * `output` with `.state` appended: `running DONE/TOTAL`, `done`, or `failed: SENTENCE`.
 */
class RunActivity : Activity() {

    override fun onCreate(state: Bundle?) {
        super.onCreate(state)
        if (OUTPUT_NAME.matches(intent.getStringExtra("output").orEmpty())) begin(bench, intent)
        finish()
    }

    private fun begin(app: BenchApplication, intent: Intent) {
        app.work.load({ prepare(app, intent) }) { request ->
            if (request != null && !app.runs.start(request)) {
                app.work.write { StateFile(request.output).ended("Another benchmark is running.") }
            }
        }
        startActivity(
            Intent(this, MainActivity::class.java)
                .putExtra(MainActivity.SCREEN, MainActivity.BENCHMARK)
                .addFlags(Intent.FLAG_ACTIVITY_NEW_TASK or Intent.FLAG_ACTIVITY_CLEAR_TOP),
        )
    }

    /** The request, or null if it is refused, which the state file tells. */
    private fun prepare(app: BenchApplication, intent: Intent): RunRequest? {
        // The first call makes the directory, into which the desk copies models.
        val directory = app.getExternalFilesDir(null) ?: return null
        val output = File(directory, intent.getStringExtra("output").orEmpty())
        val state = StateFile(output)
        if (output.exists() && !output.delete()) throw IOException("Could not delete $output.")
        return try {
            val request = parse(intent, output) { name -> app.models.find(name)?.file }
            state.running(0, 0)
            request
        } catch (error: IllegalArgumentException) {
            state.ended(error.message ?: "The intent could not be read.")
            null
        }
    }

    companion object {
        private val OUTPUT_NAME = Regex("[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")

        /**
         * Reads the extras of an intent.
         *
         * @param modelNamed gives the file of a model in the app.
         * @throws IllegalArgumentException for an extra that cannot be used: one sentence.
         */
        internal fun parse(intent: Intent, output: File, modelNamed: (String) -> File?): RunRequest {
            val files = words(intent, "files").map { name ->
                val file = if (name.startsWith("/")) File(name).takeIf { it.isFile } else modelNamed(name)
                requireNotNull(file) {
                    "Expected files that the app can read. Received: $name, which does not exist."
                }
            }
            require(files.isNotEmpty()) { "Expected at least one file. Received: none." }
            val accelerators = words(intent, "accelerators").ifEmpty { listOf(Accelerator.CPU.id) }.map { id ->
                requireNotNull(Accelerator.entries.find { it.id == id }) {
                    "Expected accelerators among ${Accelerator.entries.joinToString { it.id }}. Received: $id."
                }
            }
            val threads = words(intent, "threads").ifEmpty { listOf("1") }.map { text ->
                requireNotNull(text.toIntOrNull()?.takeIf { it >= 1 }) {
                    "Expected numbers of threads of at least 1. Received: $text."
                }
            }
            return RunRequest(
                files = files.distinct(),
                engine = intent.getStringExtra("engine").orEmpty(),
                accelerators = accelerators.distinct(),
                threads = threads.distinct(),
                rounds = number(intent, "rounds", Length.STANDARD.rounds, 1),
                runs = number(intent, "runs", Length.STANDARD.runs, 1),
                warmupRuns = number(intent, "warmup_runs", RunRequest.WARMUP_RUNS, 0),
                output = output,
            )
        }

        private fun words(intent: Intent, name: String) =
            intent.getStringExtra(name).orEmpty().split(",").map { it.trim() }.filter { it.isNotEmpty() }

        private fun number(intent: Intent, name: String, usual: Int, least: Int): Int {
            val value = intent.getIntExtra(name, usual)
            require(value >= least) { "Expected $name of at least $least. Received: $value." }
            return value
        }
    }
}
