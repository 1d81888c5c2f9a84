// The project for Android Studio. Machines without Google's Maven repository use build/build.py.

pluginManagement {
    repositories {
        google()
        mavenCentral()
        gradlePluginPortal()
    }
}

dependencyResolutionManagement {
    repositoriesMode = RepositoriesMode.FAIL_ON_PROJECT_REPOS
    repositories {
        google()
        mavenCentral()
    }
}

rootProject.name = "mobileone-bench"

include(":core", ":engine-bytedeco", ":engine-tflite", ":engine-litert", ":app")
