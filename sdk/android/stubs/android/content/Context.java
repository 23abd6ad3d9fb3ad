package android.content;

import android.content.res.AssetManager;
import java.io.File;

public abstract class Context {
    public static final String ACTIVITY_SERVICE = "activity";

    public abstract Context getApplicationContext();

    public abstract AssetManager getAssets();

    public abstract File getNoBackupFilesDir();

    public abstract Object getSystemService(String name);

    public native void registerComponentCallbacks(ComponentCallbacks callback);

    public native void unregisterComponentCallbacks(ComponentCallbacks callback);
}
