package io.github.kerasmobileone.bench

import android.app.Activity
import android.os.Build
import android.view.View
import android.view.WindowInsets
import android.widget.Toolbar

/** What the app's activities have in common. */
abstract class BenchActivity : Activity() {

    /** Loads something on the disk's thread and shows it, unless the activity is gone by then. */
    fun <T> load(work: () -> T, show: (T) -> Unit) {
        bench.work.load(work) { if (!isDestroyed) show(it) }
    }

    /** Sets the layout, whose root keeps clear of system bars, cutouts and the keyboard. */
    protected fun setScreen(layout: Int) {
        setContentView(layout)
        findViewById<View>(R.id.root).setOnApplyWindowInsetsListener { view, insets ->
            pad(view, insets)
            insets
        }
    }

    /** Gives the toolbar a title and an arrow that leads back. */
    protected fun setBack(title: CharSequence) {
        val toolbar = findViewById<Toolbar>(R.id.toolbar)
        toolbar.title = title
        toolbar.setNavigationIcon(R.drawable.ic_back)
        toolbar.navigationIcon?.mutate()?.setTint(getColor(R.color.on_surface))
        toolbar.setNavigationContentDescription(R.string.back)
        toolbar.setNavigationOnClickListener { finish() }
    }

    @Suppress("DEPRECATION") // The successor of the older insets needs API 30.
    private fun pad(view: View, insets: WindowInsets) {
        if (Build.VERSION.SDK_INT >= 30) {
            val bars = insets.getInsets(
                WindowInsets.Type.systemBars() or WindowInsets.Type.displayCutout() or WindowInsets.Type.ime(),
            )
            view.setPadding(bars.left, bars.top, bars.right, bars.bottom)
        } else {
            view.setPadding(
                insets.systemWindowInsetLeft,
                insets.systemWindowInsetTop,
                insets.systemWindowInsetRight,
                insets.systemWindowInsetBottom,
            )
        }
    }
}
