// The page: loads the files, starts the benchmark, shows and sends the result.

import { Classifier } from "./classify.js";
import { Attention, browserConditions } from "./conditions.js";
import { element, list, make, named } from "./elements.js";
import { Engine, inspect, limitations, threadsReason } from "./engine.js";
import { readModel } from "./model_file.js";
import { availablePlan, runBenchmark } from "./protocol.js";
import { showResult } from "./results.js";
import { Channel, canShare, download, share, textOf } from "./share.js";

const FILE = "latency.json";
const AUTOMATIC = "#start"; // in the address that the command opens by itself

class Page {
  models = [];
  #aborter = null;
  #text = "";

  async begin() {
    this.environment = await inspect();
    this.reason = threadsReason(this.environment);
    list("limitations", limitations(this.environment));
    this.config = await loadConfig();
    this.channel = new Channel(this.config);
    this.attention = new Attention();
    this.engine = new Engine(this.environment);
    this.classifier = new Classifier(this.engine, problem);
    this.#listen();
    this.#propose(this.config.plan);
    if (!this.environment.wasm) return;
    for (const file of this.config.files) await this.#fetch(file);
    this.#ready();
    if (location.hash === AUTOMATIC) await this.start();
  }

  #listen() {
    element("start").addEventListener("click", () => (this.#aborter ? this.stop() : this.start()));
    element("own").addEventListener("change", ({ target }) => this.#add(target.files, target));
    addEventListener("dragover", (event) => event.preventDefault());
    addEventListener("drop", (event) => {
      event.preventDefault();
      this.#add(event.dataTransfer.files);
    });
    element("download").addEventListener("click", () => download(this.#text, FILE));
    element("share").addEventListener("click", async () => {
      element("sent").textContent = await share(this.#text, FILE);
    });
  }

  #propose(plan) {
    for (const name of ["cpu", "gpu"]) element(name).checked = plan.accelerators.includes(name);
    element("gpu").disabled = !this.environment.gpu && !plan.accelerators.includes("gpu");
    for (const name of ["threads", "rounds", "runs"]) element(name).value = plan[name];
    element("threads").disabled = this.reason !== null;
  }

  async #fetch(file) {
    try {
      const answer = await fetch(file.url);
      if (!answer.ok) throw new Error(`answer ${answer.status}`);
      await this.#accept(file.name, new Uint8Array(await answer.arrayBuffer()));
    } catch (error) {
      problem(
        error.message.startsWith("Expected")
          ? error.message
          : `${file.name} could not be loaded (${error.message}). Load the page again.`,
      );
    }
  }

  async #add(files, target) {
    problem("");
    for (const file of files) {
      const taken = this.models.map(({ name }) => name);
      try {
        await this.#accept(safeName(file.name, taken), new Uint8Array(await file.arrayBuffer()));
      } catch (error) {
        problem(error.message);
      }
    }
    if (target) target.value = "";
    this.#ready();
  }

  async #accept(name, bytes) {
    const model = await readModel(name, bytes);
    this.models.push(model);
    const box = make("input", { type: "checkbox", checked: true });
    box.addEventListener("change", () => {
      model.left = !box.checked;
      this.#ready();
    });
    const size = make("span", { class: "size" }, `${(bytes.length / 1e6).toFixed(2)} MB`);
    const label = make("label", {}, box, make("span", { class: "name" }, ...named(name)), size);
    element("files").append(make("li", {}, label));
  }

  #ready() {
    this.classifier.offer(this.models);
    element("start").disabled = !this.models.some((model) => !model.left);
  }

  /** The user's choices; throws an error with a sentence for wrong ones. */
  #plan() {
    const accelerators = ["cpu", "gpu"].filter((name) => element(name).checked);
    if (!accelerators.length) throw new Error("Choose CPU or GPU to run on.");
    const threads = [...new Set(element("threads").value.split(",").map(Number))];
    const [rounds, runs] = ["rounds", "runs"].map((name) => Number(element(name).value));
    if (![...threads, rounds, runs].every((value) => Number.isInteger(value) && value >= 1)) {
      throw new Error("Threads, rounds and runs must be whole numbers of at least 1.");
    }
    const { warmup_runs } = this.config.plan;
    return availablePlan({ accelerators, threads, rounds, runs, warmup_runs }, this.reason);
  }

  async start() {
    problem("");
    try {
      const plan = this.#plan();
      this.#working(true);
      await this.attention.keepAwake();
      this.channel.start();
      const result = await this.#measure(plan);
      await this.#finish(result);
    } catch (error) {
      this.channel.stop();
      problem(error.name === "AbortError" ? "Stopped. Nothing was stored." : error.message);
    } finally {
      this.attention.release();
      this.#working(false);
    }
  }

  stop() {
    this.#aborter.abort();
  }

  async #measure(plan) {
    const result = await runBenchmark(
      this.models.filter((model) => !model.left),
      plan,
      {
        engine: this.engine,
        attention: this.attention,
        signal: this.#aborter.signal,
        onProgress: (done, total, label) => {
          this.channel.progress(done, total);
          element("progress").max = total;
          element("progress").value = done;
          element("status").textContent = label && `${done} of ${total}: ${label}`;
        },
      },
    );
    const { runtime } = this.config;
    const browser = await browserConditions(this.environment, runtime, this.reason);
    result.conditions = { ...browser, ...result.conditions };
    return result;
  }

  async #finish(result) {
    this.#text = textOf(result);
    showResult(result, this.config);
    element("share").hidden = !canShare(this.#text, FILE);
    element("sent").textContent = this.channel.listens ? await this.channel.send(this.#text) : "";
    element("result-title").focus();
  }

  #working(works) {
    this.#aborter = works ? new AbortController() : null;
    element("start").textContent = works ? "Stop" : "Measure again";
    element("progress").hidden = !works;
    element("status").textContent = "";
    for (const id of ["files-card", "settings-card"]) element(id).inert = works;
  }
}

async function loadConfig() {
  try {
    const answer = await fetch("config.json");
    if (!answer.ok) throw new Error(`answer ${answer.status}`);
    return await answer.json();
  } catch (error) {
    throw new Error(
      `The page's server does not answer (${error.message}). Start it again and use its new link.`,
      { cause: error },
    );
  }
}

/** The name of a file in results, in which spaces separate it from how it was run. */
function safeName(name, taken) {
  const safe = name.replace(/[^A-Za-z0-9._-]/g, "_");
  return taken.includes(safe) ? `${taken.length}-${safe}` : safe;
}

/** Shows a sentence where the user looks, or takes it away. */
function problem(message) {
  element("problem").textContent = message;
  element("problem").hidden = message === "";
  if (message) element("problem").scrollIntoView({ block: "nearest" });
}

/** Registers the service worker that isolates the page of a static server, and loads it again. */
async function isolate() {
  if (globalThis.crossOriginIsolated || !navigator.serviceWorker) return false;
  const answer = await fetch("config.json");
  // A page that Python serves is isolated by the server's own headers, if the browser allows it.
  if (!answer.ok || (await answer.json()).result) return false;
  if (navigator.serviceWorker.controller) return false; // it did not help
  await navigator.serviceWorker.register("isolation.js");
  await navigator.serviceWorker.ready;
  location.reload();
  return true;
}

try {
  if (!(await isolate().catch(() => false))) await new Page().begin();
} catch (error) {
  problem(error.message);
}
