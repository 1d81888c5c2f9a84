package io.github.kerasmobileone.core

import kotlin.math.exp
import org.junit.jupiter.api.Assertions.assertArrayEquals
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Test

class TopClassesTest {
    private val labels = listOf("tench", "goldfish", "shark")

    @Test
    fun `the best class is first`() {
        val found = topClasses(floatArrayOf(0f, 2f, 1f), labels, 2)
        val sum = 1 + exp(1.0) + exp(2.0)
        assertEquals(listOf("goldfish", "shark"), found.map { it.label })
        assertEquals(listOf(1, 2), found.map { it.index })
        assertArrayEquals(doubleArrayOf(exp(2.0) / sum, exp(1.0) / sum), found.map { it.probability }.toDoubleArray(), 1e-12)
    }

    @Test
    fun `probabilities stay as they are`() {
        assertArrayEquals(doubleArrayOf(0.25, 0.75), probabilities(floatArrayOf(0.25f, 0.75f)))
        assertArrayEquals(doubleArrayOf(0.25, 0.765625), probabilities(floatArrayOf(0.25f, 0.765625f)))
    }

    @Test
    fun `logits that are positive or sum to 1 are not probabilities`() {
        for (logits in listOf(floatArrayOf(3f, 4f), floatArrayOf(-1f, 2f), floatArrayOf(500f, 1000f))) {
            assertEquals(1.0, probabilities(logits).sum(), 1e-12)
        }
        assertEquals(1 / (1 + exp(-3.0)), probabilities(floatArrayOf(-1f, 2f))[1], 1e-12)
    }

    @Test
    fun `classes with equal scores keep their order`() {
        assertEquals(listOf(0, 1, 2), topClasses(floatArrayOf(1f, 1f, 1f), labels).map { it.index })
    }

    @Test
    fun `labels are ignored if there are not as many as classes`() {
        assertEquals(listOf("1", "0"), topClasses(floatArrayOf(1f, 5f), labels).map { it.label })
        assertEquals(listOf("1", "0"), topClasses(floatArrayOf(1f, 5f), null).map { it.label })
    }

    @Test
    fun `no scores have no classes`() {
        assertEquals(emptyList<TopClass>(), topClasses(FloatArray(0), labels))
    }
}
