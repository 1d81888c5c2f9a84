package io.github.kerasmobileone.bench

import io.github.kerasmobileone.engine.litert.LitertEngine

/**
 * The runtime that only this product flavor has: LiteRT's `CompiledModel`, with GPU.
 *
 * Its library is in Google's Maven repository alone, so Android Studio compiles this file and
 * `android_app/build` does not.
 */
fun flavorEngines(): List<EngineSource> =
    listOf(EngineSource("litert-2.1") { LitertEngine() })
