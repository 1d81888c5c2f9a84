package io.github.kerasmobileone.bench

import android.content.Intent
import android.os.Bundle
import android.util.TypedValue
import android.view.View
import android.view.ViewGroup
import android.widget.FrameLayout
import android.widget.TextView
import android.widget.Toolbar

/** One place of the navigation: its view, and what it does while it is visible. */
abstract class Screen(val activity: MainActivity, layout: Int) {
    val view: View = activity.layoutInflater.inflate(layout, activity.findViewById(R.id.content), false)

    /** The screen has become visible, or the activity has. */
    abstract fun show()

    /** The screen is no longer visible. */
    open fun hide() {}

    open fun onActivityResult(request: Int, data: Intent) {}
}

/** The app's main screens and the navigation between them. */
class MainActivity : BenchActivity() {
    private lateinit var destinations: List<Destination>
    private var current = MODELS
    private var visible = false

    private class Destination(val title: Int, val button: TextView, val screen: Screen)

    override fun onCreate(state: Bundle?) {
        super.onCreate(state)
        setScreen(R.layout.main)
        destinations = listOf(
            Destination(R.string.screen_models, findViewById(R.id.to_models), ModelsScreen(this)),
            Destination(R.string.screen_benchmark, findViewById(R.id.to_benchmark), BenchmarkScreen(this)),
            Destination(R.string.screen_results, findViewById(R.id.to_results), ResultsScreen(this)),
            Destination(R.string.screen_classify, findViewById(R.id.to_classify), ClassifyScreen(this, state == null)),
        )
        val content = findViewById<FrameLayout>(R.id.content)
        for ((index, destination) in destinations.withIndex()) {
            content.addView(destination.screen.view)
            destination.button.setOnClickListener { goTo(index) }
            limitTextSize(destination.button)
        }
        val wanted = state?.getInt(SCREEN) ?: intent.getIntExtra(SCREEN, MODELS)
        current = wanted.coerceIn(destinations.indices)
        mark()
    }

    override fun onNewIntent(intent: Intent) {
        super.onNewIntent(intent)
        setIntent(intent)
        if (intent.hasExtra(SCREEN)) goTo(intent.getIntExtra(SCREEN, MODELS).coerceIn(destinations.indices))
    }

    override fun onSaveInstanceState(state: Bundle) {
        super.onSaveInstanceState(state)
        state.putInt(SCREEN, current)
    }

    override fun onStart() {
        super.onStart()
        visible = true
        destinations[current].screen.show()
    }

    override fun onStop() {
        visible = false
        destinations[current].screen.hide()
        super.onStop()
    }

    @Deprecated("The successor is in a library that this app does without.")
    override fun onActivityResult(request: Int, result: Int, data: Intent?) {
        @Suppress("DEPRECATION")
        super.onActivityResult(request, result, data)
        if (result == RESULT_OK && data != null) {
            destinations.forEach { it.screen.onActivityResult(request, data) }
        }
    }

    /** Shows another screen. */
    fun goTo(index: Int) {
        if (index == current) return
        if (visible) destinations[current].screen.hide()
        current = index
        mark()
        if (visible) destinations[current].screen.show()
    }

    private fun mark() {
        for ((index, destination) in destinations.withIndex()) {
            destination.button.isSelected = index == current
            destination.screen.view.visibility = if (index == current) View.VISIBLE else View.GONE
        }
        findViewById<Toolbar>(R.id.toolbar).setTitle(destinations[current].title)
        title = getString(destinations[current].title)
    }

    /** Labels of the navigation share one line: beyond a point, larger ones would be cut off. */
    private fun limitTextSize(button: TextView) {
        val scale = resources.configuration.fontScale.coerceAtMost(MAXIMUM_LABEL_SCALE)
        button.setTextSize(TypedValue.COMPLEX_UNIT_DIP, LABEL_SIZE * scale)
    }

    companion object {
        /** Extra of the intent: the screen to show. */
        const val SCREEN = "screen"
        const val MODELS = 0
        const val BENCHMARK = 1
        const val RESULTS = 2
        const val CLASSIFY = 3
        private const val LABEL_SIZE = 12f
        private const val MAXIMUM_LABEL_SCALE = 1.3f
    }
}

/** Makes room for new content of a list. */
internal fun ViewGroup.replaceViews(views: List<View>) {
    removeAllViews()
    views.forEach(::addView)
}
