import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertNotNull;
import static org.junit.Assert.assertTrue;

import android.app.Activity;
import android.app.Application;
import android.content.Intent;
import android.content.pm.ActivityInfo;
import android.content.pm.PackageManager;
import io.github.kerasmobileone.core.Accelerator;
import io.github.kerasmobileone.core.Engine;
import io.github.kerasmobileone.core.Session;
import io.github.kerasmobileone.core.TensorInfo;
import java.io.File;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.junit.Test;
import org.junit.runner.RunWith;
import org.robolectric.Robolectric;
import org.robolectric.RobolectricTestRunner;
import org.robolectric.RuntimeEnvironment;
import org.robolectric.annotation.Config;

/**
 * Starts the app and runs a model with classes that R8 has shrunk.
 *
 * <p>It is written in Java, so that it brings no Kotlin class that R8 has removed.
 */
@RunWith(RobolectricTestRunner.class)
@Config(sdk = 36)
public class ReleaseCheck {
    @Test
    public void theAppStarts() throws Exception {
        Application application = RuntimeEnvironment.getApplication();
        PackageManager packages = application.getPackageManager();
        String name = application.getPackageName();
        for (ActivityInfo info : packages.getPackageInfo(name, PackageManager.GET_ACTIVITIES).activities) {
            assertNotNull(Class.forName(info.name).getDeclaredConstructor());
        }
        Intent launch = packages.getLaunchIntentForPackage(name);
        Class<? extends Activity> activity =
                Class.forName(launch.getComponent().getClassName()).asSubclass(Activity.class);
        assertFalse(Robolectric.buildActivity(activity).setup().get().isFinishing());
    }

    @Test
    public void everyModelRuns() throws Exception {
        Engine engine =
                (Engine) Class.forName(System.getProperty("engine")).getDeclaredConstructor().newInstance();
        File[] models = new File(System.getProperty("models")).listFiles((d, name) -> name.endsWith(".tflite"));
        assertTrue(models.length > 0);
        for (File model : models) {
            try (Session session = engine.load(model, Accelerator.CPU, 1)) {
                List<ByteBuffer> outputs = buffers(session.getOutputs());
                session.run(buffers(session.getInputs()), outputs);
                byte[] output = new byte[outputs.get(0).remaining()];
                outputs.get(0).duplicate().get(output);
                assertFalse(model.getName(), Arrays.equals(output, new byte[output.length]));
            }
        }
    }

    private static List<ByteBuffer> buffers(List<TensorInfo> tensors) {
        List<ByteBuffer> buffers = new ArrayList<>();
        for (TensorInfo tensor : tensors) {
            buffers.add(ByteBuffer.allocateDirect(tensor.getByteCount()).order(ByteOrder.nativeOrder()));
        }
        return buffers;
    }
}
