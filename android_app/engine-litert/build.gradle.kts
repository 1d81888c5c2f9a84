// Only Google's Maven repository has LiteRT: build/build.py leaves this module out.

plugins {
    alias(libs.plugins.android.library)
}

android {
    namespace = "io.github.kerasmobileone.engine.litert"
    compileSdk = libs.versions.target.sdk.get().toInt()

    defaultConfig {
        minSdk = libs.versions.min.sdk.get().toInt()
    }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_1_8
        targetCompatibility = JavaVersion.VERSION_1_8
    }
}

dependencies {
    implementation(project(":core"))
    implementation(libs.litert)
}
