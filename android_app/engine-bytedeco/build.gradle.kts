import org.jetbrains.kotlin.gradle.dsl.JvmTarget
import org.jetbrains.kotlin.gradle.tasks.KotlinCompile

plugins {
    alias(libs.plugins.kotlin.jvm)
}

// API 24 lacks methods of later versions of Java.
tasks.named<KotlinCompile>("compileKotlin") {
    compilerOptions {
        jvmTarget = JvmTarget.JVM_1_8
        freeCompilerArgs.add("-Xjdk-release=8")
    }
}

java {
    sourceCompatibility = JavaVersion.VERSION_1_8
    targetCompatibility = JavaVersion.VERSION_1_8
}

tasks.named<KotlinCompile>("compileTestKotlin") {
    compilerOptions.jvmTarget = JvmTarget.JVM_17
}

dependencies {
    implementation(project(":core"))
    implementation(libs.bytedeco.tflite)
    implementation(libs.javacpp)
    testImplementation(libs.junit.jupiter)
    testRuntimeOnly(libs.junit.launcher)
    // The runtime for the machine that tests; the app adds those for phones.
    testRuntimeOnly(variantOf(libs.bytedeco.tflite) { classifier("linux-x86_64") })
    testRuntimeOnly(variantOf(libs.javacpp) { classifier("linux-x86_64") })
}

// gradle test -Pmodels=DIRECTORY -Pfixtures=DIRECTORY
tasks.test {
    useJUnitPlatform()
    for (name in listOf("models", "fixtures")) {
        providers.gradleProperty(name).orNull?.let { systemProperty(name, it) }
    }
}
