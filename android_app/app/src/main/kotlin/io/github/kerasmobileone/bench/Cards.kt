package io.github.kerasmobileone.bench

import android.app.Activity
import android.app.AlertDialog
import android.view.View
import android.view.ViewGroup
import android.widget.Button
import android.widget.LinearLayout
import android.widget.TextView

/** Builds the cards of the screens that show one thing in detail. */
class Cards(private val activity: Activity, private val parent: ViewGroup) {

    /** Removes everything. */
    fun clear() = parent.removeAllViews()

    /** Adds a card with a title and returns where its content goes. */
    fun card(title: Int): LinearLayout = card(activity.getString(title))

    fun card(title: CharSequence): LinearLayout {
        val card = activity.layoutInflater.inflate(R.layout.detail_card, parent, false)
        card.findViewById<TextView>(R.id.card_title).apply {
            text = title
            markAsHeading(this)
        }
        parent.addView(card)
        return card.findViewById(R.id.card_content)
    }

    /** Adds what all the cards are about. */
    fun heading(text: CharSequence) {
        val view = TextView(activity, null, 0, R.style.Widget_Bench_Body)
        view.text = text
        view.setTextAppearance(R.style.Text_Bench_Title)
        view.setPadding(0, 0, 0, dp(12))
        markAsHeading(view)
        parent.addView(view)
    }

    /** Adds a line with a name and a value to a card. */
    fun fact(card: LinearLayout, name: CharSequence, value: CharSequence) {
        val view = activity.layoutInflater.inflate(R.layout.item_fact, card, false)
        view.findViewById<TextView>(R.id.fact_name).text = name
        view.findViewById<TextView>(R.id.fact_value).text = value
        card.addView(view)
    }

    /** Adds a sentence to a card. */
    fun text(card: LinearLayout, text: CharSequence) {
        val view = TextView(activity, null, 0, R.style.Widget_Bench_Body)
        view.text = text
        view.setTextIsSelectable(true)
        view.setPadding(0, dp(4), 0, 0)
        card.addView(view)
    }

    /** Adds a sentence that must not be overlooked. */
    fun warning(text: CharSequence) {
        val view = TextView(activity, null, 0, R.style.Widget_Bench_Body)
        view.text = text
        view.setTextColor(activity.getColor(R.color.on_error_container))
        view.setBackgroundResource(R.drawable.card_warning)
        view.setPadding(dp(16), dp(16), dp(16), dp(16))
        parent.addView(view, wide().apply { bottomMargin = dp(12) })
    }

    /** Adds a button below the cards. */
    fun button(text: Int, action: () -> Unit): Button {
        val button = Button(activity, null, 0, R.style.Widget_Bench_Button_Outlined)
        button.setText(text)
        button.setOnClickListener { action() }
        parent.addView(
            button,
            LinearLayout.LayoutParams(ViewGroup.LayoutParams.WRAP_CONTENT, ViewGroup.LayoutParams.WRAP_CONTENT),
        )
        return button
    }

    private fun wide() =
        LinearLayout.LayoutParams(ViewGroup.LayoutParams.MATCH_PARENT, ViewGroup.LayoutParams.WRAP_CONTENT)

    private fun dp(size: Int) = activity.dp(size)
}

/** Pixels of a length that does not depend on the density. */
fun Activity.dp(size: Int): Int = (size * resources.displayMetrics.density).toInt()

/** Lets TalkBack jump from heading to heading, where Android can. */
fun markAsHeading(view: View) {
    if (android.os.Build.VERSION.SDK_INT >= 28) view.isAccessibilityHeading = true
}

/** Asks before something is deleted. */
fun Activity.askToDelete(question: String, delete: () -> Unit) {
    AlertDialog.Builder(this)
        .setMessage(question)
        .setPositiveButton(R.string.delete) { _, _ -> delete() }
        .setNegativeButton(R.string.keep, null)
        .show()
}
