// Runs LiteRT.js in workers: chooses its build, fetches and compiles it once, and starts the rounds.

// A module with an instruction of relaxed SIMD (i8x16.relaxed_swizzle), which Safari does not have.
const RELAXED = Uint8Array.of(
  ...[0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 15, 1, 13, 0, 65, 1],
  ...[253, 15, 65, 2, 253, 15, 253, 128, 2, 11],
);

/** Returns the build of LiteRT.js for this browser: `compat`, `threaded` or `plain`. */
export function chooseBuild(threads, isolated, relaxed) {
  if (!relaxed) return "compat";
  return isolated && threads > 1 ? "threaded" : "plain";
}

/** Returns what this browser lacks, as sentences for its user, and why. */
export function limitations(environment) {
  const { wasm, secure, isolated, relaxed, gpu } = environment;
  if (!wasm) {
    return ["This browser has no WebAssembly, which every measurement needs. Use a newer browser."];
  }
  const found = [];
  if (!secure) {
    found.push(
      "One thread only, no GPU and no camera: browsers give them to pages from this device or by " +
        "HTTPS. Connect the phone by cable (--browser --android), or serve the page by HTTPS.",
    );
  } else if (!isolated) {
    found.push(
      "One thread only: the server did not send the headers for isolation (COOP and COEP), or a " +
        "private window forbids the page's service worker.",
    );
  } else if (!relaxed) {
    found.push(
      "One thread only: this browser has no relaxed SIMD, which LiteRT.js needs for more.",
    );
  }
  if (secure && !gpu) found.push("No GPU: this browser does not offer WebGPU on this device.");
  return found;
}

/** Returns why no more than one thread runs; null if more can run. */
export function threadsReason({ secure, isolated, relaxed }) {
  if (!secure) return "the page is not from a secure origin (HTTPS or this device)";
  if (!isolated) return "the page is not isolated (COOP and COEP)";
  return relaxed ? null : "the browser has no relaxed SIMD";
}

/** Finds out what the browser offers. */
export async function inspect() {
  const wasm = typeof WebAssembly === "object";
  let adapter = null;
  try {
    adapter = (await navigator.gpu?.requestAdapter()) ?? null;
  } catch {
    // A browser that forbids the GPU has none.
  }
  return {
    wasm,
    secure: globalThis.isSecureContext,
    isolated: globalThis.crossOriginIsolated === true,
    relaxed: wasm && WebAssembly.validate(RELAXED),
    gpu: adapter !== null,
    cores: navigator.hardwareConcurrency ?? null,
  };
}

/** Runs models in workers. */
export class Engine {
  #modules = new Map();
  #environment;

  constructor(environment) {
    this.#environment = environment;
  }

  /**
   * Runs a model in a new worker.
   *
   * @param model what `readModel` returns.
   * @param job `accelerator` ("cpu" or "gpu"), `threads`, `runs`, `warmupRuns`, and `values` for the
   *   input, which is random without them.
   * @param {AbortSignal} [signal] ends the worker.
   * @throws {Error} if LiteRT.js refuses the model.
   */
  async run(model, job, signal) {
    if (job.accelerator === "gpu" && !this.#environment.gpu) {
      throw new Error(`Expected WebGPU for ${model.name}. Received: a browser that offers none.`);
    }
    const { isolated, relaxed } = this.#environment;
    const build = chooseBuild(job.accelerator === "gpu" ? 1 : job.threads, isolated, relaxed);
    const module = await this.#compiled(build);
    const order = {
      ...job,
      accelerator: job.accelerator === "gpu" ? "webgpu" : "wasm",
      build,
      module,
      content: model.bytes,
      range: inputRange(model.config),
    };
    const found = await inWorker(order, signal);
    if (found.error !== undefined) {
      throw new Error(`LiteRT.js can't run ${model.name}: ${firstLine(found.error)}.`);
    }
    return { ...found, build };
  }

  async #compiled(build) {
    if (!this.#modules.has(build)) {
      const name = build === "plain" ? "" : `${build}_`;
      const address = `litert/wasm/litert_wasm_${name}internal.wasm`;
      this.#modules.set(build, compile(address));
    }
    try {
      return await this.#modules.get(build);
    } catch (error) {
      this.#modules.delete(build); // the network may be there again next time
      throw error;
    }
  }
}

async function compile(address) {
  try {
    const response = await fetch(address);
    if (!response.ok) throw new Error(`answer ${response.status}`);
    return await WebAssembly.compile(await response.arrayBuffer());
  } catch (error) {
    throw new Error(
      `The runtime could not be loaded (${firstLine(error.message)}). Check that the page's server ` +
        "still runs, and load the page again.",
    );
  }
}

/** Normalized pixels, if the file tells that it takes images. */
function inputRange(config) {
  if (!config) return [-1, 1];
  const ends = [0, 255].flatMap((pixel) =>
    config.mean.map((mean, channel) => (pixel - mean) / config.std[channel]),
  );
  return [Math.min(...ends), Math.max(...ends)];
}

function inWorker(order, signal) {
  return new Promise((resolve) => {
    const worker = new Worker("worker.js");
    const end = (result) => {
      worker.terminate();
      signal?.removeEventListener("abort", stop);
      resolve(result);
    };
    const stop = () => end({ error: "it was stopped" });
    signal?.addEventListener("abort", stop);
    worker.onmessage = ({ data }) => end(data);
    worker.onerror = (event) => {
      event.preventDefault();
      end({ error: event.message || "its worker could not be loaded" });
    };
    worker.postMessage(order);
  });
}

function firstLine(message) {
  return String(message)
    .trim()
    .split("\n")[0]
    .replace(/[.\s]+$/, "");
}
