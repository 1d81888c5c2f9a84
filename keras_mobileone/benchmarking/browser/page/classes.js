// The most probable classes of a model's outputs, as `keras-mobileone predict` prints them.

const SUM_TOLERANCE = 0.02; // how far the sum of probabilities may be from 1; int8 needs it

/**
 * Returns the most probable classes, the best first.
 *
 * @param {number[]} scores logits or probabilities.
 * @param {string[] | null} labels names of the classes. They are not used if there are not as many as
 *   scores, since a wrong name is worse than a number.
 */
export function topClasses(scores, labels, count = 5) {
  const names = labels?.length === scores.length ? labels : null;
  return probabilities(scores)
    .map((probability, index) => ({ label: names?.[index] ?? `class ${index}`, probability }))
    .sort((a, b) => b.probability - a.probability)
    .slice(0, count);
}

/** Applies a softmax to logits. Scores that are probabilities already are returned as they are. */
export function probabilities(scores) {
  const sum = scores.reduce((total, score) => total + score, 0);
  if (scores.every((score) => score >= 0) && Math.abs(sum - 1) <= SUM_TOLERANCE) return [...scores];
  const largest = scores.reduce((a, b) => Math.max(a, b), -Infinity);
  const exponentials = Array.from(scores, (score) => Math.exp(score - largest));
  const total = exponentials.reduce((a, b) => a + b, 0);
  return exponentials.map((value) => value / total);
}

/** Returns the real values of an output, which integer types scale. */
export function realValues(output, info) {
  if (info.scale === null) return Array.from(output);
  return Array.from(output, (stored) => Math.fround((stored - info.zeroPoint) * info.scale));
}
