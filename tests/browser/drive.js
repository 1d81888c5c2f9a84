// Drives Chromium for test_browser.py: reads a command in JSON from each line, writes its result.

import readline from "node:readline";
import { chromium } from "playwright-core";

const ARGUMENTS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];
const SECONDS = 60;
const state = { browser: null, page: null, errors: [] };

const commands = {
  async launch({ executable, options = [] }) {
    await state.browser?.close();
    const args = [...ARGUMENTS, ...options];
    state.browser = await chromium.launch({ executablePath: executable, args });
    return state.browser.version();
  },
  async open({ url, width = 1280, height = 900, script = "", ...settings }) {
    await state.page?.context().close();
    const viewport = { width, height };
    const context = await state.browser.newContext({
      viewport,
      ignoreHTTPSErrors: true,
      ...settings,
    });
    await context.addInitScript(script);
    state.page = await context.newPage();
    state.page.setDefaultTimeout(SECONDS * 1000);
    state.errors = [];
    state.page.on("pageerror", (error) => state.errors.push(error.message));
    state.page.on("console", (message) => {
      // Chromium reports what the content security policy blocks as an error.
      if (message.type() === "error") state.errors.push(message.text());
    });
    await state.page.goto(url);
  },
  evaluate: ({ source, value }) =>
    state.page.evaluate(`(${source})(${JSON.stringify(value ?? null)})`),
  // Not `waitForFunction`, which the page's content security policy forbids.
  async wait({ source }) {
    for (const end = Date.now() + SECONDS * 1000; Date.now() < end; ) {
      // The page may be loading again.
      if (await state.page.evaluate(`(${source})()`).catch(() => false)) return;
      await new Promise((go) => setTimeout(go, 50));
    }
    throw new Error(`${source} was not true within ${SECONDS} s`);
  },
  click: ({ selector }) => state.page.click(selector),
  fill: ({ selector, text }) => state.page.fill(selector, text),
  check: ({ selector, on }) => state.page.setChecked(selector, on),
  files: ({ selector, paths }) => state.page.setInputFiles(selector, paths),
  text: ({ selector }) => state.page.innerText(selector),
  async close() {
    await state.page?.context().close();
    state.page = null;
  },
  async screenshot({ path, whole = true }) {
    if (whole) {
      const height = await state.page.evaluate("document.documentElement.scrollHeight");
      await state.page.setViewportSize({ width: state.page.viewportSize().width, height });
    }
    await state.page.screenshot({ path });
  },
  errors: () => state.errors,
};

for await (const line of readline.createInterface({ input: process.stdin })) {
  const { command, ...values } = JSON.parse(line);
  let answer;
  try {
    answer = { result: (await commands[command](values)) ?? null };
  } catch (error) {
    answer = { error: error.message };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
await state.browser?.close();
