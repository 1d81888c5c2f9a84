package io.github.kerasmobileone.bench

import android.annotation.SuppressLint
import android.content.Context
import android.graphics.ImageFormat
import android.hardware.camera2.CameraAccessException
import android.hardware.camera2.CameraCaptureSession
import android.hardware.camera2.CameraCharacteristics
import android.hardware.camera2.CameraDevice
import android.hardware.camera2.CameraManager
import android.hardware.camera2.CaptureRequest
import android.media.Image
import android.media.ImageReader
import android.os.Handler
import android.os.HandlerThread
import android.util.Size
import java.io.Closeable

/**
 * The pictures of a camera, upright, one after the other.
 *
 * @param rotation how far the screen is turned from its usual position, in degrees.
 * @param show is called with each picture on a thread of its own.
 * @param fail is called once if the camera cannot be used, on that thread.
 */
class CameraFrames(
    context: Context,
    private val rotation: Int,
    private val show: (Pixels) -> Unit,
    private val fail: () -> Unit,
) : Closeable {
    private val manager = context.getSystemService(CameraManager::class.java)
    private val thread = HandlerThread("camera").apply { start() }
    private val handler = Handler(thread.looper)
    private var device: CameraDevice? = null
    private var reader: ImageReader? = null
    private var turn = 0

    /** Opens the camera; the permission must have been granted. */
    fun open(camera: String) {
        handler.post { guarded { begin(camera) } }
    }

    override fun close() {
        handler.post {
            device?.close()
            reader?.close()
            thread.quitSafely()
        }
    }

    @SuppressLint("MissingPermission") // The activity asks for it before it makes this.
    private fun begin(camera: String) {
        val facts = manager.getCameraCharacteristics(camera)
        turn = turnOf(facts)
        val formats = facts[CameraCharacteristics.SCALER_STREAM_CONFIGURATION_MAP]
        val sizes = formats?.getOutputSizes(ImageFormat.YUV_420_888).orEmpty()
        val size = chooseSize(sizes.toList()) ?: return fail()
        reader = ImageReader.newInstance(size.width, size.height, ImageFormat.YUV_420_888, BUFFERS).apply {
            setOnImageAvailableListener({ it.acquireLatestImage()?.use(::deliver) }, handler)
        }
        manager.openCamera(camera, opened, handler)
    }

    private fun turnOf(facts: CameraCharacteristics): Int {
        val sensor = facts[CameraCharacteristics.SENSOR_ORIENTATION] ?: 0
        val front = facts[CameraCharacteristics.LENS_FACING] == CameraCharacteristics.LENS_FACING_FRONT
        return Math.floorMod(if (front) sensor + rotation else sensor - rotation, 360)
    }

    private fun deliver(image: Image) {
        val (y, u, v) = image.planes.map { Plane(it.buffer, it.rowStride, it.pixelStride) }
        show(YuvImage(image.width, image.height, y, u, v).toPixels(turn))
    }

    private val opened = object : CameraDevice.StateCallback() {
        override fun onOpened(camera: CameraDevice) {
            device = camera
            guarded { preview(camera) }
        }

        override fun onDisconnected(camera: CameraDevice) {
            camera.close()
            fail()
        }

        override fun onError(camera: CameraDevice, error: Int) {
            camera.close()
            fail()
        }
    }

    @Suppress("DEPRECATION") // The successor needs API 28.
    private fun preview(camera: CameraDevice) {
        val surface = reader?.surface ?: return fail()
        val request = camera.createCaptureRequest(CameraDevice.TEMPLATE_PREVIEW).apply {
            addTarget(surface)
            set(CaptureRequest.CONTROL_AF_MODE, CaptureRequest.CONTROL_AF_MODE_CONTINUOUS_PICTURE)
        }
        val configured = object : CameraCaptureSession.StateCallback() {
            override fun onConfigured(session: CameraCaptureSession) {
                guarded { session.setRepeatingRequest(request.build(), null, handler) }
            }

            override fun onConfigureFailed(session: CameraCaptureSession) = fail()
        }
        camera.createCaptureSession(listOf(surface), configured, handler)
    }

    /** Camera2 throws these when the camera is taken away, closed or not allowed. */
    private fun guarded(action: () -> Unit) = try {
        action()
    } catch (error: CameraAccessException) {
        fail()
    } catch (error: IllegalStateException) {
        fail()
    } catch (error: IllegalArgumentException) {
        fail()
    } catch (error: SecurityException) {
        fail()
    }

    companion object {
        private const val BUFFERS = 3
        private const val USUAL_PIXELS = 640 * 480

        /** The camera at the back, or any other, or null if the phone has none. */
        fun find(context: Context): String? {
            val manager = context.getSystemService(CameraManager::class.java)
            return try {
                val cameras = manager.cameraIdList.toList()
                val back = CameraCharacteristics.LENS_FACING_BACK
                cameras.find { manager.getCameraCharacteristics(it)[CameraCharacteristics.LENS_FACING] == back }
                    ?: cameras.firstOrNull()
            } catch (error: CameraAccessException) {
                null
            }
        }

        /** The size next to VGA: models see less, and larger pictures only take time. */
        internal fun chooseSize(sizes: List<Size>): Size? =
            sizes.minByOrNull { Math.abs(it.width * it.height - USUAL_PIXELS) }
    }
}
