package android.content.res;

import java.io.IOException;
import java.io.InputStream;

public final class AssetManager {
    public native String[] list(String path) throws IOException;

    public native InputStream open(String name) throws IOException;
}
