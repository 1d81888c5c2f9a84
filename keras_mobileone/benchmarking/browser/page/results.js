// Shows a result: a chart with the spread of the rounds, a table, warnings, conditions.

import { element, list, make } from "./elements.js";

const number = (value) => value.toFixed(value < 100 ? 2 : 0);

/** Shows a result in its card. */
export function showResult(result, { tolerance, slowed }) {
  element("result-card").hidden = false;
  list("warnings", warningsOf(result, { tolerance, slowed }));
  list(
    "failures",
    result.failures.map(({ path, message }) => `Not measured: ${path}. ${message}`),
  );
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
    found.push(`${wanted} threads were wanted, and ${ran} ran, because ${conditions.threads_reason}.`);
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

/** A bar of the median, a line to p90, and a point for each round's median. */
function bar(latency, { latencies }) {
  const longest = Math.max(...latencies.flatMap((one) => [one.p90, ...one.medians]));
  const share = (value) => `${(100 * value) / longest}%`;
  const track = make("div", { class: "track", "aria-hidden": "true" });
  const parts = [
    ["fill", "width", latency.median],
    ["spread", "width", latency.p90],
    ...latency.medians.map((value) => ["dot", "left", value]),
  ];
  for (const [kind, property, value] of parts) {
    const part = make("span", { class: kind });
    part.style[property] = share(value);
    track.append(part);
  }
  const figure = make("span", { class: "figure" }, `${number(latency.median)} ms`);
  return make("div", { class: "row" }, make("span", { class: "name" }, latency.path), figure, track);
}

const COLUMNS = [
  ["File", (one) => one.path],
  ["ms", (one) => number(one.median)],
  ["Ratio", (one, ratio) => ratio.toFixed(2)],
  ["p90", (one) => number(one.p90)],
  ["Fastest", (one) => number(one.minimum), "wide"],
  ["First", (one, ratio, how) => number(how.first_inference), "wide"],
  ["Load", (one) => number(one.initialization), "wide"],
  ["MB", (one) => (one.bytes / 1e6).toFixed(2), "wide"],
];

function tableOf({ latencies, ratios, conditions }) {
  const caption = "Milliseconds of an inference. Ratio: time over that of the first file.";
  const head = COLUMNS.map(([title, , kind]) => make("th", { scope: "col", class: kind }, title));
  const rows = latencies.map((latency, index) => {
    const how = conditions.configurations[latency.path];
    const cells = COLUMNS.map(([, text, kind], place) =>
      place === 0
        ? make("th", { scope: "row" }, text(latency), details(latency, how))
        : make("td", { class: kind }, text(latency, ratios[index], how)),
    );
    return make("tr", {}, ...cells);
  });
  return [
    make("caption", {}, caption),
    make("thead", {}, make("tr", {}, ...head)),
    make("tbody", {}, ...rows),
  ];
}

/** What a narrow screen shows below the name in place of columns. */
function details(latency, how) {
  const text =
    `fastest ${number(latency.minimum)} · first ${number(how.first_inference)} · ` +
    `load ${number(latency.initialization)} · ${(latency.bytes / 1e6).toFixed(2)} MB`;
  return make("span", { class: "narrow" }, text);
}

function conditionsOf(conditions) {
  return Object.entries(conditions)
    .filter(([, value]) => value !== null && (typeof value !== "object" || Array.isArray(value)))
    .flatMap(([name, value]) => [
      make("dt", {}, name.replaceAll("_", " ")),
      make("dd", {}, Array.isArray(value) ? value.join(", ") || "–" : String(value)),
    ]);
}
