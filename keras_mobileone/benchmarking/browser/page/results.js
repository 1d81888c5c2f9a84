// Shows a result: a chart with the spread of the rounds, a table, warnings, conditions.

import { element, list, make, named } from "./elements.js";

const number = (value) => value.toFixed(value < 100 ? 2 : 0);

/** Shows a result in its card. */
export function showResult(result, { tolerance, slowed }) {
  element("result-card").hidden = false;
  list("warnings", warningsOf(result, { tolerance, slowed }));
  list(
    "failures",
    result.failures.map(({ message }) => `Not measured. ${message}`),
  );
  element("table").hidden = result.latencies.length === 0;
  element("chart").replaceChildren(...result.latencies.map((one) => bar(one, result)));
  element("table").replaceChildren(...tableOf(result));
  element("conditions").replaceChildren(...conditionsOf(result.conditions));
}

/** Returns a sentence for each reason to doubt a result, as app_results.py does. */
export function warningsOf({ latencies, conditions }, { tolerance, slowed }) {
  const found = [];
  for (const { path } of latencies) {
    const how = conditions.configurations[path];
    if (how.ran_on !== how.accelerator) {
      found.push(`${path} did not run on the ${how.accelerator} but on ${how.ran_on}.`);
    }
    if (how.difference !== null && !(how.difference <= tolerance)) {
      const share = how.difference.toPrecision(2);
      found.push(
        `${path} gives wrong outputs on the ${how.accelerator}: they differ from the CPU's by ` +
          `${share} of the largest.`,
      );
    }
  }
  const wanted = Math.max(0, ...conditions.requested_threads);
  const ran = Math.max(0, ...[conditions.threads].flat());
  if (latencies.length && wanted > ran) {
    found.push(
      `${wanted} threads were wanted, and ${ran} ran, because ${conditions.threads_reason}.`,
    );
  }
  if (conditions.drift >= slowed) {
    const factor = conditions.drift.toFixed(2);
    found.push(`The device slowed down: the last round took ${factor} times as long as the first.`);
  }
  if (conditions.repeated_rounds) {
    found.push(`The page was hidden, and ${conditions.repeated_rounds} rounds were repeated.`);
  }
  return found;
}

/** A bar of the median, a line from the fastest run to p90, and a point for each round's median. */
function bar(latency, { latencies, conditions }) {
  const longest = Math.max(...latencies.flatMap((one) => [one.p90, ...one.medians]));
  const share = (value) => `${(100 * value) / longest}%`;
  const track = make("div", { class: "track", "aria-hidden": "true" });
  const draw = (kind, styles) => {
    const part = make("span", { class: kind });
    Object.assign(part.style, styles);
    track.append(part);
  };
  const { minimum, p90 } = latency;
  draw("fill", { width: share(latency.median) });
  draw("spread", { left: share(minimum), width: share(Math.max(p90 - minimum, 0)) });
  for (const value of latency.medians) draw("dot", { left: share(value) });
  const name = make("span", { class: "name" }, ...title(latency, conditions));
  const figure = make("span", { class: "figure" }, `${number(latency.median)} ms`);
  return make("div", { class: "row" }, name, figure, track);
}

/** The name of a row: its file, and how it ran. */
function title({ path }, { configurations }) {
  const { file, accelerator, threads, build } = configurations[path];
  const count = build === "threaded" ? ` · ${threads} threads` : "";
  const way = make("span", { class: "way" }, `${accelerator.toUpperCase()}${count}`);
  return [...named(file), " ", way];
}

const COLUMNS = [
  ["ms", (one) => number(one.median)],
  ["Ratio", (one, ratio) => ratio.toFixed(2)],
  ["p90", (one) => number(one.p90)],
  ["Fastest", (one) => number(one.minimum), "more"],
  ["First", (one, ratio, how) => number(how.first_inference), "more"],
  ["Load", (one) => number(one.initialization), "more"],
  ["MB", (one) => (one.bytes / 1e6).toFixed(2), "more"],
];

function tableOf({ latencies, ratios, conditions }) {
  const caption = "Milliseconds of an inference. Ratio: time over that of the first row.";
  const head = COLUMNS.map(([text, , kind]) => make("th", { scope: "col", class: kind }, text));
  const rows = latencies.map((latency, index) => {
    const how = conditions.configurations[latency.path];
    const cells = COLUMNS.map(([, text, kind]) =>
      make("td", { class: kind }, text(latency, ratios[index], how)),
    );
    const name = [...title(latency, conditions), details(latency, how)];
    return make("tr", {}, make("th", { scope: "row" }, ...name), ...cells);
  });
  const first = make("th", { scope: "col" }, "File");
  return [
    make("caption", {}, caption),
    make("thead", {}, make("tr", {}, first, ...head)),
    make("tbody", {}, ...rows),
  ];
}

/** What a narrow screen shows below the name in place of columns. */
function details(latency, how) {
  const text =
    `fastest ${number(latency.minimum)} · first ${number(how.first_inference)} · ` +
    `load ${number(latency.initialization)} · ${(latency.bytes / 1e6).toFixed(2)} MB`;
  return make("span", { class: "less" }, text);
}

function conditionsOf(conditions) {
  return Object.entries(conditions)
    .filter(([, value]) => value !== null && (typeof value !== "object" || Array.isArray(value)))
    .flatMap(([name, value]) => [
      make("dt", {}, name.replaceAll("_", " ")),
      make("dd", {}, Array.isArray(value) ? value.join(", ") || "–" : String(value)),
    ]);
}
