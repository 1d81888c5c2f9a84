// What the browser tells of itself and its device, and what disturbs a measurement.

/** Counts how often the page was hidden, and keeps the screen on while something is measured. */
export class Attention {
  absences = document.hidden ? 1 : 0;
  #lock = null;
  #awake = false;

  constructor() {
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) this.absences++;
      else if (this.#awake) this.keepAwake(); // the browser has released the lock
    });
  }

  /** Waits until the page is in front. */
  async visible() {
    while (document.hidden) {
      await new Promise((go) => {
        document.addEventListener("visibilitychange", go, { once: true });
      });
    }
  }

  async keepAwake() {
    this.#awake = true;
    try {
      this.#lock = (await navigator.wakeLock?.request("screen")) ?? null;
    } catch {
      this.#lock = null; // a phone that saves power refuses it
    }
  }

  release() {
    this.#awake = false;
    this.#lock?.release();
    this.#lock = null;
  }
}

/** Returns the conditions that a result records beside those of the protocol. */
export async function browserConditions(environment, runtime, reason) {
  const agent = navigator.userAgentData;
  let details = {};
  try {
    details =
      (await agent?.getHighEntropyValues(["model", "platformVersion", "architecture"])) ?? {};
  } catch {
    // The browser keeps them to itself.
  }
  const system = [agent?.platform ?? navigator.platform, details.platformVersion].filter(Boolean);
  return {
    target: "browser",
    runtime,
    browser: browserName(agent) ?? navigator.userAgent,
    user_agent: navigator.userAgent,
    system: system.join(" "),
    model: details.model || null,
    architecture: details.architecture || null,
    cores: environment.cores,
    memory_gib: navigator.deviceMemory ?? null,
    secure: environment.secure,
    isolated: environment.isolated,
    relaxed_simd: environment.relaxed,
    threads_reason: reason,
    timer_ms: timerStep(),
    time: new Date().toISOString(),
  };
}

function browserName(agent) {
  // Chromium adds a brand of nonsense, so that nobody relies on the list.
  const brands = agent?.brands.filter(({ brand }) => !/not.*brand/i.test(brand)) ?? [];
  const found = brands.find(({ brand }) => brand !== "Chromium") ?? brands[0];
  return found ? `${found.brand} ${found.version}` : null;
}

/** Returns the smallest step of the timer in milliseconds; browsers coarsen it. */
export function timerStep(now = () => performance.now()) {
  let step = Infinity;
  let last = now();
  for (let found = 0, looks = 0; found < 50 && looks < 1e6; looks++) {
    const time = now();
    if (time > last) {
      step = Math.min(step, time - last);
      last = time;
      found++;
    }
  }
  return Number.isFinite(step) ? Number(step.toPrecision(3)) : null;
}
