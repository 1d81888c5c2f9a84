// The modules of the page without a browser. FIXTURES is a directory that test_browser.py has filled
// with the numbers of the Python package.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import test from "node:test";

const PAGE = "../../keras_mobileone/benchmarking/browser/page";
const { probabilities, realValues, topClasses } = await import(`${PAGE}/classes.js`);
const { chooseBuild, limitations, threadsReason } = await import(`${PAGE}/engine.js`);
const { evaluationCrop, normalized } = await import(`${PAGE}/images.js`);
const { readModel } = await import(`${PAGE}/model_file.js`);
const { availablePlan, candidatesOf, runBenchmark } = await import(`${PAGE}/protocol.js`);
const { warningsOf } = await import(`${PAGE}/results.js`);
const statistics = await import(`${PAGE}/statistics.js`);

const fixture = (...names) => readFileSync(join(process.env.FIXTURES, ...names));
const parsed = (...names) => JSON.parse(fixture(...names));
const bytes = (...names) => new Uint8Array(fixture(...names));

/** Asserts equal numbers; only a sum may differ by its order. */
function assertFigures(found, expected) {
  assert.deepEqual(Object.keys(found).sort(), Object.keys(expected).sort());
  for (const [name, value] of Object.entries(expected)) {
    if (name === "trimmed") assert.ok(Math.abs(found[name] - value) <= 1e-13 * value, name);
    else assert.deepEqual(found[name], value, name);
  }
}

test("statistics are Python's", () => {
  const stored = parsed("statistics.json");
  const latencies = stored.files.map((file) => {
    const rounds = file.rounds.map((r) => statistics.roundOf(r.runs, r.initialization));
    rounds.forEach((round, index) => assertFigures(round, file.found[index]));
    const { path, bytes: size } = file.latency;
    const latency = statistics.latencyOf(path, size, rounds);
    assertFigures(latency, file.latency);
    return latency;
  });
  const ratios = latencies.map((a) => latencies.map((b) => statistics.ratio(a, b)));
  assert.deepEqual(ratios, stored.ratios);
  for (const [percent, value] of stored.percentiles) {
    assert.equal(statistics.percentile(stored.ordered, percent), value);
  }
});

test("outputs are compared by the largest expected value", () => {
  const { relativeDifference } = statistics;
  assert.equal(relativeDifference([[1, 2]], [[1, -4]]), 1.5);
  assert.equal(relativeDifference([[1, 2]], [[1, 2]]), 0);
  assert.equal(relativeDifference([[1]], [[1, 2]]), 1);
  assert.ok(relativeDifference([[NaN, 2]], [[1, 2]]) > 1e8);
});

test("photographs are resized, cropped and normalized as in Python", () => {
  for (const { name, width, height, config } of parsed("crops", "index.json")) {
    const rgb = fixture("crops", `${name}.rgb`);
    const data = new Uint8ClampedArray(4 * width * height);
    for (let i = 0; i < width * height; i++) data.set(rgb.subarray(3 * i, 3 * i + 3), 4 * i);
    const [high, wide] = config.image_size;
    const described = { width: wide, height: high, crop: config.crop_fraction };
    const { mean, std } = config;
    const crop = evaluationCrop({ data, width, height }, described);
    const expected = fixture("crops", `${name}.crop`);
    // Pillow resizes some upright images in the other order, which changes values by one level.
    const levels = width < height ? 1 : 0;
    assert.ok(
      crop.every((value, i) => Math.abs(value - expected[i]) <= levels),
      name,
    );
    const values = normalized(expected, { mean, std }, "float32");
    assert.deepEqual(Buffer.from(values.buffer), fixture("crops", `${name}.float32`), name);
  }
});

test("scores become probabilities unless they are some", () => {
  const found = probabilities([1, 2, 3]);
  assert.ok(Math.abs(found.reduce((a, b) => a + b) - 1) < 1e-12 && found[2] > 0.66);
  assert.deepEqual(probabilities([0.25, 0.75]), [0.25, 0.75]);
  assert.equal(topClasses([5, 9], ["tench", "ox"])[0].label, "ox");
  assert.equal(topClasses([5, 9], ["tench"])[0].label, "class 1");
  assert.deepEqual(realValues([3, -1], { scale: 0.5, zeroPoint: 1 }), [1, -1]);
});

test("files tell inputs, images and labels", async () => {
  const model = await readModel("other_tool.tflite", bytes("files", "other_tool.tflite"));
  assert.deepEqual(model.labels, ["tench", "ox"]);
  assert.equal(model.config, null); // two inputs
  const quantized = await readModel("quantize.tflite", bytes("files", "quantize.tflite"));
  assert.deepEqual(quantized.inputs[0].shape, [1, 2, 4, 3]);
  const { dtype, scale, zeroPoint } = quantized.outputs[0];
  assert.deepEqual([dtype, scale, zeroPoint], ["int8", 0.5, -3]);
  const described = await readModel("image.tflite", bytes("image.tflite"));
  const { width, height, mean } = described.config;
  assert.deepEqual([width, height, mean], [4, 2, [9, 9, 9]]);
  assert.deepEqual(described.labels, ["tench", "ox"]);
});

test("unusable files are refused in one sentence", async () => {
  const refused = async (name, content, words) =>
    assert.rejects(readModel(name, content), ({ message }) => {
      assert.ok(message.startsWith("Expected") && message.includes(name), message);
      return words.test(message);
    });
  const whole = bytes("files", "add.tflite");
  await refused("a.tflite", new TextEncoder().encode("not a model"), /identifier TFL3/);
  await refused("a.tflite", new Uint8Array(), /identifier TFL3/);
  for (let length = 8; length < whole.length - 200; length += 7) {
    // Cut files are refused, or what is cut off is not needed to measure them.
    await readModel("a.tflite", whole.slice(0, length)).catch(({ message }) =>
      assert.match(message, /damaged or cut short/),
    );
  }
  await refused("open.tflite", bytes("files", "open.tflite"), /\(1, -1, 4, 3\)/);
  await refused(
    "int8.tflite",
    bytes("int8.tflite"),
    /is int8\. Export it with --input-dtype uint8/,
  );
});

const environment = { wasm: true, secure: true, isolated: true, relaxed: true, gpu: true };

test("the build fits the browser", () => {
  assert.equal(chooseBuild(4, true, true), "threaded");
  assert.equal(chooseBuild(1, true, true), "plain");
  assert.equal(chooseBuild(4, false, true), "plain");
  assert.equal(chooseBuild(4, true, false), "compat");
});

test("the page says what the browser lacks", () => {
  assert.deepEqual(limitations(environment), []);
  assert.equal(threadsReason(environment), null);
  const lacking = (changes, ...words) => {
    const found = limitations({ ...environment, ...changes }).join(" ");
    for (const word of words) assert.match(found, word);
    if (changes.gpu !== false) assert.notEqual(threadsReason({ ...environment, ...changes }), null);
  };
  lacking({ secure: false, isolated: false }, /One thread only, no GPU/, /HTTPS/);
  lacking({ isolated: false }, /COOP and COEP/);
  lacking({ relaxed: false }, /relaxed SIMD/);
  lacking({ gpu: false }, /WebGPU/);
  assert.match(limitations({ ...environment, wasm: false })[0], /WebAssembly/);
});

const model = (name) => ({ name, bytes: new Uint8Array(10) });
const plan = { accelerators: ["cpu"], threads: [1], runs: 2, rounds: 2, warmup_runs: 1 };
const attention = { visible: async () => {}, absences: 0 };

/** An engine that answers from a function of the model's name and the job. */
function engineOf(answer) {
  const calls = [];
  const run = async ({ name }, job) => {
    calls.push(`${name} ${job.accelerator} ${job.threads}`);
    return {
      initialization: 1,
      first: 5,
      outputs: [[1, 2]],
      ranOn: job.accelerator,
      ...job,
      gpu: null,
      build: "plain",
      runs: [2, 4],
      ...answer(name, job, calls.length),
    };
  };
  return { run, calls };
}

test("rounds are interleaved over files and ways", async () => {
  const engine = engineOf(() => ({}));
  const progress = [];
  const wide = availablePlan({ ...plan, threads: [1, 2] }, null);
  const result = await runBenchmark([model("a"), model("b")], wide, {
    engine,
    attention,
    onProgress: (...numbers) => progress.push(numbers),
  });
  const round = ["a cpu 1", "a cpu 2", "b cpu 1", "b cpu 2"];
  assert.deepEqual(engine.calls, [...round, ...round]);
  assert.deepEqual(result.latencies.map(({ path }) => path).slice(0, 2), [
    "a (cpu, 1 thread)",
    "a (cpu, 2 threads)",
  ]);
  assert.deepEqual(progress.at(-1), [8, 8, ""]);
  assert.deepEqual(result.conditions.threads, [1, 2]);
  assert.equal(result.conditions.configurations["a (cpu, 1 thread)"].first_inference, 5);
});

test("one thread runs where the browser gives no more, and the result says so", async () => {
  const engine = engineOf(() => ({}));
  const narrow = availablePlan({ ...plan, threads: [4] }, "the page is not isolated");
  const { conditions, latencies } = await runBenchmark([model("a")], narrow, {
    engine,
    attention,
  });
  assert.deepEqual(engine.calls, ["a cpu 1", "a cpu 1"]);
  assert.deepEqual([conditions.threads, conditions.requested_threads], [1, [4]]);
  const [warning] = warningsOf(
    { latencies, conditions: { ...conditions, threads_reason: "of this" } },
    { tolerance: 0.05, slowed: 1.2 },
  );
  assert.match(warning, /4 threads were wanted, and 1 ran, because of this/);
});

test("a round is repeated if the page was hidden", async () => {
  const absent = { visible: async () => {}, absences: 0 };
  const engine = engineOf((name, job, count) => {
    if (count === 2) absent.absences++;
    return { runs: [count, count] };
  });
  const found = await runBenchmark([model("a")], availablePlan(plan, null), {
    engine,
    attention: absent,
  });
  assert.deepEqual(found.latencies[0].medians, [1, 3]);
  assert.equal(found.conditions.repeated_rounds, 1);
});

test("a file that fails leaves the others measured", async () => {
  const engine = engineOf((name, job, count) => {
    if (name === "a" && count > 2) throw new Error("LiteRT.js can't run a: no memory.");
    return {};
  });
  const found = await runBenchmark([model("a"), model("b")], availablePlan(plan, null), {
    engine,
    attention,
  });
  assert.deepEqual(found.failures, [{ path: "a", message: "LiteRT.js can't run a: no memory." }]);
  assert.deepEqual(
    found.latencies.map(({ path }) => path),
    ["b"],
  );
});

test("wrong outputs of the GPU are noticed in any round", async () => {
  const engine = engineOf((name, job, count) =>
    job.accelerator === "gpu" && count === 2 ? { outputs: [[1, 4]] } : {},
  );
  const wanted = availablePlan({ ...plan, accelerators: ["gpu"] }, null);
  const found = await runBenchmark([model("a")], wanted, { engine, attention });
  assert.equal(found.conditions.configurations.a.difference, 1);
  const limits = { tolerance: 0.05, slowed: 1.2 };
  assert.match(warningsOf(found, limits)[0], /wrong outputs on the gpu/);
  assert.equal(
    candidatesOf([model("a")], { accelerators: ["cpu", "gpu"], threads: [1, 2] }).length,
    3,
  );
});

test("a benchmark that is stopped gives no result", async () => {
  const aborter = new AbortController();
  const engine = engineOf(() => aborter.abort());
  const tools = { engine, attention, signal: aborter.signal };
  const stopped = runBenchmark([model("a")], availablePlan(plan, null), tools);
  await assert.rejects(stopped, { name: "AbortError" });
});
