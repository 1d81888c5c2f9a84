package io.github.kerasmobileone.bench

import android.os.Bundle
import android.widget.LinearLayout
import io.github.kerasmobileone.core.ModelFile
import io.github.kerasmobileone.core.TensorInfo

/** What one model file says of itself. */
class ModelActivity : BenchActivity() {
    private val cards by lazy { Cards(this, findViewById<LinearLayout>(R.id.detail_content)) }

    override fun onCreate(state: Bundle?) {
        super.onCreate(state)
        setScreen(R.layout.detail)
        val name = intent.getStringExtra(NAME).orEmpty()
        setBack(getString(R.string.title_model))
        load({ bench.models.find(name) }) { model -> if (model == null) finish() else show(model) }
    }

    private fun show(model: StoredModel) {
        cards.clear()
        cards.heading(breakable(model.file.name))
        model.problem?.let { cards.warning(getString(R.string.unusable, sentence(it))) }
        val file = cards.card(R.string.section_file)
        cards.fact(file, getString(R.string.fact_size), getString(R.string.megabytes, megabytes(model.file.length())))
        val source = if (model.bundled) R.string.in_the_app else R.string.opened_by_you
        cards.fact(file, getString(R.string.fact_source), getString(source))
        model.details?.let(::showDetails)
        if (!model.bundled) cards.button(R.string.delete_model) { ask(model) }
    }

    private fun showDetails(details: ModelFile) {
        val tensors = cards.card(R.string.section_tensors)
        details.inputs.forEachIndexed { index, tensor ->
            cards.fact(tensors, getString(R.string.input, index + 1), describe(tensor))
        }
        details.outputs.forEachIndexed { index, tensor ->
            cards.fact(tensors, getString(R.string.output, index + 1), describe(tensor))
        }
        showPreprocessing(details)
        showMetadata(details)
        showLabels(details)
    }

    private fun describe(tensor: TensorInfo): String {
        val shape = tensor.shape.joinToString(" × ")
        val quantization =
            if (tensor.scale == 0f) getString(R.string.not_quantized)
            else getString(R.string.quantized, "%.6g".format(tensor.scale), tensor.zeroPoint)
        return "${tensor.name}\n$shape ${tensor.type.name.lowercase()}\n$quantization"
    }

    private fun showPreprocessing(details: ModelFile) {
        val config = details.imageConfig ?: return
        val card = cards.card(R.string.section_preprocessing)
        cards.fact(card, getString(R.string.fact_image_size), "${config.width} × ${config.height}")
        cards.fact(card, getString(R.string.fact_crop), decimal(config.cropFraction, 3))
        val takesPixels = config.mean.all { it == 0.0 } && config.std.all { it == 1.0 }
        val channels = config.mean.zip(config.std) { mean, std -> "(x − ${decimal(mean, 2)}) / ${decimal(std, 2)}" }
        val text = if (takesPixels) getString(R.string.takes_pixels) else channels.distinct().joinToString("\n")
        cards.fact(card, getString(R.string.fact_normalization), text)
    }

    private fun showMetadata(details: ModelFile) {
        val card = cards.card(R.string.section_metadata)
        val metadata = details.metadata
        if (metadata == null) {
            cards.text(card, getString(R.string.no_metadata))
            return
        }
        val facts = listOf(
            R.string.fact_name to metadata.name,
            R.string.fact_description to metadata.description,
            R.string.fact_version to metadata.version,
            R.string.fact_author to metadata.author,
            R.string.fact_license to metadata.license,
        )
        for ((name, value) in facts) {
            if (!value.isNullOrEmpty()) cards.fact(card, getString(name), value)
        }
    }

    private fun showLabels(details: ModelFile) {
        val card = cards.card(R.string.section_labels)
        val labels = details.labels
        if (labels == null) {
            cards.text(card, getString(R.string.no_labels))
            return
        }
        val shown = labels.take(SHOWN_LABELS).joinToString("\n")
        val rest = labels.size - SHOWN_LABELS
        cards.text(card, if (rest > 0) "$shown\n${getString(R.string.and_more, rest)}" else shown)
    }

    private fun ask(model: StoredModel) = askToDelete(getString(R.string.delete_model_question, model.file.name)) {
        load({ bench.models.delete(model) }) { finish() }
    }

    companion object {
        /** Extra of the intent: name of the model's file. */
        const val NAME = "name"
        private const val SHOWN_LABELS = 20
    }
}
