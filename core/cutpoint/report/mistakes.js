// ---- the worst mistakes: rows with what is unusual in them, sequences drawn ----

const WIDE = { left: 46, right: 872, signalTop: 8, signalBottom: 92, top: 106, bottom: 196, height: 226 };

function showMistakes(label, sequences) {
  const { kind, missed, false: alarms } = label.mistakes, unit = kind === "rows" ? "row" : "window";
  const parts = [
    [`Positives that score lowest`, missed, `no positive ${unit}s`],
    [`Negatives that score highest`, alarms, `no negative ${unit}s`],
  ].map(([title, found, none]) => make("section", {}, make("h3", {}, title), ...(found.length
    ? kind === "rows" ? [rowTable(found)] : found.map((each) => sequenceFigure(each, label, sequences[each.row]))
    : [make("p", { class: "muted" }, none)])));
  $("mistakes").className = kind;
  set("mistakes", ...parts, kind === "rows" ? null : make("p", { class: "muted" }, key("truth", "true windows"),
    key("unknown", "windows not labelled"), key("mistaken", "the window meant"), "dashed: the cut"));
}

function rowTable(found) {
  const grouped = found.some((each) => each.group !== undefined), featured = found.some((each) => each.features);
  const head = ["row", grouped ? "group" : null, "score (logit)", "probability", featured ? "farthest from the training mean (in deviations)" : null];
  const rows = found.map((each) => make("tr", {}, make("td", {}, String(each.row)), grouped ? make("td", {}, each.group) : null,
    make("td", {}, fixed(each.score, 2)), make("td", {}, short(each.p)),
    featured ? make("td", { class: "left why" }, ...each.features.map(([i, value, far]) =>
      make("span", { class: "entry" }, `x[${i}] ${short(value)} `, make("small", {}, `(${far > 0 ? "+" : ""}${minus(String(far))})`)))) : null));
  return make("div", { class: "scroll" }, make("table", {},
    make("thead", {}, make("tr", {}, ...head.filter((name) => name !== null).map((name, i, all) =>
      make("th", { scope: "col", class: featured && i === all.length - 1 ? "left" : "" }, name)))),
    make("tbody", {}, ...rows)));
}

function sequenceFigure(each, label, signal) {
  const svg = document.createElementNS(SVG, "svg"), n = each.scores.length, box = WIDE;
  const shift = signal ? 0 : box.top - 8;  // without a signal the scores move up
  svg.setAttribute("viewBox", `0 0 880 ${box.height - shift}`);
  svg.setAttribute("role", "img");
  svg.setAttribute("class", "wide");
  const x = scale(0, n, box.left, box.right), finite = each.scores.filter((s) => Number.isFinite(s));
  const low = Math.min(...finite, label.cut ?? Infinity), high = Math.max(...finite, label.cut ?? -Infinity, low + 1);
  const y = scale(low - 0.06 * (high - low), high + 0.06 * (high - low), box.bottom - shift, box.top - shift);
  const top = signal ? box.signalTop : box.top - shift;
  for (const [windows, kind] of [[each.true, "truth"], [each.unknown, "unknown"]])
    for (const [from, to] of runs(windows))
      draw(svg, "rect", { class: kind, x: x(from), width: x(to + 1) - x(from), y: top, height: y(y.low) - top });
  draw(svg, "rect", { class: "mistaken", x: x(each.window), width: x(each.window + 1) - x(each.window), y: top - 3, height: y(y.low) - top + 6 });
  if (signal) {
    const bytes = Uint8Array.from(atob(signal.columns), (c) => c.charCodeAt(0)), m = bytes.length / 2;
    const at = scale(0, m, box.left, box.right), v = scale(0, 255, box.signalBottom, box.signalTop);
    const ends = (offset, order) => order.map((i) => [at(i + 0.5), v(bytes[offset + i])]);
    const forth = Array.from({ length: m }, (_, i) => i);
    draw(svg, "path", { class: "signal", d: path([...ends(m, forth), ...ends(0, forth.slice().reverse())]) + "Z" });
    for (const [value, level] of [[signal.top, 255], [signal.bottom, 0]])
      draw(svg, "text", { x: box.left - 5, y: v(level) + 4, "text-anchor": "end" }, short(value));
  }
  const rough = (high - low) / 4, base = 10 ** Math.floor(Math.log10(rough)), step = base * [1, 2, 5, 10].find((k) => k * base >= rough);
  for (let t = Math.ceil(low / step) * step; t <= high + 1e-9; t += step) {
    draw(svg, "line", { class: "grid", x1: box.left, x2: box.right, y1: y(t), y2: y(t) });
    draw(svg, "text", { x: box.left - 5, y: y(t) + 4, "text-anchor": "end" }, tickText(t));
  }
  if (label.cut !== null) draw(svg, "line", { class: "cutline", x1: box.left, x2: box.right, y1: y(label.cut), y2: y(label.cut) });
  draw(svg, "path", { class: "curve", d: path(each.scores.flatMap((s, i) => [[x(i), y(s)], [x(i + 1), y(s)]])) });
  for (const t of ticks(scale(0, n, 0, 1)).filter((v) => Number.isInteger(v)))
    draw(svg, "text", { x: x(t), y: y(y.low) + 16, "text-anchor": "middle" }, String(t));
  svg.setAttribute("aria-label", `Sequence ${each.row}: the score of each of ${plural(n, "window")}; window ${each.window} scores ` +
    `${fixed(each.score, 2)}; true windows: ${each.true.join(", ") || "none"}.`);
  const title = `Sequence ${each.row}${each.group === undefined ? "" : `, group ${each.group}`}`;
  const notes = signal ? [signal.log ? "log |x|" : "", signal.channels > 1 ? `channel 1 of ${signal.channels}` : ""].filter(Boolean).join(", ") : "";
  const above = signal ? `above the signal${notes && ` (${notes})`}; below ` : "";
  return make("figure", {}, make("header", {}, make("span", {}, make("b", {}, title), `: window ${each.window} scores ${fixed(each.score, 2)}, probability ${short(each.p)}`),
    make("span", { class: "muted" }, above + "the score (logit) of every window")), svg);
}

function runs(windows) {  // [first, last] of neighbours
  const found = [];
  for (const w of windows) {
    if (found.length && found[found.length - 1][1] === w - 1) found[found.length - 1][1] = w;
    else found.push([w, w]);
  }
  return found;
}

