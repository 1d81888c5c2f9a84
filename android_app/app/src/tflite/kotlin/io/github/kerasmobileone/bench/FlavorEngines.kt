package io.github.kerasmobileone.bench

import android.content.Context
import io.github.kerasmobileone.engine.tflite.TfliteEngine

/** The runtime that only this product flavor has: `org.tensorflow.lite`, with GPU and NNAPI. */
fun flavorEngines(context: Context): List<EngineSource> =
    listOf(EngineSource("tflite-2.16") { TfliteEngine(context) })
