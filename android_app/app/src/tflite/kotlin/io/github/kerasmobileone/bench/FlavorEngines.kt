package io.github.kerasmobileone.bench

import io.github.kerasmobileone.engine.tflite.TfliteEngine

/** The runtime that only this product flavor has: `org.tensorflow.lite`, with GPU and NNAPI. */
fun flavorEngines(): List<EngineSource> =
    listOf(EngineSource("tflite-2.16") { TfliteEngine() })
