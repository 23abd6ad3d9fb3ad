import ai.knapsack.Event
import ai.knapsack.EvictionReason
import ai.knapsack.KnapsackError
import ai.knapsack.LocalModels
import ai.knapsack.ModelEvent
import ai.knapsack.ModelState
import ai.knapsack.packageFromAssets
import android.app.ActivityManager
import android.content.ComponentCallbacks
import android.content.ComponentCallbacks2
import android.content.Context
import android.content.res.AssetFileDescriptor
import android.content.res.AssetManager
import android.os.ParcelFileDescriptor
import kotlinx.coroutines.CoroutineStart
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.async
import kotlinx.coroutines.coroutineScope
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.flow.toList
import java.io.ByteArrayInputStream
import java.io.File
import java.io.FileNotFoundException
import java.io.InputStream
import java.nio.file.Files
import java.util.concurrent.CopyOnWriteArrayList

/** Stands in for the assets of an installed app. */
private class Assets(private val apk: Apk) : AssetManager() {
    private fun path(name: String) = name.removePrefix("knapsack/").also { check(it != name, "not below knapsack: $name") }

    override fun open(name: String): InputStream =
        ByteArrayInputStream(apk.read(path(name), Int.MAX_VALUE) ?: throw FileNotFoundException(name))

    override fun openFd(name: String): AssetFileDescriptor {
        // As on Android, one that is compressed is not found.
        val slice = apk.slice(path(name)) ?: throw FileNotFoundException(name)
        return object : AssetFileDescriptor() {
            override fun getParcelFileDescriptor() = object : ParcelFileDescriptor() {
                override fun detachFd() = slice.descriptor
            }

            override fun getStartOffset() = slice.offset

            override fun getLength() = slice.length

            override fun close() = Unit
        }
    }
}

/** Stands in for the app itself. */
private class App(apk: Apk, private val files: File) : Context() {
    private val assets = Assets(apk)
    val callbacks = CopyOnWriteArrayList<ComponentCallbacks>()

    @Volatile
    var available = 8L shl 30

    override fun getApplicationContext() = this

    override fun getAssets() = assets

    override fun getNoBackupFilesDir() = files

    override fun getSystemService(name: String) = object : ActivityManager() {
        override fun getMemoryInfo(info: MemoryInfo) {
            info.availMem = available
        }
    }

    override fun registerComponentCallbacks(callback: ComponentCallbacks) {
        callbacks += callback
    }

    override fun unregisterComponentCallbacks(callback: ComponentCallbacks) {
        callbacks -= callback
    }
}

/** What the library does with Android's own classes. */
internal val androidTests: List<Pair<String, suspend () -> Unit>> = listOf(
    "an Android app's models" to {
        val folder = Files.createTempDirectory("knapsack").toFile()
        val apk = File(folder, "app.apk")
        Apk.write(apk, bundle) { !it.endsWith(".bin") }
        val app = App(Apk(apk), folder)
        LocalModels(app, packageFromAssets(app, library)).use { models -> inAnApp(models, app, apk) }
        check(app.callbacks.isEmpty(), "still registered")
        folder.deleteRecursively()
    },
)

private suspend fun inAnApp(models: LocalModels, app: App, apk: File) {
    check(models.state(model) == ModelState.Bundled, models.state(model))
    // The system has no memory to give, and then it has.
    app.available = 1000
    val error = fails<KnapsackError.NotEnoughMemory> { models.load(model) }
    check(error.available < 1000, error)
    app.available = 8L shl 30
    val chat = models.session(model)
    check("85" in chat.respond(SUM, greedy).text, "the answer out of the app")
    check(File("/proc/self/maps").readLines().any { apk.path in it }, "the app is not mapped")
    // The system asks for memory.
    coroutineScope {
        val freed = async(Dispatchers.Unconfined, start = CoroutineStart.UNDISPATCHED) {
            models.events.first { it is ModelEvent.Evicted } as ModelEvent.Evicted
        }
        val callbacks = app.callbacks.single() as ComponentCallbacks2
        callbacks.onTrimMemory(ComponentCallbacks2.TRIM_MEMORY_RUNNING_CRITICAL)
        check(freed.await().reason == EvictionReason.PRESSURE, freed.await())
    }
    check(chat.stream(SUM, greedy).toList().last() is Event.Finished, "the answer after it")
}
