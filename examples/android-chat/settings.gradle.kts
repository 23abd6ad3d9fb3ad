pluginManagement {
    repositories {
        google()
        mavenCentral()
        gradlePluginPortal()
    }
}

dependencyResolutionManagement {
    repositories {
        google()
        mavenCentral()
        // What `knapsack package` and `knapsack sdk build --target android -o sdk` write.
        maven { url = uri("dist/maven") }
        maven { url = uri("sdk/maven") }
    }
}

rootProject.name = "android-chat"
include(":app")
