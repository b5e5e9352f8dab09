// ---- one label ----

const { training, exported, sequences } = data;
const units = head.windows ? "windows" : "rows";
let label = labels[0];

const spread = (value, digits) => value === null || value === undefined ? "\u2013"
  : value[1] === null ? fixed(value[0], digits) : make("span", {}, fixed(value[0], digits), make("small", {}, " " + interval(value, digits)));
const skillOf = (each, name) => (each.reliability.find((set) => set.name === name) || { skill: null }).skill;
const shown = (value) => Array.isArray(value) ? `[${value.map(shown).join(", ")}]` : value !== null && typeof value === "object"
  ? Object.entries(value).map(([name, inner]) => `${name} ${shown(inner)}`).join(", ") : typeof value === "number" ? short(value) : String(value);

function fillTable(id, columns, rows) {
  const table = $(id);
  table.tHead.replaceChildren(make("tr", {}, ...columns.map((name) => make("th", { scope: "col" }, name))));
  table.tBodies[0].replaceChildren(...rows.map(([first, ...cells]) => make("tr", {}, make("th", { scope: "row" }, first), ...cells.map((cell) => make("td", {}, cell)))));
}

function showLabel() {
  set("name", label.name);
  $("label-status").className = "status " + (label.status || "");
  set("label-status", label.status || "");
  set("objective", label.objective || "not calibrated: no cut, no decisions");
  $("reason").hidden = !label.reason;
  set("reason", label.reason);
  set("facts",
    fact("average precision", spread(label.ap, 3)), fact(`on ${head.split}`, `${count(label.positives)} of ${plural(label.positives + label.negatives, units.slice(0, -1))} positive`),
    fact("prevalence", short(label.prevalence)),
    label.ap === null || !label.prevalence ? null : fact("AP over prevalence", `${short(label.ap[0] / label.prevalence)} times`),
    label.cut === null ? null : fact("cut", `${fixed(label.cut, 3)} (logit), at probability ${short(label.p)}`));
  const gaps = label.splits.some(([, , , , unknown]) => unknown), kept = (_, i) => gaps || i !== 4;
  fillTable("splits", ["split", head.windows ? "sequences" : "rows", "positives", "negatives", "unknown", "prevalence"].filter(kept),
    label.splits.map(([name, rows, positives, negatives, unknown]) => [name, count(rows), count(positives), count(negatives), count(unknown),
      short(positives + negatives ? positives / (positives + negatives) : null)].filter(kept)));
  const { expected, observed, prior } = label, names = { precision: 3, recall: 3, fpr: 5, alert_rate: 5 };
  $("at-cut").hidden = !expected;
  if (expected) fillTable("cut-rates", ["rate", "expected", `on ${head.split}`], Object.entries(names).map(([name, digits]) =>
    [name === "fpr" ? "FPR" : name.replace("_", " "), spread(expected[name], digits), spread(observed && observed[name], digits)]));
  $("prior").hidden = !prior;
  if (prior) set("prior-facts", fact("rate", short(prior.rate)), fact("as sampled", short(prior.sampled_rate)), fact("weight of a positive", short(prior.weight)),
    fact("shift undone", `${short(prior.shift)} log-odds${prior.slope === 1 ? "" : `, slope ${short(prior.slope)}`} (${prior.undone.replace("_", " ")})`));
  showPlots();
  showMistakes(label, sequences);
}

function showPlots() {
  $("curve").hidden = !label.curve.length;
  if (label.curve.length) {
    const svg = $("curve").querySelector("svg"), { x, y } = precisionRecall(svg, label.curve, label.prevalence, $("log").checked, label.positives <= 40);
    for (const [rates, kind] of [[label.expected, "chosen"], [label.observed, "now"]]) {
      if (!rates || !rates.precision || !rates.recall) continue;
      const [p, pLow, pHigh] = rates.precision, [r, rLow, rHigh] = rates.recall;
      if (kind === "chosen") {
        line(svg, "interval", x(r), y(pLow), x(r), y(pHigh));
        line(svg, "interval", x(rLow), y(p), x(rHigh), y(p));
      }
      draw(svg, "circle", { class: kind, cx: x(r), cy: y(p), r: kind === "chosen" ? 6 : 4.5 });
    }
    set("curve-key", `Dashed: prevalence ${short(label.prevalence)}, where random scores would be. `,
      label.observed ? make("span", {}, key("now round", "at the cut here"), key("chosen round", "as the policy expects, 95 %")) : null);
    svg.setAttribute("aria-label", `Precision-recall curve of ${label.name}, average precision ${fixed(label.ap[0], 3)}, prevalence ${short(label.prevalence)}.`);
  }
  const kinds = { "training logits": ["before", "before"], exported: ["dot", "bar"], calibrated: ["after", "afterbar"] };
  const words = { "training logits": "training logits as they are", exported: "exported, prior undone", calibrated: `calibrated (${label.calibrator})` };
  const sets = label.reliability.filter((each) => each.bins.length);
  $("reliability").hidden = !label.positives || !sets.length;
  if ($("reliability").hidden) return;
  const svg = $("reliability").querySelector("svg");
  const { none } = reliabilityOf(svg, sets.map(({ name, bins }) => [bins, ...kinds[name]]), "predicted probability (log scale)");
  set("reliability-key", ...sets.map(({ name, skill }) => key(kinds[name][0] + " round", `${words[name]}: skill ${fixed(skill, 3)}`)),
    "Skill: log loss against always answering the prevalence; 1 is perfect, below 0 worse than that." + (none ? " On the lower edge: none observed." : ""));
  svg.setAttribute("aria-label", `Reliability of ${label.name}: ` + sets.map(({ name, bins }) =>
    `${words[name]}: ` + bins.map(([p, o]) => `predicted ${short(p)} observed ${short(o)}`).join("; ")).join(". "));
}

// ---- all labels ----

const first = (value) => (value ? value[0] : null);
const rate = (name, by = 1) => (each) => (each.observed && each.observed[name] ? each.observed[name][0] * by : null);
const COLUMNS = [
  ["label", (each) => each.name, String, true],
  ["status", (each) => each.status, String, true],
  ["positives in train", (each) => (each.splits.find(([name]) => name === "train") || [])[2] ?? null, count],
  [`in ${head.split}`, (each) => each.positives, count],
  ["prevalence", (each) => each.prevalence, short],
  ["AP", (each) => first(each.ap), (v) => fixed(v, 3)],
  ["95 %", (each) => (each.ap && each.ap[1] !== null ? each.ap[2] - each.ap[1] : null), null],
  ["skill, training logits", (each) => skillOf(each, "training logits"), (v) => fixed(v, 3)],
  ["skill, exported", (each) => skillOf(each, "exported"), (v) => fixed(v, 3)],
  ["precision", rate("precision"), (v) => fixed(v, 3)],
  ["recall", rate("recall"), (v) => fixed(v, 3)],
  [`alerts per 1000 ${units}`, rate("alert_rate", 1000), (v) => fixed(v, 2)],
].filter(([name, value]) => labels.some((each) => value(each) !== null));
COLUMNS.forEach((column) => { if (column[2] === null) column[2] = (_, each) => interval(each.ap, 2); });
const sorting = { column: COLUMNS.findIndex(([name]) => name === "AP") < 0 ? 0 : COLUMNS.findIndex(([name]) => name === "AP"), down: false };

// ---- training and export ----

// A line over the epochs, the kept one marked.
function learningCurve(title, history, column, kept) {
  const svg = document.createElementNS(SVG, "svg"), values = history.map((epoch) => epoch[column]), known = values.filter((v) => v !== null);
  svg.setAttribute("viewBox", "0 0 440 300");
  svg.setAttribute("role", "img");
  const low = Math.min(...known), high = Math.max(...known), log = low > 0 && high / low > 30, room = (high - low || Math.abs(high) || 1) * 0.06;
  const x = xScale(1, Math.max(2, history.length)), y = log ? yScale(low / 1.2, high * 1.2, true) : yScale(low - room, high + room);
  axes(svg, x, y, "epoch", log ? title + " (log scale)" : title, true);
  upright(svg, "nowline", x(kept));
  const points = history.flatMap((epoch, i) => (values[i] === null ? [] : [[x(epoch[0]), y(values[i])]]));
  draw(svg, "path", { class: "curve", d: path(points) });
  if (points.length <= 40) for (const [cx, cy] of points) draw(svg, "circle", { class: "dot", cx, cy, r: 2.4 });
  const best = values[kept - 1];
  svg.setAttribute("aria-label", `${title} over ${plural(history.length, "epoch")}: first ${short(values[0])}, kept ${short(best)}, last ${short(values.at(-1))}.`);
  return make("figure", {}, make("header", {}, make("h3", {}, title), make("span", { class: "muted" }, `${short(best)} at the epoch kept`)), svg);
}

function showTraining() {
  $("training").hidden = !training;
  if (!training) return;
  const { loss, sampler, model, fit, split, history, kept } = training, { name, ...parameters } = loss, { kind, ...sizes } = model;
  set("training-facts",
    fact("loss", name + (Object.keys(parameters).length ? `: ${shown(parameters)}` : "")), fact("sampler", shown(sampler)),
    fact("split", shown(split)), fact("seed", String(training.seed)), fact("model", `${kind}: ${shown(sizes)}`), fact("fit", shown(fit)),
    fact("epochs", `${history.length} run, epoch ${kept} kept`), fact("time", `${short(training.seconds)} s`),
    fact("versions", Object.entries(training.versions).map((pair) => pair.join(" ")).join(", ")),
    fact("data", make("span", { title: training.data_digest }, training.data_digest.slice(0, 12))),
    fact("configuration", make("span", { title: training.config_digest }, training.config_digest.slice(0, 12))));
  set("learning", learningCurve("training loss", history, 1, kept), learningCurve("validation AP", history, 2, kept),
    learningCurve("validation log loss", history, 3, kept));
}

function showExported() {
  $("exported").hidden = !exported;
  if (!exported) return;
  const { parity, cost } = exported;
  set("exported-facts",
    fact("origin", exported.origin), fact("created", exported.created.replace("T", " ").replace("+00:00", " UTC")),
    fact("ONNX", `opset ${exported.opset}, IR ${exported.ir}, ${count(exported.bytes / 1024)} KiB`),
    fact("input", `float32 [${exported.input.map((n) => (n < 0 ? "any" : n)).join(", ")}]`), fact("preprocessing", exported.preprocessing),
    fact("precision", exported.precision),
    fact("parity", `logits at most ${short(parity.max_abs_difference)} from their source (allowed ${short(parity.tolerance)}), ` +
      `${plural(parity.rows, "row")} in batches of ${parity.batch_sizes.join(", ")}`),
    exported.digest ? fact("SHA-256", make("span", { title: exported.digest }, exported.digest.slice(0, 12))) : null);
  $("cost").hidden = !cost;
  if (!cost) return;
  const lost = (value, { low, high }) => `${fixed(value, 4)}${low === null ? "" : ` (${fixed(low, 4)} to ${fixed(high, 4)})`}`;
  set("cost", make("h3", {}, `What ${exported.precision} costs, on ${plural(cost.rows, "row")}: AP ${lost(cost.loss, cost)}; logits at most ` +
    `${short(cost.max_abs_difference)} from fp32`),
    make("table", {}, make("thead", {}, make("tr", {}, ...["label", "AP", "AP of fp32", "lost (95 %)"].map((name) => make("th", { scope: "col" }, name)))),
      make("tbody", {}, ...cost.labels.map((each) => make("tr", {}, make("th", { scope: "row" }, each.label), make("td", {}, fixed(each.average_precision, 4)),
        make("td", {}, fixed(each.reference, 4)), make("td", {}, lost(each.reference - each.average_precision, each)))))));
}

function showHead() {
  set("model", head.model);
  set("head",
    fact("task", `${head.task}, ${plural(labels.length, "label")}`),
    labels.length > 1 && head.mean_ap ? fact("mean AP", spread(head.mean_ap, 3)) : null,
    fact(`judged on split ${head.split}`, plural(head.rows, head.windows ? "sequence" : "row") + (head.windows ? ` of ${plural(head.windows, "window")}` : "") +
      (head.groups ? ` in ${plural(head.groups, "group")}` : "")),
    fact("data", head.data),
    head.policy ? fact("policy", `${head.policy.version}, of ${head.policy.created.slice(0, 10)}, by ${head.policy.author}`) : fact("policy", "none: not calibrated"),
    training ? fact("valid AP", `${fixed(training.valid_ap, 3)} at epoch ${training.kept}`) : null);
  set("notes", ...(training ? training.notes : []).map((note) => make("p", { class: "note warning" }, note)));
  set("method", `Intervals of AP: 95 %, bootstrap of whole ${head.groups ? "groups" : head.windows ? "sequences" : "rows"}. ` +
    "Those of rates and of reliability: Clopper-Pearson, 95 %, as if " + units + " were independent. " +
    "Worst mistakes by the score of the exported graph; probabilities are the policy\u2019s where there is one.");
  showTraining();
  showExported();
}

$("log").addEventListener("change", showPlots);

