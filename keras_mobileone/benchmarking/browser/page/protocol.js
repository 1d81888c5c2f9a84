// The protocol of keras_mobileone/benchmarking/protocol.py: rounds interleaved over all files.

import {
  benchmarkOf,
  drift,
  latencyOf,
  median,
  relativeDifference,
  roundOf,
} from "./statistics.js";

/**
 * Returns a plan with the numbers of threads that can run.
 *
 * @param plan `accelerators`, `threads`, `runs`, `rounds`, `warmup_runs`.
 * @param {string | null} reason why no more than one thread runs.
 */
export function availablePlan(plan, reason) {
  return { ...plan, threads: reason ? [1] : plan.threads, requested_threads: plan.threads };
}

/** Returns each way to run each model, with what results call it. */
export function candidatesOf(models, { accelerators, threads }) {
  const ways = accelerators.flatMap((accelerator) =>
    // Threads are of the CPU.
    (accelerator === "gpu" ? [1] : threads).map((count) => ({ accelerator, threads: count })),
  );
  return models.flatMap((model) =>
    ways.map((way) => ({
      model,
      ...way,
      label: ways.length > 1 ? labelOf(model, way) : model.name,
    })),
  );
}

function labelOf(model, { accelerator, threads }) {
  return `${model.name} (${accelerator}, ${threads === 1 ? "1 thread" : `${threads} threads`})`;
}

/**
 * Measures models side by side: batch 1, inference only, each round in a new worker.
 *
 * The outputs of the GPU's last run in each round are compared with those of the CPU.
 *
 * @param models what `readModel` returns.
 * @param plan what `availablePlan` returns.
 * @param tools `engine`; `attention`, whose `visible()` waits until the page is in front and whose
 *   `absences` counts how often it was not; `onProgress(done, total, label)`; `signal`.
 * @returns a result without the conditions of the browser, which `conditions.js` adds.
 */
export async function runBenchmark(models, plan, tools) {
  const entries = candidatesOf(models, plan).map((candidate) => ({
    ...candidate,
    rounds: [],
    first: [],
    difference: null,
    failure: null,
  }));
  const total = entries.length * plan.rounds;
  const state = { done: 0, repeated: 0, gpu: null };
  const references = await takeReferences(models, plan, tools);
  for (let round = 0; round < plan.rounds; round++) {
    for (const entry of entries) {
      if (entry.failure) continue;
      tools.signal?.throwIfAborted();
      tools.onProgress?.(state.done, total, entry.label);
      await measureRound(entry, plan, tools, state);
      compare(entry, references);
      // The later rounds of a file that has failed are not measured and count as done.
      state.done += entry.failure ? plan.rounds - round : 1;
    }
  }
  tools.onProgress?.(total, total, "");
  return resultOf(entries, plan, state);
}

/** Outputs of the CPU by model, where the GPU is measured too. */
async function takeReferences(models, plan, { engine, signal }) {
  const references = new Map();
  if (!plan.accelerators.includes("gpu")) return references;
  const job = { accelerator: "cpu", threads: 1, runs: 1, warmupRuns: 0 };
  for (const model of models) {
    try {
      references.set(model, (await engine.run(model, job, signal)).outputs);
    } catch {
      // The rounds tell why; the difference stays unknown.
    }
  }
  return references;
}

/** Measures a round of an entry again until the page was in front all the time. */
async function measureRound(entry, plan, { engine, attention, signal }, state) {
  const { accelerator, threads } = entry;
  const job = { accelerator, threads, runs: plan.runs, warmupRuns: plan.warmup_runs };
  for (;;) {
    await attention.visible();
    const before = attention.absences;
    try {
      entry.found = await engine.run(entry.model, job, signal);
    } catch (error) {
      signal?.throwIfAborted();
      entry.failure = error.message;
      return;
    }
    if (attention.absences === before) break;
    state.repeated++;
  }
  const { runs, initialization, first, gpu } = entry.found;
  entry.rounds.push(roundOf(runs, initialization));
  entry.first.push(first);
  state.gpu ??= gpu;
}

function compare(entry, references) {
  const expected = references.get(entry.model);
  if (entry.failure || entry.accelerator !== "gpu" || !expected) return;
  const found = relativeDifference(entry.found.outputs, expected);
  entry.difference = Math.max(entry.difference ?? 0, found);
}

function resultOf(entries, plan, state) {
  const measured = entries.filter((entry) => !entry.failure);
  const latencies = measured.map((e) => latencyOf(e.label, e.model.bytes.length, e.rounds));
  const conditions = {
    gpu: state.gpu,
    drift: drift(latencies),
    repeated_rounds: state.repeated,
    configurations: Object.fromEntries(
      measured.map((entry) => [entry.label, configuration(entry)]),
    ),
    threads: oneOrList(measured.map((entry) => entry.found.threads)),
    requested_threads: plan.accelerators.includes("cpu") ? plan.requested_threads : [],
    runs: plan.runs,
    warmup_runs: plan.warmup_runs,
    batch: 1,
    rounds: plan.rounds,
  };
  const failures = entries
    .filter((entry) => entry.failure)
    .map((entry) => ({ path: entry.label, message: entry.failure }));
  return benchmarkOf(latencies, conditions, failures);
}

function configuration({ model, accelerator, found, difference, first }) {
  return {
    file: model.name,
    accelerator,
    threads: found.threads,
    ran_on: found.ranOn,
    difference,
    build: found.build,
    first_inference: median(first),
  };
}

function oneOrList(values) {
  const different = [...new Set(values)];
  return different.length === 1 ? different[0] : different;
}
