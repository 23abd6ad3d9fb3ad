package ai.knapsack.internal

import java.io.IOException
import java.io.InputStream
import java.net.HttpURLConnection
import java.net.URL

/** Longest wait for a connection and for the next bytes, in milliseconds. */
private const val CONNECT_TIMEOUT = 20_000
private const val READ_TIMEOUT = 60_000
private const val MOST_REDIRECTS = 10

/** Moves the bytes of downloads. Which bytes, and whether they are right, is decided on the native side. */
internal fun download(url: String, from: Long): Body? = try {
    open(URL(url), from, MOST_REDIRECTS)
} catch (_: IOException) {
    null
}

/** `HttpURLConnection` does not follow a redirect from one protocol to the other. */
private fun open(url: URL, from: Long, redirects: Int): Body {
    val connection = url.openConnection() as? HttpURLConnection ?: throw IOException("neither http nor https")
    connection.connectTimeout = CONNECT_TIMEOUT
    connection.readTimeout = READ_TIMEOUT
    connection.instanceFollowRedirects = false
    connection.setRequestProperty("Accept-Encoding", "identity")
    if (from > 0) connection.setRequestProperty("Range", "bytes=$from-")
    val status = connection.responseCode
    val target = connection.getHeaderField("Location")
    if (status in 301..308 && status != 304 && target != null && redirects > 0) {
        connection.disconnect()
        val next = URL(url, target)
        if (url.protocol == "https" && next.protocol != "https") throw IOException("a redirect away from https")
        return open(next, from, redirects - 1)
    }
    return HttpBody(connection, status)
}

private class HttpBody(private val connection: HttpURLConnection, private val status: Int) : Body {
    private val stream: InputStream? = if (status == 200 || status == 206) connection.inputStream else null

    override fun status() = status

    override fun wait(): Long = connection.getHeaderField("Retry-After")?.trim()?.toLongOrNull() ?: 0

    override fun read(buffer: ByteArray, most: Int): Int = maxOf(0, stream?.read(buffer, 0, most) ?: 0)

    override fun end() = connection.disconnect()
}
