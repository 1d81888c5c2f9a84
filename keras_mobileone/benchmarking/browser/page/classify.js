// Classifies a photograph or the camera's picture with one of the files.

import { realValues, topClasses } from "./classes.js";
import { element, make } from "./elements.js";
import { evaluationCrop, normalized } from "./images.js";

const LARGEST = 1024; // pixels of the longer side that are kept of a photograph

/** Whether a model takes RGB images and gives scores of classes. */
export function canClassify({ inputs, outputs, config }) {
  const scores = outputs[0]?.shape.filter((length) => length > 1).length === 1;
  return config !== null && inputs.length === 1 && scores;
}

/**
 * Returns the most probable classes of a picture.
 *
 * @param engine an `Engine`.
 * @param model what `readModel` returns.
 * @param {ImageData} image the upright picture.
 */
export async function classify(engine, model, image) {
  const values = normalized(
    evaluationCrop(image, model.config),
    model.config,
    model.inputs[0].dtype,
  );
  const job = { accelerator: "cpu", threads: 1, runs: 1, warmupRuns: 0, values };
  const { outputs } = await engine.run(model, job);
  return topClasses(realValues(outputs[0], model.outputs[0]), model.labels);
}

/** The card that shows a picture and its classes. */
export class Classifier {
  #engine;
  #models = [];
  #image = null;
  #stream = null;
  #problem;

  constructor(engine, problem) {
    this.#engine = engine;
    this.#problem = problem;
    element("photograph").addEventListener("change", ({ target }) => this.#read(target));
    element("classifier").addEventListener("change", () => this.#answer());
    element("camera").addEventListener("click", () =>
      this.#stream ? this.#shoot() : this.#film(),
    );
    element("camera").hidden = !navigator.mediaDevices?.getUserMedia;
  }

  /** Offers those of the models that classify. */
  offer(models) {
    this.#models = models.filter(canClassify);
    element("classify-card").hidden = this.#models.length === 0;
    const options = this.#models.map(({ name }, index) => make("option", { value: index }, name));
    element("classifier").replaceChildren(...options);
  }

  async #read(target) {
    const [file] = target.files;
    if (!file) return;
    this.#close();
    try {
      // The browser turns photographs upright.
      this.#show(await createImageBitmap(file));
    } catch {
      this.#problem(
        `Expected a photograph. Received: ${file.name}, which this browser can't read.`,
      );
      return;
    }
    target.value = ""; // so that the same file may be chosen again
    await this.#answer();
  }

  async #film() {
    try {
      const wish = { video: { facingMode: "environment" }, audio: false };
      this.#stream = await navigator.mediaDevices.getUserMedia(wish);
    } catch {
      this.#problem(
        "The camera can't be used. Allow it in the browser's settings, or choose a photograph.",
      );
      return;
    }
    const video = element("video");
    video.srcObject = this.#stream;
    video.hidden = false;
    element("photo").hidden = true;
    element("camera").textContent = "Take it";
    await video.play();
  }

  async #shoot() {
    this.#show(element("video"));
    this.#close();
    await this.#answer();
  }

  #close() {
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
    this.#stream = null;
    element("video").srcObject = null;
    element("video").hidden = true;
    element("camera").textContent = "Camera";
  }

  #show(source) {
    const width = source.videoWidth || source.width;
    const height = source.videoHeight || source.height;
    const scale = Math.min(1, LARGEST / Math.max(width, height));
    const canvas = element("photo");
    canvas.width = Math.max(1, Math.round(width * scale));
    canvas.height = Math.max(1, Math.round(height * scale));
    canvas.hidden = false;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.imageSmoothingQuality = "high";
    context.drawImage(source, 0, 0, canvas.width, canvas.height);
    this.#image = context.getImageData(0, 0, canvas.width, canvas.height);
  }

  async #answer() {
    const model = this.#models[Number(element("classifier").value)];
    if (!model || !this.#image) return;
    element("answers").replaceChildren(make("li", {}, "Looking …"));
    try {
      const classes = await classify(this.#engine, model, this.#image);
      element("answers").replaceChildren(...classes.map(entry));
    } catch (error) {
      element("answers").replaceChildren();
      this.#problem(error.message);
    }
  }
}

function entry({ label, probability }) {
  const percent = `${(100 * probability).toFixed(1)} %`;
  const fill = make("span", { class: "fill" });
  fill.style.width = percent.replace(" ", "");
  const track = make("div", { class: "track", "aria-hidden": "true" }, fill);
  const figure = make("span", { class: "figure" }, percent);
  return make("li", { class: "row" }, make("span", { class: "name" }, label), figure, track);
}
