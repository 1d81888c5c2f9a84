package io.github.kerasmobileone.bench

import android.graphics.Bitmap
import android.graphics.BitmapFactory
import android.graphics.Matrix
import android.media.ExifInterface
import java.io.File
import java.io.IOException

/** Reads photographs from files and turns them upright. */
object Photograph {
    /** More pixels than this are left out while decoding: enough for models of any usual size. */
    private const val MAXIMUM_PIXELS = 8_000_000

    /** Returns the upright photograph, or null if the file is none that Android can decode. */
    fun read(file: File): Bitmap? {
        val size = BitmapFactory.Options().apply { inJustDecodeBounds = true }
        BitmapFactory.decodeFile(file.path, size)
        if (size.outWidth <= 0 || size.outHeight <= 0) return null
        val options = BitmapFactory.Options().apply {
            inSampleSize = sample(size.outWidth, size.outHeight)
            inPreferredConfig = Bitmap.Config.ARGB_8888
        }
        val decoded = BitmapFactory.decodeFile(file.path, options) ?: return null
        return turned(decoded, matrixOf(orientation(file)))
    }

    internal fun sample(width: Int, height: Int): Int =
        generateSequence(1) { 2 * it }.first { (width / it).toLong() * (height / it) <= MAXIMUM_PIXELS }

    private fun orientation(file: File): Int = try {
        ExifInterface(file.path).getAttributeInt(ExifInterface.TAG_ORIENTATION, ExifInterface.ORIENTATION_NORMAL)
    } catch (error: IOException) {
        ExifInterface.ORIENTATION_NORMAL // Formats without Exif are upright.
    }

    /** The transformation that turns an image of an Exif orientation upright. */
    internal fun matrixOf(orientation: Int): Matrix {
        val degrees = when (orientation) {
            ExifInterface.ORIENTATION_ROTATE_90, ExifInterface.ORIENTATION_TRANSPOSE -> 90f
            ExifInterface.ORIENTATION_ROTATE_180, ExifInterface.ORIENTATION_FLIP_VERTICAL -> 180f
            ExifInterface.ORIENTATION_ROTATE_270, ExifInterface.ORIENTATION_TRANSVERSE -> 270f
            else -> 0f
        }
        val mirrored = orientation in listOf(
            ExifInterface.ORIENTATION_FLIP_HORIZONTAL,
            ExifInterface.ORIENTATION_FLIP_VERTICAL,
            ExifInterface.ORIENTATION_TRANSPOSE,
            ExifInterface.ORIENTATION_TRANSVERSE,
        )
        return Matrix().apply {
            setRotate(degrees)
            if (mirrored) postScale(-1f, 1f)
        }
    }

    private fun turned(bitmap: Bitmap, matrix: Matrix): Bitmap =
        if (matrix.isIdentity) bitmap
        else Bitmap.createBitmap(bitmap, 0, 0, bitmap.width, bitmap.height, matrix, true)

    fun pixels(bitmap: Bitmap): Pixels {
        val values = IntArray(bitmap.width * bitmap.height)
        bitmap.getPixels(values, 0, bitmap.width, 0, 0, bitmap.width, bitmap.height)
        return Pixels(values, bitmap.width, bitmap.height)
    }
}
