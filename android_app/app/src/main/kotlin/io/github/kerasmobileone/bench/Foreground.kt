package io.github.kerasmobileone.bench

import android.app.Activity
import android.app.Application
import android.os.Bundle
import android.os.PowerManager
import android.view.WindowManager

/**
 * Watches whether any of the app's screens is visible, and what it needs while models are measured:
 * the screen stays on, and the processor keeps to a speed that it can hold.
 */
class Foreground(private val runs: RunController) : Application.ActivityLifecycleCallbacks {
    private val visible = mutableSetOf<Activity>()

    init {
        runs.addListener { visible.forEach(::keepAwake) }
    }

    override fun onActivityStarted(activity: Activity) {
        visible += activity
        keepAwake(activity)
    }

    override fun onActivityStopped(activity: Activity) {
        visible -= activity
        if (visible.isEmpty() && !activity.isChangingConfigurations) runs.noteBackground()
    }

    private fun keepAwake(activity: Activity) {
        val awake = runs.state is RunState.Running
        val flag = WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON
        if (awake) activity.window.addFlags(flag) else activity.window.clearFlags(flag)
        val power = activity.getSystemService(PowerManager::class.java)
        if (power.isSustainedPerformanceModeSupported) activity.window.setSustainedPerformanceMode(awake)
    }

    override fun onActivityCreated(activity: Activity, state: Bundle?) = Unit

    override fun onActivityResumed(activity: Activity) = Unit

    override fun onActivityPaused(activity: Activity) = Unit

    override fun onActivitySaveInstanceState(activity: Activity, state: Bundle) = Unit

    override fun onActivityDestroyed(activity: Activity) = Unit
}
