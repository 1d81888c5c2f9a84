// Where results go: to the computer that serves the page, to a file, to another app.

const TYPE = "application/json";
const ALIVE = 5000; // milliseconds between two signs of life

/** Tells the computer what the page does; does nothing for a page that a static server hosts. */
export class Channel {
  #config;
  #timer = null;

  constructor(config) {
    this.#config = config;
    if (!config.state) return;
    this.#post({ name: "opened" });
    addEventListener("pagehide", () => {
      navigator.sendBeacon(config.state, blob(JSON.stringify({ name: "closed" })));
    });
    addEventListener("pageshow", (event) => event.persisted && this.#post({ name: "opened" }));
  }

  /** Whether there is a computer that waits for the result. */
  get listens() {
    return Boolean(this.#config.result);
  }

  /** Begins to give signs of life. */
  start() {
    if (this.#config.state) this.#timer = setInterval(() => this.#post({ name: "alive" }), ALIVE);
  }

  progress(done, total) {
    this.#post({ name: "running", done, total });
  }

  /** Ends the signs of life of a measurement that has no result. */
  stop() {
    clearInterval(this.#timer);
    this.#post({ name: "opened" });
  }

  /** Sends a result and returns a sentence for the user. */
  async send(text) {
    clearInterval(this.#timer);
    const lost = "The result is only here. Download or share it.";
    try {
      const answer = await fetch(this.#config.result, {
        method: "POST",
        headers: { "Content-Type": TYPE },
        body: text,
      });
      if (answer.ok) return "The computer has the result, and its command has ended.";
      const reason = await answer.text();
      return `The computer refused the result: ${reason || `answer ${answer.status}.`} ${lost}`;
    } catch {
      return `The computer does not answer any more. ${lost}`;
    }
  }

  #post(state) {
    if (!this.#config.state) return;
    // A lost sign of life does not matter; the result is sent by itself.
    fetch(this.#config.state, {
      method: "POST",
      headers: { "Content-Type": TYPE },
      body: JSON.stringify(state),
    }).catch(() => {});
  }
}

function blob(text) {
  return new Blob([text], { type: TYPE });
}

/** Returns the JSON of a result as `Benchmark.save` writes it. */
export function textOf(result) {
  return `${JSON.stringify(result, null, 2)}\n`;
}

/** Lets the browser save a result. */
export function download(text, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob(text));
  link.download = name;
  link.click();
  // Some browsers fetch the content a little later.
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** Whether the browser can hand a result to another app. */
export function canShare(text, name) {
  return navigator.canShare?.({ files: [asFile(text, name)] }) === true;
}

/** Hands a result to another app; returns a sentence if that failed. */
export async function share(text, name) {
  try {
    await navigator.share({ files: [asFile(text, name)], title: "Latency of TFLite files" });
    return "";
  } catch (error) {
    // The user has closed the dialog.
    return error.name === "AbortError" ? "" : "Sharing failed. Download the result instead.";
  }
}

function asFile(text, name) {
  // Chromium shares text files, but not those that are called .json.
  return new File([text], `${name}.txt`, { type: "text/plain" });
}
