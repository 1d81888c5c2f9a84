package io.github.kerasmobileone.bench

import android.content.Context
import android.content.Intent
import android.content.IntentFilter
import android.os.BatteryManager
import android.os.Build
import android.os.PowerManager
import android.os.SystemClock

/**
 * How warm the phone is.
 *
 * @property status Android's thermal status, from 0 (none) to 6 (shutdown), or null before Android 10.
 * @property headroom forecast in ten seconds, where 1 is severe throttling; null if it is unknown.
 */
data class Heat(val status: Int?, val headroom: Double?)

/** Reads the thermal state; the forecast at most once a second, as Android demands. */
class Thermometer(
    private val status: () -> Int?,
    private val forecast: () -> Float?,
    private val now: () -> Long = SystemClock::elapsedRealtime,
) {
    private var asked = Long.MIN_VALUE / 2
    private var headroom: Double? = null

    @Synchronized
    fun read(): Heat {
        if (now() - asked >= HEADROOM_INTERVAL) {
            asked = now()
            // NaN where the phone has no forecast, which JSON cannot express.
            headroom = forecast()?.toDouble()?.takeIf { it.isFinite() }
        }
        return Heat(status(), headroom)
    }

    companion object {
        private const val HEADROOM_INTERVAL = 1100L
        private const val FORECAST_SECONDS = 10

        /** The thermometer of this phone. */
        fun of(context: Context): Thermometer {
            val power = context.getSystemService(PowerManager::class.java)
            return Thermometer(
                status = { if (Build.VERSION.SDK_INT >= 29) power.currentThermalStatus else null },
                forecast = { if (Build.VERSION.SDK_INT >= 30) power.getThermalHeadroom(FORECAST_SECONDS) else null },
            )
        }
    }
}

/** Facts about the phone for the conditions of a result. */
object PhoneState {

    /** What does not change while the app runs. */
    fun device(): Map<String, Any?> = buildMap {
        put("device", "${Build.MANUFACTURER} ${Build.MODEL}")
        if (Build.VERSION.SDK_INT >= 31) put("soc", "${Build.SOC_MANUFACTURER} ${Build.SOC_MODEL}")
        put("hardware", Build.HARDWARE)
        put("android", Build.VERSION.RELEASE)
        put("sdk", Build.VERSION.SDK_INT)
        put("build", Build.DISPLAY)
        put("abi", Build.SUPPORTED_ABIS.firstOrNull())
        put("cores", Runtime.getRuntime().availableProcessors())
    }

    /** Battery, power saving and heat at this moment. */
    fun now(context: Context, heat: Heat): Map<String, Any?> = buildMap {
        val battery = context.registerReceiver(null, IntentFilter(Intent.ACTION_BATTERY_CHANGED))
        if (battery != null) putBattery(battery)
        put("power_save", context.getSystemService(PowerManager::class.java).isPowerSaveMode)
        put("thermal_status", heat.status)
        put("thermal_headroom", heat.headroom)
    }

    private fun MutableMap<String, Any?>.putBattery(battery: Intent) {
        val level = battery.getIntExtra(BatteryManager.EXTRA_LEVEL, -1)
        val scale = battery.getIntExtra(BatteryManager.EXTRA_SCALE, 0)
        if (level >= 0 && scale > 0) put("battery", 100 * level / scale)
        val temperature = battery.getIntExtra(BatteryManager.EXTRA_TEMPERATURE, Int.MIN_VALUE)
        if (temperature != Int.MIN_VALUE) put("battery_temperature", temperature / 10.0)
        put("charging", battery.getIntExtra(BatteryManager.EXTRA_PLUGGED, 0) != 0)
    }
}
