const data = JSON.parse(document.getElementById("data").textContent), { head, labels } = data;
const SVG = document.querySelector("svg").namespaceURI;
const $ = (id) => document.getElementById(id);

// ---- making elements: text goes in as text, never as markup, for names and reasons are anybody's ----

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {}))
    if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  element.append(...children.filter((child) => child !== null));
  return element;
}
const make = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const draw = (svg, tag, attributes, ...children) =>
  svg.appendChild(fill(document.createElementNS(SVG, tag), attributes, children));
const set = (id, ...children) => $(id).replaceChildren(...children.filter((child) => child !== null));
const fact = (name, ...values) => make("div", {}, make("dt", {}, name), make("dd", {}, ...values));
const key = (kind, text) => make("span", { class: "entry" }, make("span", { class: "key " + kind }), text);

// ---- numbers ----

const minus = (text) => text.replace("-", "\u2212");
function fixed(x, digits) {
  if (x === null || x === undefined) return "\u2013";
  if (x === 0) return "0";
  const least = 10 ** -digits;
  return x > 0 && x < least / 2 ? "<" + least.toFixed(digits) : minus(x.toFixed(digits));
}
function short(x) {
  if (x === null || x === undefined) return "\u2013";
  return minus(x !== 0 && Math.abs(x) < 1e-4 ? x.toExponential(1) : String(Number(x.toPrecision(3))));
}
function count(x) {
  return x.toLocaleString("en-US", { maximumFractionDigits: Number.isInteger(x) || x >= 1000 ? 0 : x >= 10 ? 1 : 2 });
}
const plural = (n, word) => count(n) + " " + word + (n === 1 ? "" : "s");
const interval = (rate, digits, by = 1) =>
  rate ? fixed(rate[1] * by, digits) + "\u2009\u2013\u2009" + fixed(rate[2] * by, digits) : "";

// ---- plots ----

const BOX = { left: 64, right: 428, top: 10, bottom: 254 };

function scale(low, high, from, to, log) {
  const f = log ? Math.log10 : (v) => v, a = f(low), b = f(high);
  return Object.assign((v) => from + ((f(Math.min(high, Math.max(low, v))) - a) / (b - a)) * (to - from), { low, high, log });
}
function ticks({ low, high, log }) {
  const found = [];
  if (log) {
    const first = Math.ceil(Math.log10(low) - 1e-9), last = Math.floor(Math.log10(high) + 1e-9);
    const step = Math.ceil((last - first) / 6) || 1;
    for (let e = last; e >= first; e -= step) found.push(10 ** e);
    return found;
  }
  const rough = (high - low) / 6, base = 10 ** Math.floor(Math.log10(rough));
  const step = base * [1, 2, 5, 10].find((m) => m * base >= rough);
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) found.push(i * step);
  return found;
}
function tickText(v, log) {
  if (!log) return minus(String(Number(v.toPrecision(6))));
  const e = Math.round(Math.log10(v));
  if (e < -3) return "1e\u2212" + -e;
  return e >= 9 ? "1e" + e : e >= 6 ? 10 ** (e - 6) + "M" : e >= 3 ? 10 ** (e - 3) + "k" : String(Number(v.toPrecision(1)));
}
function axes(svg, x, y, xTitle, yTitle, whole) {
  svg.replaceChildren();
  const { left, right, top, bottom } = BOX;
  for (const v of ticks(x).filter((v) => !whole || Number.isInteger(v))) {
    draw(svg, "line", { class: "grid", x1: x(v), x2: x(v), y1: top, y2: bottom });
    draw(svg, "text", { x: x(v), y: bottom + 18, "text-anchor": "middle" }, tickText(v, x.log));
  }
  for (const v of ticks(y)) {
    draw(svg, "line", { class: "grid", x1: left, x2: right, y1: y(v), y2: y(v) });
    draw(svg, "text", { x: left - 6, y: y(v) + 4, "text-anchor": "end" }, tickText(v, y.log));
  }
  draw(svg, "text", { class: "title", x: (left + right) / 2, y: bottom + 38, "text-anchor": "middle" }, xTitle);
  const middle = (top + bottom) / 2;
  draw(svg, "text", { class: "title", x: 12, y: middle, "text-anchor": "middle", transform: `rotate(-90 12 ${middle})` }, yTitle);
}
const xScale = (low, high, log) => scale(low, high, BOX.left, BOX.right, log);
const yScale = (low, high, log) => scale(low, high, BOX.bottom, BOX.top, log);
const line = (svg, kind, x1, y1, x2, y2) => draw(svg, "line", { class: kind, x1, y1, x2, y2 });
const upright = (svg, kind, x) => line(svg, kind, x, BOX.top, x, BOX.bottom);
const path = (points) => "M" + points.map(([x, y]) => x.toFixed(1) + " " + y.toFixed(1)).join("L");

// Precision over recall in steps, as the average precision counts: between two cuts there is nothing, and a slanted line
// would flatter. `points` are [recall, precision] from the highest cut down. Returns the scales.
function precisionRecall(svg, points, prevalence, log, dots) {
  const least = Math.min(prevalence || 1, ...points.map(([, precision]) => precision).filter((p) => p > 0));
  const x = xScale(0, 1), y = log ? yScale(10 ** Math.min(-1, Math.floor(Math.log10(least))), 1, true) : yScale(0, 1);
  axes(svg, x, y, "recall", log ? "precision (log scale)" : "precision");
  line(svg, "reference", x(0), y(prevalence), x(1), y(prevalence));
  const steps = points.flatMap(([recall, precision], i) => [[x(i ? points[i - 1][0] : 0), y(precision)], [x(recall), y(precision)]]);
  draw(svg, "path", { class: "curve", d: path(steps) });
  if (dots) for (const [recall, precision] of points) draw(svg, "circle", { class: "dot", cx: x(recall), cy: y(precision), r: 2 });
  return { x, y };
}

// Observed rate over predicted probability, a set of bins after the other: [bins, class of dots, class of bars].
// A bin is [predicted, observed, low, high, rows, positives]. Returns the scales.
function reliabilityOf(svg, sets, xTitle) {
  const bins = sets.flatMap(([each]) => each);
  const shown = bins.flatMap(([predicted, observed, , high]) => [predicted, observed, high]).filter((v) => v > 1e-8);
  const low = Math.max(1e-8, 10 ** Math.floor(Math.log10(Math.min(0.1, ...shown)) + 1e-9));
  const x = xScale(low, 1, true), y = yScale(low, 1, true);
  axes(svg, x, y, xTitle, "observed rate (log scale)");
  line(svg, "reference", x(low), y(low), x(1), y(1));
  const dots = draw(svg, "g", {});
  for (const [each, kind, bar] of sets)
    for (const [predicted, observed, low95, high95, rows, positives] of each) {
      line(dots, bar, x(predicted), y(low95), x(predicted), y(high95));
      const dot = draw(dots, "circle", { class: kind, cx: x(predicted), cy: y(observed), r: 3.6 });
      draw(dot, "title", {}, `${count(positives)} of ${plural(rows, "row")}: predicted ${short(predicted)}, observed ` +
        `${short(observed)} (${short(low95)} to ${short(high95)})`);
    }
  return { x, y, low, dots, none: bins.some(([, observed]) => observed === 0) };
}
