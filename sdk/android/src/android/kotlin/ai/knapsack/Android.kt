@file:JvmName("Android")

package ai.knapsack

import android.app.ActivityManager
import android.content.ComponentCallbacks2
import android.content.Context
import android.content.res.AssetManager
import android.content.res.Configuration
import java.io.ByteArrayOutputStream
import java.io.File
import java.io.FileNotFoundException

/** The folder of a package in the assets of an app. */
private const val ASSETS = "knapsack"

/**
 * The models of an Android app. Downloads go to the app's files that are not backed up; memory is given back when the system asks
 * for it ([ComponentCallbacks2.onTrimMemory]); the budget is what the system grants, asked again before each load.
 */
@JvmOverloads
fun LocalModels(
    context: Context,
    pkg: ModelPackage = packageFromAssets(context),
    options: Options = Options(storage = File(context.noBackupFilesDir, "knapsack-models")),
): LocalModels {
    val app = context.applicationContext
    val models = LocalModels(pkg, options)
    if (options.memoryBudget == null) {
        val manager = app.getSystemService(Context.ACTIVITY_SERVICE) as ActivityManager
        models.systemMemory = {
            val info = ActivityManager.MemoryInfo()
            manager.getMemoryInfo(info)
            info.availMem to info.threshold
        }
    }
    val callbacks = AppCallbacks(models)
    app.registerComponentCallbacks(callbacks)
    models.onClose { app.unregisterComponentCallbacks(callbacks) }
    return models
}

private class AppCallbacks(private val models: LocalModels) : ComponentCallbacks2 {
    override fun onTrimMemory(level: Int) {
        // The levels are not ordered by urgency: "the app is hidden" lies between two of a running app.
        when (level) {
            ComponentCallbacks2.TRIM_MEMORY_RUNNING_CRITICAL, ComponentCallbacks2.TRIM_MEMORY_COMPLETE -> free(true)
            ComponentCallbacks2.TRIM_MEMORY_UI_HIDDEN, ComponentCallbacks2.TRIM_MEMORY_BACKGROUND,
            ComponentCallbacks2.TRIM_MEMORY_MODERATE, ComponentCallbacks2.TRIM_MEMORY_RUNNING_LOW,
            -> free(false)
        }
    }

    @Deprecated("Deprecated in Java")
    override fun onLowMemory() = free(true)

    override fun onConfigurationChanged(configuration: Configuration) = Unit

    private fun free(critical: Boolean) {
        // Freeing takes a moment, and this is the main thread.
        ai.knapsack.internal.workers.execute {
            try {
                models.releaseMemory(critical)
            } catch (_: KnapsackError.Closed) {
            }
        }
    }
}

/** The package in the app's assets. Nothing is copied: weights are mapped where they lie in the APK. */
@JvmOverloads
fun packageFromAssets(context: Context, library: String = "libmodel_android.so"): ModelPackage =
    ModelPackage(AssetFiles(context.applicationContext.assets), library)

private class AssetFiles(private val assets: AssetManager) : PackageFiles {
    override val place = "assets/$ASSETS"

    override fun slice(path: String): FileSlice? = try {
        assets.openFd("$ASSETS/$path").use { asset ->
            FileSlice(asset.parcelFileDescriptor.detachFd(), asset.startOffset, asset.length)
        }
    } catch (_: FileNotFoundException) {
        // Also when it is compressed.
        null
    }

    override fun read(path: String, most: Int): ByteArray? = try {
        assets.open("$ASSETS/$path").use { from ->
            val bytes = ByteArrayOutputStream()
            val buffer = ByteArray(CHUNK)
            while (bytes.size() < most) {
                val read = from.read(buffer, 0, minOf(buffer.size, most - bytes.size()))
                if (read < 0) break
                bytes.write(buffer, 0, read)
            }
            bytes.toByteArray()
        }
    } catch (_: FileNotFoundException) {
        null
    }
}

private const val CHUNK = 64 shl 10
