package android.content.res;

import android.os.ParcelFileDescriptor;
import java.io.Closeable;

public class AssetFileDescriptor implements Closeable {
    public native ParcelFileDescriptor getParcelFileDescriptor();

    public native long getStartOffset();

    public native long getLength();

    @Override
    public native void close();
}
