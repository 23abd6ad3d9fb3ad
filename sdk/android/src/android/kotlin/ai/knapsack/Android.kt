@file:JvmName("Android")

package ai.knapsack

import android.app.ActivityManager
import android.content.ComponentCallbacks2
import android.content.Context
import android.content.res.Configuration
import java.io.File
import java.io.IOException

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

/**
 * The package in the app's assets, copied to files once for each version of the app: the app config, and the weights that are
 * bundled. Blocks while it copies.
 *
 * @throws IOException the assets are missing or the disk is full
 */
fun packageFromAssets(context: Context): ModelPackage {
    val version = context.packageManager.getPackageInfo(context.packageName, 0).lastUpdateTime
    val folder = File(context.noBackupFilesDir, "knapsack-package")
    val target = File(folder, version.toString())
    if (!target.isDirectory) {
        val partial = File(folder, "partial")
        partial.deleteRecursively()
        copyAssets(context, ASSETS, partial)
        folder.listFiles()?.filter { it != partial }?.forEach { it.deleteRecursively() }
        if (!partial.renameTo(target)) throw IOException("cannot rename $partial")
    }
    return ModelPackage(target)
}

private fun copyAssets(context: Context, path: String, target: File) {
    val names = context.assets.list(path).orEmpty()
    if (names.isEmpty()) {
        target.parentFile?.mkdirs()
        context.assets.open(path).use { from -> target.outputStream().use { from.copyTo(it) } }
        return
    }
    if (!target.mkdirs() && !target.isDirectory) throw IOException("cannot make $target")
    for (name in names) copyAssets(context, "$path/$name", File(target, name))
}
