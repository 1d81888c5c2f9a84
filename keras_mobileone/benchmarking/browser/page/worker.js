// Runs one round of one file, and is terminated afterwards, so that its memory is free again.
// This is a classic worker: LiteRT.js loads its glue by `importScripts`, which module workers refuse.

const FINEST = 0.005; // milliseconds, the finest step of a browser's timer; a time of 0 has no ratio

onmessage = async ({ data }) => {
  try {
    postMessage(await measure(data));
  } catch (error) {
    postMessage({ error: String(error?.message ?? error) });
  }
};

async function measure(job) {
  const litert = await loadRuntime(job);
  const start = performance.now();
  const model = await litert.loadAndCompile(new Uint8Array(job.content), {
    accelerator: job.accelerator,
    cpuOptions: { numThreads: job.threads },
  });
  const initialization = performance.now() - start;
  const onGpu = model.options.accelerator === "webgpu";
  const inputs = await makeInputs(litert, model, job, onGpu);
  const times = [];
  let outputs = [];
  const total = job.warmupRuns + job.runs;
  for (let index = 0; index < total; index++) {
    const begin = performance.now();
    const results = await model.run(inputs);
    // `run` only hands the work to the GPU, which has finished when its result is here.
    if (onGpu || index === total - 1) outputs = await Promise.all(results.map((r) => r.data()));
    times.push(Math.max(performance.now() - begin, FINEST));
    for (const result of results) result.delete();
  }
  return {
    initialization,
    first: times[0],
    runs: times.slice(job.warmupRuns),
    outputs: outputs.map((values) => values.slice()),
    ranOn: ranOn(model, onGpu),
    threads: job.build === "threaded" ? job.threads : 1,
    gpu: onGpu ? adapterName(litert) : null,
  };
}

async function loadRuntime(job) {
  // Otherwise LiteRT.js wakes the GPU for measurements of the CPU too.
  if (job.accelerator !== "webgpu") Object.defineProperty(navigator, "gpu", { value: undefined });
  const base = new URL("litert/wasm/", location.href).href;
  const name = { plain: "", threaded: "threaded_", compat: "compat_" }[job.build];
  const glue = `${base}litert_wasm_${name}internal.js`;
  self.Module = {
    locateFile: (file) => base + file,
    mainScriptUrlOrBlob: job.build === "threaded" ? glue : undefined,
    print: () => {},
    printErr: () => {},
    instantiateWasm: (imports, done) => {
      // The page has compiled it once for all workers.
      WebAssembly.instantiate(job.module, imports).then((made) => done(made, job.module));
      return {};
    },
  };
  const litert = await import("./litert/core.js");
  await litert.loadLiteRt(glue);
  return litert;
}

async function makeInputs(litert, model, job, onGpu) {
  const random = generator();
  const made = model.getInputDetails().map((details) => {
    const size = details.shape.reduce((product, length) => product * length, 1);
    const values = job.values ?? randomValues(details.dtype, size, job.range, random);
    return new litert.Tensor(values, [...details.shape]);
  });
  if (!onGpu) return made;
  return Promise.all(
    model.getInputDetails().map((details, index) => {
      const [kind] = details.supportedBufferTypes;
      return made[index].moveTo(kind);
    }),
  );
}

function randomValues(dtype, size, [low, high], random) {
  if (dtype === "uint8") return Uint8Array.from({ length: size }, () => 256 * random());
  if (dtype === "int32") return Int32Array.from({ length: size }, () => 128 * random());
  return Float32Array.from({ length: size }, () => low + (high - low) * random());
}

/** The generator mulberry32 (public domain): every round and accelerator has the same input. */
function generator() {
  let state = 0x9e3779b9;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let bits = Math.imul(state ^ (state >>> 15), 1 | state);
    bits = (bits + Math.imul(bits ^ (bits >>> 7), 61 | bits)) ^ bits;
    return ((bits ^ (bits >>> 14)) >>> 0) / 4294967296;
  };
}

function ranOn(model, onGpu) {
  if (!onGpu) return "cpu";
  return model.isFullyAccelerated ? "gpu" : "gpu and cpu";
}

function adapterName(litert) {
  const info = litert.getWebGpuDevice()?.adapterInfo;
  const words = [info?.vendor, info?.architecture, info?.description];
  return words.filter(Boolean).join(" ") || null;
}
