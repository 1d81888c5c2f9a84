package io.github.kerasmobileone.bench

import android.app.Application
import android.content.Context
import io.github.kerasmobileone.core.Accelerator
import io.github.kerasmobileone.core.EngineException
import io.github.kerasmobileone.core.ModelException
import io.github.kerasmobileone.core.ModelProblem
import java.io.File

/** What all screens share: it lives as long as the process. */
class BenchApplication : Application() {
    val work by lazy { Work() }
    val models by lazy { ModelStore(this, ::refusalOf) }
    val history by lazy { History(File(filesDir, "results")) }
    val engines by lazy { Engines(::allEngines) }
    val choices by lazy { ChoicesStore(getSharedPreferences("choices", MODE_PRIVATE)) }
    val crashMemory by lazy { CrashMemory(noBackupFilesDir).apply { recover() } }
    val runs by lazy { RunController(this) }

    override fun onCreate() {
        super.onCreate()
        registerActivityLifecycleCallbacks(Foreground(runs))
    }

    /** Why no runtime in the app takes a model, as the first one says; null if one does. */
    private fun refusalOf(file: File): ModelException? {
        val refusals = engines.working.map { engine ->
            try {
                RememberingEngine(engine, crashMemory).load(file, Accelerator.CPU, threads = 1).close()
                return null
            } catch (error: EngineException) {
                error.refused ?: ModelException(ModelProblem.REFUSED, listOf(engine.id, error.message.orEmpty().trimEnd('.')))
            }
        }
        return refusals.firstOrNull()
    }

    override fun onTerminate() {
        work.close()
        super.onTerminate()
    }
}

/** The application of any of its components. */
val Context.bench: BenchApplication get() = applicationContext as BenchApplication
