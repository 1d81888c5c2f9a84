plugins {
    alias(libs.plugins.android.application)
}

// The app has the version of the Python package that it belongs to.
val packageVersion = providers.fileContents(
    rootProject.layout.projectDirectory.file("../keras_mobileone/__init__.py"),
).asText.map { source ->
    Regex("""^__version__ = "([^"]+)"""", RegexOption.MULTILINE).find(source)?.groupValues?.get(1)
        ?: error("keras_mobileone/__init__.py has no __version__.")
}

/** Android's integer of a version, greater for a later one: 10203 for "1.2.3". */
fun versionCodeOf(version: String): Int {
    val (major, minor, patch) = Regex("""^(\d+)\.(\d+)\.(\d+)""").find(version)?.destructured
        ?: error("The version must begin with three numbers, as in 1.2.3: $version")
    return major.toInt() * 10000 + minor.toInt() * 100 + patch.toInt()
}

android {
    namespace = "io.github.kerasmobileone.bench"
    compileSdk = libs.versions.target.sdk.get().toInt()

    defaultConfig {
        applicationId = "io.github.kerasmobileone.bench"
        minSdk = libs.versions.min.sdk.get().toInt()
        targetSdk = libs.versions.target.sdk.get().toInt()
        versionName = packageVersion.get()
        versionCode = versionCodeOf(packageVersion.get())
        ndk {
            abiFilters += listOf("arm64-v8a", "x86_64")
        }
    }

    // LiteRT contains the classes of TensorFlow Lite, so one app cannot have both.
    flavorDimensions += "runtime"
    productFlavors {
        create("tflite") {
            isDefault = true
        }
        create("litert")
    }

    buildTypes {
        release {
            isMinifyEnabled = true
            proguardFiles(getDefaultProguardFile("proguard-android-optimize.txt"), "proguard-rules.pro")
            signingConfig = signingConfigs.getByName("debug")
        }
    }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_1_8
        targetCompatibility = JavaVersion.VERSION_1_8
    }

    androidResources {
        noCompress += "tflite"
    }

    packaging {
        resources.excludes += listOf("META-INF/native-image/**", "META-INF/maven/**", "META-INF/versions/**")
    }

    testOptions {
        unitTests {
            isIncludeAndroidResources = true
            all { test ->
                // JavaCPP's classes load native code, which only one class loader may do.
                test.systemProperty("org.robolectric.packagesToNotAcquire", "org.bytedeco.")
                for (name in listOf("models", "fixtures", "screenshots")) {
                    providers.gradleProperty(name).orNull?.let { test.systemProperty(name, it) }
                }
            }
        }
    }
}

dependencies {
    implementation(project(":core"))
    implementation(project(":engine-bytedeco"))
    "tfliteImplementation"(project(":engine-tflite"))
    "litertImplementation"(project(":engine-litert"))

    runtimeOnly(variantOf(libs.bytedeco.tflite) { classifier("android-arm64") })
    runtimeOnly(variantOf(libs.bytedeco.tflite) { classifier("android-x86_64") })
    runtimeOnly(variantOf(libs.javacpp) { classifier("android-arm64") })
    runtimeOnly(variantOf(libs.javacpp) { classifier("android-x86_64") })

    testImplementation(libs.junit4)
    testImplementation(libs.robolectric)
    testRuntimeOnly(variantOf(libs.bytedeco.tflite) { classifier("linux-x86_64") })
    testRuntimeOnly(variantOf(libs.javacpp) { classifier("linux-x86_64") })
}
