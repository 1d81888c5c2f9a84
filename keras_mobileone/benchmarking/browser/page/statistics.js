// The figures of keras_mobileone/benchmarking/results.py, from single runs in milliseconds.

export const FORMAT = 1; // number of the JSON layout there
const TRIMMED = 5; // a fifth of the runs is cut off at each end

const ascending = (values) => [...values].sort((a, b) => a - b);

/** Returns a percentile of values in ascending order, interpolated linearly. */
export function percentile(ordered, percent) {
  const position = ((ordered.length - 1) * percent) / 100;
  const below = Math.floor(position);
  const above = Math.min(below + 1, ordered.length - 1);
  return ordered[below] + (position - below) * (ordered[above] - ordered[below]);
}

/** Returns the median, which is the mean of the two middle values of an even number. */
export function median(values) {
  const ordered = ascending(values);
  const middle = ordered.length >> 1;
  if (ordered.length % 2) return ordered[middle];
  return (ordered[middle - 1] + ordered[middle]) / 2;
}

/** Returns the statistics of one file's runs in one round. */
export function roundOf(runs, initialization) {
  const ordered = ascending(runs);
  const cut = Math.floor(ordered.length / TRIMMED);
  const kept = ordered.slice(cut, ordered.length - cut);
  return {
    median: median(ordered),
    p95: percentile(ordered, 95),
    minimum: ordered[0],
    initialization,
    p90: percentile(ordered, 90),
    trimmed: kept.reduce((sum, value) => sum + value, 0) / kept.length,
  };
}

/** Returns the latency of a file over all rounds. */
export function latencyOf(path, bytes, rounds) {
  const middle = (name) => median(rounds.map((round) => round[name]));
  return {
    path,
    bytes,
    median: middle("median"),
    p95: middle("p95"),
    minimum: Math.min(...rounds.map((round) => round.minimum)),
    initialization: middle("initialization"),
    p90: middle("p90"),
    trimmed: middle("trimmed"),
    medians: rounds.map((round) => round.median),
  };
}

/** Returns the median of the ratios of two files' times, which are formed within the rounds. */
export function ratio(latency, reference) {
  return median(latency.medians.map((value, round) => value / reference.medians[round]));
}

/** Returns how many times as long the last round took as the first; null for a single round. */
export function drift(latencies) {
  const quotients = latencies
    .filter((latency) => latency.medians.length > 1)
    .map((latency) => latency.medians.at(-1) / latency.medians[0]);
  return quotients.length ? median(quotients) : null;
}

/** Returns a result in the layout that Python's `load_benchmark` reads. */
export function benchmarkOf(latencies, conditions, failures) {
  const ratios = latencies.map((latency) => ratio(latency, latencies[0]));
  return { format: FORMAT, latencies, conditions, failures, ratios };
}

/** Returns the largest difference of outputs, relative to the largest of the expected values. */
export function relativeDifference(found, expected) {
  let largest = 0;
  let difference = 0;
  for (const [index, output] of expected.entries()) {
    if (found[index]?.length !== output.length) return 1;
    for (const [place, value] of output.entries()) {
      largest = Math.max(largest, Math.abs(value));
      const distance = Math.abs(found[index][place] - value);
      // A value that is not a number is as wrong as one can be; JSON has no infinity.
      difference = Math.max(difference, Number.isFinite(distance) ? distance : 1e9);
    }
  }
  return largest > 0 ? difference / largest : difference;
}
