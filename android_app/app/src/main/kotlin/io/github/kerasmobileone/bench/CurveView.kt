package io.github.kerasmobileone.bench

import android.content.Context
import android.graphics.Canvas
import android.graphics.Paint
import android.graphics.Path
import android.text.Layout
import android.text.StaticLayout
import android.text.TextPaint
import android.util.AttributeSet
import android.view.View
import kotlin.math.ceil
import kotlin.math.floor
import kotlin.math.log10
import kotlin.math.pow

/** Values over time: x rises. */
data class Curve(val label: String, val points: List<Pair<Double, Double>>)

/** Lines over a common axis, with a legend below. */
class CurveView @JvmOverloads constructor(context: Context, attributes: AttributeSet? = null) :
    View(context, attributes) {

    var curves: List<Curve> = emptyList()
        set(value) {
            field = value.filter { it.points.isNotEmpty() }
            requestLayout()
            invalidate()
        }

    /** What the horizontal axis counts. */
    var axis: String = ""
        set(value) {
            field = value
            invalidate()
        }

    private val density = resources.displayMetrics.density
    private val text = TextPaint(Paint.ANTI_ALIAS_FLAG).apply {
        textSize = resources.getDimension(R.dimen.chart_text)
        color = context.getColor(R.color.on_surface_variant)
    }
    private val grid = Paint().apply {
        color = context.getColor(R.color.outline_variant)
        strokeWidth = density
    }
    private val line = Paint(Paint.ANTI_ALIAS_FLAG).apply {
        style = Paint.Style.STROKE
        strokeWidth = 2 * density
        strokeJoin = Paint.Join.ROUND
    }
    private val colors = resources.getIntArray(R.array.chart_colors)
    private val plotHeight = 180 * density
    private val lineHeight get() = text.fontSpacing
    private val indent = 20 * density

    @Suppress("DEPRECATION") // Its successor does the same for plain text.
    private fun legend(curve: Curve, width: Int) = StaticLayout(
        curve.label, text, (width - indent).toInt().coerceAtLeast(1), Layout.Alignment.ALIGN_NORMAL, 1f, 0f, false,
    )

    override fun onMeasure(widthSpec: Int, heightSpec: Int) {
        val width = MeasureSpec.getSize(widthSpec)
        val height = plotHeight + 3.5f * lineHeight + 8 * density + curves.sumOf { legend(it, width).height + (4 * density).toInt() }
        setMeasuredDimension(width, resolveSize(height.toInt(), heightSpec))
    }

    override fun onDraw(canvas: Canvas) {
        if (curves.isEmpty()) return
        val points = curves.flatMap { it.points }
        val x = Scale(points.minOf { it.first }, points.maxOf { it.first })
        val y = Scale(points.minOf { it.second }, points.maxOf { it.second })
        val left = y.ticks.maxOf { text.measureText(y.text(it)) } + 8 * density
        val right = width - text.measureText(x.text(x.ticks.last())) / 2
        val top = 1.5f * lineHeight
        val bottom = top + plotHeight
        val across = { value: Double -> (left + x.part(value) * (right - left)).toFloat() }
        val up = { value: Double -> (bottom - y.part(value) * (bottom - top)).toFloat() }
        drawAxes(canvas, x, y, across, up, bottom)
        for ((index, curve) in curves.withIndex()) drawCurve(canvas, index, curve, across, up)
        drawLegend(canvas, bottom + 2 * lineHeight)
    }

    private fun drawAxes(
        canvas: Canvas, x: Scale, y: Scale, across: (Double) -> Float, up: (Double) -> Float, bottom: Float,
    ) {
        canvas.drawText("ms", 0f, lineHeight * 0.6f, text)
        for (tick in y.ticks) {
            canvas.drawLine(across(x.low), up(tick), across(x.high), up(tick), grid)
            canvas.drawText(y.text(tick), 0f, up(tick) + lineHeight / 3, text)
        }
        var free = 0f
        for (tick in x.ticks) {
            val label = x.text(tick)
            val wide = text.measureText(label)
            if (across(tick) - wide / 2 < free) continue
            canvas.drawText(label, across(tick) - wide / 2, bottom + lineHeight, text)
            free = across(tick) + wide / 2 + 8 * density
        }
        canvas.drawText(axis, width - text.measureText(axis), bottom + 2 * lineHeight, text)
    }

    private fun drawCurve(
        canvas: Canvas, index: Int, curve: Curve, across: (Double) -> Float, up: (Double) -> Float,
    ) {
        line.color = colors[index % colors.size]
        val path = Path()
        for ((number, point) in curve.points.withIndex()) {
            val (x, y) = across(point.first) to up(point.second)
            if (number == 0) path.moveTo(x, y) else path.lineTo(x, y)
        }
        canvas.drawPath(path, line)
    }

    private fun drawLegend(canvas: Canvas, top: Float) {
        canvas.save()
        canvas.translate(0f, top + 8 * density)
        for ((index, curve) in curves.withIndex()) {
            line.color = colors[index % colors.size]
            canvas.drawLine(0f, lineHeight / 2, indent - 6 * density, lineHeight / 2, line)
            val label = legend(curve, width)
            canvas.translate(indent, 0f)
            label.draw(canvas)
            canvas.translate(-indent, label.height + 4 * density)
        }
        canvas.restore()
    }
}

/** An axis from a round number below the values to one above them. */
internal class Scale(least: Double, most: Double) {
    private val step = niceStep((most - least).coerceAtLeast(most.coerceAtLeast(1e-3) * 0.01) / 4)
    val low = floor(least / step) * step
    val high = maxOf(ceil(most / step) * step, low + step)
    val ticks = generateSequence(low) { it + step }.takeWhile { it <= high + step / 2 }.toList()

    fun part(value: Double) = (value - low) / (high - low)

    fun text(value: Double) =
        "%.${ceil(-log10(step)).toInt().coerceIn(0, 4)}f".format(value)

    private fun niceStep(rough: Double): Double {
        val power = 10.0.pow(floor(log10(rough)))
        return power * listOf(1.0, 2.0, 5.0, 10.0).first { it * power >= rough * 0.999 }
    }
}
