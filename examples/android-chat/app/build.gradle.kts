plugins {
    id("com.android.application") version "8.12.0"
    id("org.jetbrains.kotlin.android") version "2.2.0"
    id("org.jetbrains.kotlin.plugin.compose") version "2.2.0"
}

android {
    namespace = "org.example.chat"
    compileSdk = 36

    defaultConfig {
        applicationId = "org.example.chat"
        minSdk = 26
        targetSdk = 36
        versionCode = 1
        versionName = "1.0"
        ndk { abiFilters += listOf("arm64-v8a", "x86_64") }
    }
    buildFeatures { compose = true }
    // Weights are mapped where they lie in the APK: `knapsack inspect` says so when they are not stored.
    androidResources { noCompress += "bin" }
    buildTypes { release { isMinifyEnabled = true } }
}

kotlin { jvmToolchain(17) }

dependencies {
    implementation("ai.knapsack:models:0.1.0")
    implementation(platform("androidx.compose:compose-bom:2025.08.00"))
    implementation("androidx.compose.material3:material3")
    implementation("androidx.activity:activity-compose:1.10.1")
    implementation("androidx.lifecycle:lifecycle-viewmodel-compose:2.9.2")
}
