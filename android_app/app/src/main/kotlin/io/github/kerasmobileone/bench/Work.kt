package io.github.kerasmobileone.bench

import android.os.Handler
import android.os.Looper
import java.util.concurrent.ExecutorService
import java.util.concurrent.Executors

/** Threads for what would block the screen, and the way back to the main thread. */
class Work {
    private val main = Handler(Looper.getMainLooper())

    /** Files are read and written here, one after the other. */
    private val disk: ExecutorService = Executors.newSingleThreadExecutor { Thread(it, "disk") }

    /** Models run here, so that a measurement and a classification never share the processor. */
    private val models: ExecutorService = Executors.newSingleThreadExecutor { Thread(it, "models") }

    /** Runs [work] on the disk's thread and gives its result to [show] on the main thread. */
    fun <T> load(work: () -> T, show: (T) -> Unit) {
        disk.execute {
            val result = work()
            main.post { show(result) }
        }
    }

    /** Runs [work] on the disk's thread. */
    fun write(work: () -> Unit) = disk.execute(work)

    /** Runs [work] on the thread that loads and runs models. */
    fun measure(work: () -> Unit) = models.execute(work)

    /** Runs [show] on the main thread. */
    fun show(show: () -> Unit) {
        main.post(show)
    }

    /** Runs [show] on the main thread after some milliseconds. */
    fun showLater(milliseconds: Long, show: () -> Unit) {
        main.postDelayed(show, milliseconds)
    }

    /** Ends the threads once they have done what they were given. */
    fun close() {
        disk.shutdown()
        models.shutdown()
    }
}
