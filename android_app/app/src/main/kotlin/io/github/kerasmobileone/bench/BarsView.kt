package io.github.kerasmobileone.bench

import android.content.Context
import android.graphics.Canvas
import android.graphics.Paint
import android.text.Layout
import android.text.StaticLayout
import android.text.TextPaint
import android.util.AttributeSet
import android.view.View

/**
 * One bar of a chart.
 *
 * @property label what was measured.
 * @property value length of the bar.
 * @property text the value as it is shown.
 * @property rounds single values whose median is [value]; their spread is drawn over the bar.
 */
data class Bar(val label: String, val value: Double, val text: String, val rounds: List<Double>)

/** Horizontal bars, each with a line from its lowest to its highest round and a dot for each round. */
class BarsView @JvmOverloads constructor(context: Context, attributes: AttributeSet? = null) :
    View(context, attributes) {

    private var bars: List<Bar> = emptyList()
    private var full: Double? = null

    /** Shows bars. [full] is the value of a bar over the whole width; by default the largest one. */
    fun show(bars: List<Bar>, full: Double? = null) {
        this.bars = bars
        this.full = full
        contentDescription = bars.joinToString("\n") { "${it.label}: ${it.text}" }
        requestLayout()
        invalidate()
    }

    private val density = resources.displayMetrics.density

    init {
        setPadding(0, (8 * density).toInt(), 0, 0)
    }

    private val barHeight = 20 * density
    private val gap = 16 * density
    private val text = TextPaint(Paint.ANTI_ALIAS_FLAG).apply {
        textSize = resources.getDimension(R.dimen.chart_text)
        color = context.getColor(R.color.on_surface)
    }
    private val bar = fill(R.color.primary)
    private val track = fill(R.color.surface_container_high)
    private val spread = fill(R.color.on_surface).apply { strokeWidth = 1.5f * density }
    private val dot = fill(R.color.tertiary)
    private val ring = fill(R.color.surface)

    private fun fill(color: Int) =
        Paint(Paint.ANTI_ALIAS_FLAG).apply { this.color = context.getColor(color) }

    @Suppress("DEPRECATION") // Its successor needs API 23 and does the same for plain text.
    private fun label(bar: Bar, width: Int) =
        StaticLayout("${bar.label}  ·  ${bar.text}", text, width, Layout.Alignment.ALIGN_NORMAL, 1f, 0f, false)

    override fun onMeasure(widthSpec: Int, heightSpec: Int) {
        val width = MeasureSpec.getSize(widthSpec)
        val inner = (width - paddingLeft - paddingRight).coerceAtLeast(1)
        val height = bars.sumOf { (label(it, inner).height + barHeight + gap).toInt() }
        setMeasuredDimension(width, resolveSize(height + paddingTop + paddingBottom, heightSpec))
    }

    override fun onDraw(canvas: Canvas) {
        val inner = (width - paddingLeft - paddingRight).coerceAtLeast(1)
        val most = full ?: bars.maxOfOrNull { maxOf(it.value, it.rounds.maxOrNull() ?: 0.0) } ?: return
        if (most <= 0) return
        canvas.save()
        canvas.translate(paddingLeft.toFloat(), paddingTop.toFloat())
        for (one in bars) {
            val label = label(one, inner)
            label.draw(canvas)
            canvas.translate(0f, label.height + 4 * density)
            drawBar(canvas, one) { value -> (value / most * inner).toFloat() }
            canvas.translate(0f, barHeight + gap - 4 * density)
        }
        canvas.restore()
    }

    private fun drawBar(canvas: Canvas, one: Bar, position: (Double) -> Float) {
        val radius = 4 * density
        val full = (width - paddingLeft - paddingRight).toFloat()
        canvas.drawRoundRect(0f, 0f, full, barHeight, radius, radius, track)
        canvas.drawRoundRect(0f, 0f, position(one.value), barHeight, radius, radius, bar)
        if (one.rounds.size < 2) return
        val middle = barHeight / 2
        canvas.drawLine(position(one.rounds.min()), middle, position(one.rounds.max()), middle, spread)
        val places = one.rounds.map { position(it).coerceIn(4 * density, full - 4 * density) }
        // All rings below all dots, so that dots close to each other stay visible.
        places.forEach { canvas.drawCircle(it, middle, 4 * density, ring) }
        places.forEach { canvas.drawCircle(it, middle, 3 * density, dot) }
    }
}
