import ai.knapsack.FileSlice
import ai.knapsack.PackageFiles
import java.io.File
import java.io.FileDescriptor
import java.io.FilterOutputStream
import java.io.OutputStream
import java.io.RandomAccessFile
import java.util.zip.CRC32
import java.util.zip.Deflater
import java.util.zip.ZipEntry
import java.util.zip.ZipFile
import java.util.zip.ZipOutputStream

/**
 * The assets of an app as Android's `AssetManager` gives them: out of a ZIP file, by descriptor and offset where they are stored, as
 * a stream where they are compressed.
 */
internal class Apk(private val file: File) : PackageFiles {
    private val zip = ZipFile(file)
    private val offsets = file.resolveSibling("${file.name}.offsets").readLines().associate { line ->
        line.substringAfter(' ') to line.substringBefore(' ').toLong()
    }
    override val place = "${file.name}!/assets/knapsack"

    override fun slice(path: String): FileSlice? {
        val entry = zip.getEntry("assets/knapsack/$path") ?: return null
        if (entry.method != ZipEntry.STORED) return null
        return FileSlice(detached(file), offsets.getValue(entry.name), entry.size)
    }

    override fun read(path: String, most: Int): ByteArray? {
        val entry = zip.getEntry("assets/knapsack/$path") ?: return null
        return zip.getInputStream(entry).use { it.readNBytes(most) }
    }

    companion object {
        /** Writes the files below [folder], compressed or stored, at offsets that are multiples of 4, as `zipalign` does. */
        fun write(apk: File, folder: File, compressed: (String) -> Boolean) {
            val offsets = StringBuilder()
            val counted = Counted(apk.outputStream().buffered())
            ZipOutputStream(counted).use { zip ->
                for (source in folder.walkTopDown().filter { it.isFile }.sorted()) {
                    val name = "assets/knapsack/${source.relativeTo(folder).invariantSeparatorsPath}"
                    val bytes = source.readBytes()
                    val entry = ZipEntry(name)
                    if (compressed(name)) {
                        zip.setLevel(Deflater.BEST_SPEED)
                    } else {
                        entry.method = ZipEntry.STORED
                        entry.size = bytes.size.toLong()
                        entry.crc = CRC32().apply { update(bytes) }.value
                        // A local header has 30 bytes before the name; an extra field has 4 before its own.
                        val end = counted.count + 30 + name.toByteArray().size + 4
                        val padding = ((4 - end % 4) % 4).toInt()
                        entry.extra = byteArrayOf(0x35, 0xd9.toByte(), padding.toByte(), 0) + ByteArray(padding)
                    }
                    zip.putNextEntry(entry)
                    zip.flush()
                    offsets.append("${counted.count} $name\n")
                    zip.write(bytes)
                    zip.closeEntry()
                }
            }
            apk.resolveSibling("${apk.name}.offsets").writeText(offsets.toString())
        }

        /** A descriptor that Java no longer closes: `ParcelFileDescriptor.detachFd`, which only Android has. */
        private fun detached(file: File): Int {
            val descriptor = RandomAccessFile(file, "r").fd
            val number = FileDescriptor::class.java.getDeclaredField("fd").apply { isAccessible = true }
            val cleanup = FileDescriptor::class.java.getDeclaredMethod("unregisterCleanup").apply { isAccessible = true }
            val found = number.getInt(descriptor)
            cleanup.invoke(descriptor)
            number.setInt(descriptor, -1)
            return found
        }
    }
}

private class Counted(private val to: OutputStream) : FilterOutputStream(to) {
    var count = 0L
        private set

    override fun write(byte: Int) {
        to.write(byte)
        count++
    }

    override fun write(bytes: ByteArray, start: Int, length: Int) {
        to.write(bytes, start, length)
        count += length
    }
}
