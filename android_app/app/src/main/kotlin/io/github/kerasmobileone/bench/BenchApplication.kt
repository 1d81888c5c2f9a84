package io.github.kerasmobileone.bench

import android.app.Application
import android.content.Context
import java.io.File

/** What all screens share: it lives as long as the process. */
class BenchApplication : Application() {
    val work by lazy { Work() }
    val models by lazy { ModelStore(this) }
    val history by lazy { History(File(filesDir, "results")) }
    val engines by lazy { Engines(::allEngines) }
    val choices by lazy { ChoicesStore(getSharedPreferences("choices", MODE_PRIVATE)) }
    val crashMemory by lazy { CrashMemory(noBackupFilesDir).apply { recover() } }
    val runs by lazy { RunController(this) }

    override fun onCreate() {
        super.onCreate()
        registerActivityLifecycleCallbacks(Foreground(runs))
    }

    override fun onTerminate() {
        work.close()
        super.onTerminate()
    }
}

/** The application of any of its components. */
val Context.bench: BenchApplication get() = applicationContext as BenchApplication
