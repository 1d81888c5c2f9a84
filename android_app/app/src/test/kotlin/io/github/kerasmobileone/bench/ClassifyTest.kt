package io.github.kerasmobileone.bench

import android.Manifest
import android.app.Activity
import android.content.Intent
import android.content.pm.ProviderInfo
import android.graphics.Bitmap
import android.graphics.Color
import android.media.ExifInterface
import android.net.Uri
import android.util.Size
import android.view.View
import android.widget.Button
import java.io.File
import java.nio.ByteBuffer
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Assume.assumeTrue
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.Robolectric
import org.robolectric.RobolectricTestRunner
import org.robolectric.RuntimeEnvironment
import org.robolectric.Shadows.shadowOf
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode

/** Classification of photographs and of the camera's pictures. */
@RunWith(RobolectricTestRunner::class)
@GraphicsMode(GraphicsMode.Mode.NATIVE)
@Config(sdk = [36], qualifiers = PHONE)
class ClassifyTest {

    private val cat = generateSequence(File("").absoluteFile) { it.parentFile }
        .map { File(it, "keras_mobileone/assets/cat.png") }.firstOrNull { it.isFile }

    private fun screen() = start<MainActivity>(
        Intent(app, MainActivity::class.java).putExtra(MainActivity.SCREEN, MainActivity.CLASSIFY),
    )

    private fun choose(activity: MainActivity, photograph: File) {
        val documents = Robolectric.buildContentProvider(FilesTest.Documents::class.java)
            .create(ProviderInfo().apply { authority = "documents" }).get()
        documents.files["photograph"] = photograph
        activity.findViewById<Button>(R.id.classify_gallery).performClick()
        val asked = shadowOf(activity).nextStartedActivityForResult
        assertEquals("image/*", asked.intent.type)
        val answer = Intent().setData(Uri.parse("content://documents/photograph"))
        shadowOf(activity).receiveResult(asked.intent, Activity.RESULT_OK, answer)
        settle()
    }

    private fun waitForClasses(activity: MainActivity) = waitFor("the classes") {
        activity.findViewById<View>(R.id.classify_card).visibility == View.VISIBLE
    }

    private fun classes(activity: MainActivity) =
        activity.findViewById<View>(R.id.classify_classes).contentDescription.toString().lines()

    @Test fun a_cat_is_recognized_also_after_a_rotation() {
        assumeTrue(cat != null && modelFiles().isNotEmpty())
        val controller = screen()
        controller.get().shoot("classify-empty")
        choose(controller.get(), checkNotNull(cat))
        waitForClasses(controller.get())
        controller.get().shoot("classify")
        val found = classes(controller.get())
        assertEquals(5, found.size)
        if (labelsOf(modelFiles().first()).size == IMAGENET_CLASSES) {
            // What `keras-mobileone predict cat.png --model mobileone_s0_float16.tflite` prints.
            assertEquals(listOf("Egyptian cat: 78.7 %", "tabby: 12.1 %", "tiger cat: 7.5 %"), found.take(3))
        }
        RuntimeEnvironment.setQualifiers("+land")
        controller.recreate()
        settle()
        waitForClasses(controller.get())
        controller.get().shoot("classify-land")
        assertEquals(found, classes(controller.get()))
    }

    @Test fun a_file_that_is_no_photograph_gets_one_sentence() {
        assumeTrue(modelFiles().isNotEmpty())
        val controller = screen()
        choose(controller.get(), File.createTempFile("text", null).apply { writeText("no photograph") })
        assertTrue(controller.get().texts().contains(app.getString(R.string.not_a_photograph)))
    }

    @Test fun exif_orientations_turn_a_corner_to_the_top_left() {
        // Where the red pixel of the upright image, at the top left, is stored for each orientation.
        val stored = mapOf(1 to (0 to 0), 2 to (1 to 0), 3 to (1 to 2), 4 to (0 to 2), 5 to (0 to 0), 6 to (0 to 1), 7 to (2 to 1), 8 to (2 to 0))
        for ((orientation, place) in stored) {
            val (width, height) = if (orientation < 5) 2 to 3 else 3 to 2
            val bitmap = Bitmap.createBitmap(width, height, Bitmap.Config.ARGB_8888).apply { eraseColor(Color.WHITE) }
            bitmap.setPixel(place.first, place.second, Color.RED)
            val upright = Bitmap.createBitmap(bitmap, 0, 0, width, height, Photograph.matrixOf(orientation), false)
            assertEquals("$orientation", 2 to 3, upright.width to upright.height)
            assertEquals("$orientation", Color.RED, upright.getPixel(0, 0))
        }
    }

    @Test fun a_photograph_on_its_side_is_turned() {
        val bitmap = Bitmap.createBitmap(64, 32, Bitmap.Config.ARGB_8888)
        val file = File.createTempFile("side", ".jpg")
        file.outputStream().use { bitmap.compress(Bitmap.CompressFormat.JPEG, 90, it) }
        ExifInterface(file.path).apply {
            setAttribute(ExifInterface.TAG_ORIENTATION, ExifInterface.ORIENTATION_ROTATE_90.toString())
            saveAttributes()
        }
        val read = checkNotNull(Photograph.read(file))
        assertEquals(32 to 64, read.width to read.height)
    }

    @Test fun large_photographs_are_decoded_smaller() {
        assertEquals(1, Photograph.sample(3000, 2000))
        assertEquals(2, Photograph.sample(4000, 3000))
        assertEquals(8, Photograph.sample(16000, 12000))
    }

    @Test fun pictures_of_the_camera_become_upright_pixels() {
        // Two by two pixels of brightness 10, 20, 30, 40 without color, in rows of four bytes.
        val y = Plane(ByteBuffer.wrap(byteArrayOf(10, 20, 0, 0, 30, 40, 0, 0)), 4, 1)
        val gray = Plane(ByteBuffer.wrap(byteArrayOf(-128)), 2, 2)
        val image = YuvImage(2, 2, y, gray, gray)
        val expected = mapOf(0 to listOf(10, 20, 30, 40), 90 to listOf(30, 10, 40, 20), 180 to listOf(40, 30, 20, 10), 270 to listOf(20, 40, 10, 30))
        for ((degrees, values) in expected) {
            assertEquals("$degrees", values, image.toPixels(degrees).values.map(Color::red))
        }
        val red = YuvImage(1, 1, Plane(ByteBuffer.wrap(byteArrayOf(76)), 1, 1), Plane(ByteBuffer.wrap(byteArrayOf(85)), 1, 1), Plane(ByteBuffer.wrap(byteArrayOf(-1)), 1, 1))
        val pixel = red.toPixels(0).values.single()
        assertTrue(Color.red(pixel) > 250 && Color.green(pixel) < 5 && Color.blue(pixel) < 5)
    }

    @Test fun a_turned_picture_that_is_not_square_has_its_sides_exchanged() {
        val y = Plane(ByteBuffer.wrap(ByteArray(8) { it.toByte() }), 4, 1)
        val gray = Plane(ByteBuffer.wrap(byteArrayOf(-128, -128)), 2, 1)
        val turned = YuvImage(4, 2, y, gray, gray).toPixels(90)
        assertEquals(2 to 4, turned.width to turned.height)
        assertEquals(listOf(4, 0, 5, 1, 6, 2, 7, 3), turned.values.map(Color::red))
    }

    @Test fun the_camera_asks_once_and_then_explains() {
        assumeTrue(modelFiles().isNotEmpty())
        val intent = Intent().putExtra(CameraActivity.MODEL, modelFiles().first().name)
        val controller = start<CameraActivity>(intent)
        val asked = shadowOf(controller.get()).lastRequestedPermission
        assertEquals(listOf(Manifest.permission.CAMERA), asked.requestedPermissions.toList())
        controller.get().onRequestPermissionsResult(asked.requestCode, asked.requestedPermissions, intArrayOf(-1))
        controller.get().shoot("camera-denied")
        assertTrue(controller.get().texts().contains(app.getString(R.string.camera_denied)))
        RuntimeEnvironment.setQualifiers("+land")
        controller.recreate()
        settle()
        assertTrue(controller.get().texts().contains(app.getString(R.string.camera_denied)))
        controller.get().shoot("camera-denied-land")
    }

    @Test fun a_phone_without_a_camera_says_so() {
        assumeTrue(modelFiles().isNotEmpty())
        shadowOf(app).grantPermissions(Manifest.permission.CAMERA)
        val controller = start<CameraActivity>(Intent().putExtra(CameraActivity.MODEL, modelFiles().first().name))
        assertTrue(controller.get().texts().contains(app.getString(R.string.camera_none)))
    }

    @Test fun the_size_next_to_VGA_is_chosen() {
        val sizes = listOf(Size(4000, 3000), Size(640, 480), Size(176, 144))
        assertEquals(Size(640, 480), CameraFrames.chooseSize(sizes))
    }
}
