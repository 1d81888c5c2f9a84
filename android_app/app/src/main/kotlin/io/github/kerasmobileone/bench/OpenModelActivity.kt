package io.github.kerasmobileone.bench

import android.app.Activity
import android.content.Intent
import android.net.Uri
import android.os.Build
import android.os.Bundle

/** Takes a model from "open with" or the share sheet and hands it to the main activity. */
class OpenModelActivity : Activity() {

    override fun onCreate(state: Bundle?) {
        super.onCreate(state)
        val uri = if (intent.action == Intent.ACTION_SEND) shared(intent) else intent.data
        if (uri != null) {
            startActivity(
                Intent(this, MainActivity::class.java)
                    .setAction(OPEN)
                    .setData(uri)
                    .putExtra(MainActivity.SCREEN, MainActivity.MODELS)
                    .addFlags(Intent.FLAG_GRANT_READ_URI_PERMISSION or Intent.FLAG_ACTIVITY_NEW_TASK),
            )
        }
        finish()
    }

    @Suppress("DEPRECATION") // The successor needs API 33.
    private fun shared(intent: Intent): Uri? =
        if (Build.VERSION.SDK_INT >= 33) {
            intent.getParcelableExtra(Intent.EXTRA_STREAM, Uri::class.java)
        } else {
            intent.getParcelableExtra(Intent.EXTRA_STREAM) as? Uri
        }

    companion object {
        /** Action of the intent by which the main activity opens a model. */
        const val OPEN = "io.github.kerasmobileone.bench.OPEN"
    }
}
