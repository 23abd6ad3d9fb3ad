package android.content.res;

import java.io.IOException;
import java.io.InputStream;

/** Final on Android: only a stand-in of the tests extends it. */
public class AssetManager {
    public native InputStream open(String name) throws IOException;

    public native AssetFileDescriptor openFd(String name) throws IOException;
}
