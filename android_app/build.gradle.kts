plugins {
    alias(libs.plugins.android.application) apply false
    alias(libs.plugins.android.library) apply false
    // Also decides which version of Kotlin the Android Gradle Plugin uses.
    alias(libs.plugins.kotlin.jvm) apply false
}

// The directory build/ of this project contains scripts and must not receive Gradle's output.
layout.buildDirectory = layout.projectDirectory.dir(".gradle/build")
