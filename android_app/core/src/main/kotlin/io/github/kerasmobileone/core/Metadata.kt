package io.github.kerasmobileone.core

import java.nio.ByteBuffer
import java.nio.ByteOrder

/**
 * Reads what a TFLite file says of itself in words: standard metadata, by the numbers of the fields in
 * `metadata_schema.fbs` of MediaPipe, and the image configuration of the package keras_mobileone.
 *
 * @param entry returns an entry of the file's table of metadata by its name.
 */
internal class Metadata(private val entry: (String) -> ByteArray?, private val files: AssociatedFiles) {
    private val root = entry("TFLITE_METADATA")?.let {
        FlatTable.root(ByteBuffer.wrap(it).order(ByteOrder.LITTLE_ENDIAN))
    }

    fun texts(): ModelMetadata? =
        root?.run { ModelMetadata(text(0), text(1), text(2), text(4), text(5)) }

    /** Names of the classes: from the file that the metadata name for the first output, or labels.txt. */
    fun labels(): List<String>? {
        val described = tensor(3)?.tables(6).orEmpty().firstOrNull { it.byte(2) == AXIS_LABELS }?.text(0)
        val content = described?.let(files::read) ?: files.read("labels.txt") ?: return null
        val lines = String(content, Charsets.UTF_8).lines()
        return if (lines.last().isEmpty()) lines.dropLast(1) else lines
    }

    /** Returns how the file takes RGB images. Files of other tools are read by TFLite's standard metadata. */
    fun imageConfig(input: TensorInfo): ImageConfig? = try {
        val stored = entry("KERAS_MOBILEONE_IMAGE_CONFIG")
        if (stored == null) standardConfig(input) else storedConfig(String(stored, Charsets.UTF_8))
    } catch (error: FormatException) {
        null // A file that describes its images in an unknown way can still be measured.
    } catch (error: IllegalArgumentException) {
        null
    }

    private fun storedConfig(text: String): ImageConfig? {
        val fields = Json.parse(text) as? Map<*, *> ?: return null
        val (height, width) = numbers(fields["image_size"], 2) ?: return null
        return ImageConfig(
            width = width.toInt(),
            height = height.toInt(),
            mean = numbers(fields["mean"], CHANNELS) ?: return null,
            std = numbers(fields["std"], CHANNELS) ?: return null,
            cropFraction = (fields["crop_fraction"] as? Number ?: return null).toDouble(),
        )
    }

    private fun numbers(value: Any?, count: Int): List<Double>? =
        (value as? List<*>)?.mapNotNull { (it as? Number)?.toDouble() }?.takeIf { it.size == count }

    private fun standardConfig(input: TensorInfo): ImageConfig? {
        val unit = tensor(2)?.tables(4).orEmpty().firstOrNull { it.byte(0) == NORMALIZATION && it.table(1) != null }
        val options = unit?.table(1) ?: return null
        val mean = channels(options.floats(0)) ?: return null
        val std = channels(options.floats(1)) ?: return null
        if (input.shape.size != 4) return null
        return ImageConfig(width = input.shape[2], height = input.shape[1], mean = mean, std = std)
    }

    /** One value for each channel, of as many or of one for all. */
    private fun channels(values: List<Float>): List<Double>? = when (values.size) {
        1 -> List(CHANNELS) { values[0].toDouble() }
        CHANNELS -> values.map { it.toDouble() }
        else -> null
    }

    /** The description of the first input (field 2) or output (field 3) of the first graph. */
    private fun tensor(field: Int): FlatTable? = root?.tables(3)?.firstOrNull()?.tables(field)?.firstOrNull()

    private companion object {
        // TENSOR_AXIS_LABELS of AssociatedFileType, and NormalizationOptions of ProcessUnitOptions.
        const val AXIS_LABELS = 2
        const val NORMALIZATION = 1
    }
}
