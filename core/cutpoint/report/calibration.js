const units = "rows";
let label = labels[0];
let at = 0;          // index of the point that the slider shows
let marks = [];      // functions that move the marks of the plots

function ratesAt(i) {
  const { positives, negatives, rows, points } = label, tp = points.tp[i], fp = points.fp[i];
  const share = (part, whole) => (whole > 0 ? Math.min(1, part / whole) : null);
  const known = head.labelled;
  return {
    tp, fp, fn: known ? Math.max(0, positives - tp) : null, alerts: tp + fp,
    precision: known ? share(tp, tp + fp) : null, recall: known ? share(tp, positives) : null,
    fpr: known ? share(fp, negatives) : null, alert_rate: share(tp + fp, rows), cut: points.cut[i],
    p: points.cut[i] === null ? null : points.p[i],
  };
}

// ---- plots ----

function drawCurve() {
  const svg = $("curve").querySelector("svg"), n = label.points.tp.length, prevalence = label.positives / label.rows;
  const rates = Array.from({ length: n }, (_, i) => ratesAt(i)).slice(1);
  const { x, y } = precisionRecall(svg, rates.map((r) => [r.recall, r.precision]), prevalence, $("log").checked, label.positives <= 40);
  const expected = label.expected;
  if (expected && expected.precision && expected.recall) {
    const [p, pLow, pHigh] = expected.precision, [r, rLow, rHigh] = expected.recall;
    line(svg, "interval", x(r), y(pLow), x(r), y(pHigh));
    line(svg, "interval", x(rLow), y(p), x(rHigh), y(p));
    draw(svg, "circle", { class: "chosen", cx: x(r), cy: y(p), r: 6 });
  }
  const now = draw(svg, "circle", { class: "now", r: 4.5 });
  set("curve-key", `AP ${fixed(label.ap, 3)}; dashed: prevalence ${short(prevalence)}, where random scores would be. `,
    expected && expected.recall ? "Bars: 95 % intervals at the chosen cut." : "");
  return (r) => {
    now.style.display = r.precision === null ? "none" : "";
    now.setAttribute("cx", x(r.recall || 0));
    now.setAttribute("cy", y(r.precision || 0));
    svg.setAttribute("aria-label", `Precision-recall curve of ${label.name}, average precision ${fixed(label.ap, 3)}, prevalence ` +
      `${short(prevalence)}. At the cut shown: precision ${fixed(r.precision, 3)}, recall ${fixed(r.recall, 3)}.`);
  };
}

function drawReliability() {
  const svg = $("reliability").querySelector("svg"), after = label.reliability, before = label.uncalibrated;
  const { x, dots, none } = reliabilityOf(svg, [[before, "before", "before"], [after, "dot", "bar"]], "calibrated probability (log scale)");
  const chosen = label.chosen === null ? null : ratesAt(label.chosen).p;
  if (chosen !== null) upright(svg, "chosenline", x(chosen));
  const now = upright(svg, "nowline", 0);
  svg.append(dots);  // over the lines
  const map = label.calibrator.kind === "none" ? "as shifted" : "after " + label.calibrator.kind.replace("_", "-");
  set("reliability-key", key("dot round", before.length ? map : "plain sigmoid"),
    before.length ? key("before round", "before") : null,
    "Bars: 95 % intervals. On the dashed line probabilities are honest." +
    (none ? " On the lower edge: none observed." : ""));
  return (r) => {
    const p = r.p === null ? 1 : r.p;
    now.setAttribute("x1", x(p));
    now.setAttribute("x2", x(p));
    svg.setAttribute("aria-label", `Reliability of ${label.name} in ${after.length} bins: ` +
      after.map(([p, o]) => `predicted ${short(p)} observed ${short(o)}`).join("; ") + `. The cut is at probability ${short(r.p)}.`);
  };
}

function drawHistogram() {
  const svg = $("histogram").querySelector("svg"), bins = label.histogram, { first, width } = bins;
  const all = [...bins.positives, ...bins.negatives].filter((n) => n > 0), n = bins.positives.length;
  const floor = Math.min(1, 10 ** Math.floor(Math.log10(Math.min(...all)))) / 2;
  const x = xScale(first, first + n * width), y = yScale(floor, Math.max(...all, 10) * 1.3, true);
  axes(svg, x, y, "score (logit)", `${units} per bin of ${short(width)} (log scale)`);
  for (const kind of ["negatives", "positives"]) {
    const rows = bins[kind], edge = (i) => x(first + i * width);
    let shape = "", run = [];
    for (let i = 0; i < n; i++) {  // a shape for each run of bins that are not empty
      if (!(rows[i] > 0)) continue;
      if (!run.length) run.push([edge(i), y(floor)]);
      run.push([edge(i), y(rows[i])], [edge(i + 1), y(rows[i])]);
      if (!(rows[i + 1] > 0)) {
        shape += path([...run, [edge(i + 1), y(floor)]]) + "Z";
        run = [];
      }
    }
    if (shape) draw(svg, "path", { class: kind, d: shape });
  }
  if (label.threshold !== null) upright(svg, "chosenline", x(label.threshold));
  const now = upright(svg, "nowline", 0);
  set("histogram-key",
    ...(head.labelled ? [key("negatives", "negatives"), key("positives", "positives")] : [key("negatives", "all " + units)]),
    `Right of the line: alerts.${label.threshold === null ? "" : " Dotted: the chosen cut."}` +
    (bins.outside ? " The outermost bins hold what scores beyond them." : ""));
  return (r) => {
    const cut = r.cut === null ? first + n * width : r.cut;
    now.setAttribute("x1", x(cut));
    now.setAttribute("x2", x(cut));
    svg.setAttribute("aria-label", `Histogram of the scores of ${label.name}, logits ${short(first)} to ` +
      `${short(first + n * width)}; the cut shown is at ${fixed(r.cut, 3)}.`);
  };
}

// ---- one label ----

const GUARANTEED = { recall: "recall at least", precision: "precision at least", fpr: "FPR at most", alert_rate: "alert rate at most" };
const COUNTED = { recall: "positive", fpr: "negative" };

function showLabel() {
  set("name", label.name);
  $("label-status").className = "status " + label.status;
  set("label-status", label.status);
  set("objective", label.objective);
  const needs = label.needs ? ` Needs at least ${count(label.needs.count)} ${label.needs.of}.` : "";
  const undecided = label.threshold === null ? "No cut, so this label decides nothing: " : "";
  $("reason").hidden = !(label.reason || undecided);
  set("reason", undecided + label.reason + (label.reason.includes("at least") ? "" : needs));
  const sure = label.guarantee, map = label.calibrator;
  const of = sure && (sure.unit === "group" ? "group" : COUNTED[sure.rate] || "row");
  set("facts",
    ...(head.labelled
      ? [fact("positives", count(label.positives)), fact("negatives", count(label.negatives)),
         fact("prevalence", short(label.rows ? label.positives / label.rows : null)), fact("average precision", fixed(label.ap, 3))]
      : [fact(units, count(label.rows) + ", no classes known")]),
    fact("cut", label.threshold === null ? "none" : minus(String(Number(label.threshold.toPrecision(9)))) + " (logit)"),
    sure ? fact("guarantee", `${GUARANTEED[sure.rate]} ${sure.bound} for new ${sure.unit}s, but with probability ` +
      `${short(sure.delta)}; decided by ${plural(sure.counted, of)}`) : label.threshold === null ? null : fact("guarantee", "none: the cut fits these data"),
    label.expected ? fact("alert rate", `${short(label.expected.alert_rate[0])} (${interval(label.expected.alert_rate, 5)})`, watchedFrom()) : null,
    fact("calibrator", map.kind === "none" || map.why.startsWith(map.kind) ? map.why || "none: the plain sigmoid"
      : map.kind + (map.why ? ` \u2014 ${map.why}` : ""), map.shift ? `; logits shifted by ${short(-map.shift)} first` : ""));
  const any = label.rows > 0;
  $("explore").hidden = !any;
  for (const id of ["curve", "reliability"]) $(id).hidden = !(any && head.labelled);
  if (!any) {
    set("reason", undecided + (label.reason || `no ${head.labelled ? "labelled " : ""}${units}`));
    $("reason").hidden = false;
    return;
  }
  $("curve").hidden = !(label.positives > 0) || label.points.tp.length < 2;
  $("slider").max = label.points.tp.length - 1;
  $("tick").hidden = label.chosen === null;
  if (label.chosen !== null) {
    const share = label.chosen / Math.max(1, label.points.tp.length - 1);
    $("tick").style.left = `calc(8px + (100% - 16px) * ${share})`;
  }
  drawPlots();
  showChoices();
  moveTo(label.chosen === null ? 0 : label.chosen);
}

// How well the live rate can be watched: what the calibration does not know of it, no traffic tells.
function watchedFrom() {
  const from = label.watched_from, more = `: calibrate on more ${head.groups ? "groups" : units}`;
  if (from === null) return "; CutpointPositiveRateHigh can never fire" + more;
  return from > 2 ? `; CutpointPositiveRateHigh fires only beyond ${fixed(from, 1)} times that` + more : "";
}

function drawPlots() {
  marks = [drawHistogram()];
  if (!$("curve").hidden) marks.push(drawCurve());
  if (!$("reliability").hidden) marks.push(drawReliability());
}

function moveTo(i) {
  at = i;
  $("slider").value = i;
  $("back").disabled = label.chosen === null || i === label.chosen;
  const r = ratesAt(i), own = i === label.chosen && label.expected ? label.expected : {};
  const cell = (name, value, more) => make("div", {}, make("dt", {}, name), make("dd", {}, value, make("small", {}, more || "")));
  const none = r.cut === null ? (i ? "no finite logit" : "above all") : "";
  set("rates",
    cell("cut (logit)", fixed(r.cut, 3), i === label.chosen ? "chosen" : none || (i ? "" : "alerts on nothing")),
    cell("probability there", short(r.p)),
    ...(head.labelled ? [
      cell("precision", fixed(r.precision, 3), interval(own.precision, 3)), cell("recall", fixed(r.recall, 3), interval(own.recall, 3)),
      cell("FPR", fixed(r.fpr, 5), interval(own.fpr, 5))] : []),
    cell("alert rate", fixed(r.alert_rate, 5), interval(own.alert_rate, 5)),
    cell(`alerts/1000 ${units}`, fixed(r.alert_rate * 1000, 2), interval(own.alert_rate, 2, 1000)),
    ...(head.labelled ? [cell("true positives", count(r.tp)), cell("false positives", count(r.fp)), cell("misses (FN)", count(r.fn))]
      : [cell("alerts", count(r.alerts))]));
  $("slider").setAttribute("aria-valuetext", `cut ${fixed(r.cut, 3)}, ` + (head.labelled
    ? `precision ${fixed(r.precision, 3)}, recall ${fixed(r.recall, 3)}, ` : "") + `alert rate ${fixed(r.alert_rate, 5)}`);
  for (const row of $("choices").tBodies[0].rows) row.classList.toggle("here", row.dataset.at === String(i));
  $("plots").classList.toggle("chosen-shown", i === label.chosen);
  for (const move of marks) move(r);
}

function showChoices() {
  const columns = ["objective", "cut (logit)", "precision", "recall", "FPR", "alert rate", `alerts per 1000 ${units}`];
  const kept = (cell, i) => head.labelled || ![2, 3, 4].includes(i);
  $("choices").tHead.replaceChildren(make("tr", {}, ...columns.filter(kept).map((name) => make("th", { scope: "col" }, name))));
  const rows = label.choices.map((choice) => {
    const sure = choice.own && label.guarantee;
    const note = choice.own ? " \u2014 this label\u2019s" + (sure ? `, guaranteed (\u03b4 ${short(sure.delta)})` : "") : "";
    if (choice.at === null)
      return make("tr", { class: choice.own ? "own" : "" }, make("th", { scope: "row" }, choice.objective, make("span", { class: "muted" }, note)),
        make("td", { class: "why", colspan: kept(0, 2) ? 6 : 3, title: choice.reason },
          make("span", { class: "status " + choice.status }, choice.status), " " + choice.reason.split("; ")[0]));
    const r = ratesAt(choice.at), button = make("button", { class: "choose", type: "button" }, choice.objective);
    const cells = ["", fixed(r.cut, 3), fixed(r.precision, 3), fixed(r.recall, 3), fixed(r.fpr, 5), fixed(r.alert_rate, 5), fixed(r.alert_rate * 1000, 2)];
    const row = make("tr", { class: choice.own ? "own" : "", "data-at": choice.at },
      make("th", { scope: "row" }, button, make("span", { class: "muted" }, note)),
      ...cells.map((text) => make("td", {}, text)).filter(kept).slice(1));
    row.style.cursor = "pointer";
    row.addEventListener("click", () => moveTo(choice.at));
    return row;
  });
  $("choices").tBodies[0].replaceChildren(...rows);
}

// ---- all labels ----

const rate = (name, by = 1) => (each) => (each.expected && each.expected[name] ? each.expected[name][0] * by : null);
const ALERTS = `alerts per 1000 ${units}`;
const COLUMNS = [
  ["label", (each) => each.name, String, true],
  ["status", (each) => each.status, String, true],
  ["positives", (each) => each.positives, count, false, true],
  ["AP", (each) => each.ap, (v) => fixed(v, 3), false, true],
  ["precision", rate("precision"), (v) => fixed(v, 3), false, true],
  ["recall", rate("recall"), (v) => fixed(v, 3), false, true],
  ["cut (logit)", (each) => each.threshold, (v) => fixed(v, 3)],
  [ALERTS, rate("alert_rate", 1000), (v) => fixed(v, 2)],
].filter(([, , , , needsClasses]) => head.labelled || !needsClasses);
const sorting = { column: COLUMNS.length - 1, down: true };

// ---- the head of the page, and what listens ----

function showHead() {
  set("model", `${head.model}/${head.model_version}, policy ${head.version}`);
  const statuses = ["OK", "FALLBACK", "INSUFFICIENT", "INFEASIBLE"].map((s) => [s, labels.filter((each) => each.status === s).length]);
  set("tally", ...statuses.filter(([s, n]) => n || s === "OK").map(([s, n]) => make("span", { class: "status " + s }, `${count(n)} ${s}`)));
  for (const [s, n] of statuses) if (n) $("status").append(make("option", { value: s }, s));
  const objectives = [...new Set(labels.map((each) => each.objective))], sure = head.guarantee, plan = head.plan;
  const kind = head.source === "histogram" ? `, counted in bins of ${short(head.step)}` : "";
  const asked = plan && [`calibrator ${plan.calibrator}`, plan.min_positives ? `at least ${plural(plan.min_positives, "positive")}` : "",
    plan.shrink ? `shrink ${plan.shrink}` : "", plan.fallback !== "none" ? `fallback ${plan.fallback}` : ""].filter(Boolean).join(", ");
  set("head",
    fact(objectives.length > 1 ? "objectives" : "objective", objectives.slice(0, 4).join(", ") +
      (objectives.length > 4 ? ` and ${objectives.length - 4} more` : "")),
    fact("guarantee", sure ? `\u03b4 ${short(sure.delta)} ${sure.family === "simultaneous" ? "for all labels at once" : "per label"}, by ${sure.unit}; ` +
      `spent over all labels: ${short(head.delta_spent)}` : "none"),
    fact((head.weighted && head.source === "histogram" ? "effective " : "") + units, count(head.rows) + (head.groups ? ` in ${plural(head.groups, "group")}` : "") + kind + (head.weighted ? ", weighted" : "") +
      (head.labelled ? "" : ", no classes known")),
    asked ? fact("plan", asked) : null,
    fact("created", head.created.replace("T", " ").replace("+00:00", " UTC")),
    fact("by", head.author),
    head.parent === null ? null : fact("after policy", String(head.parent)),
    fact("data", make("span", { title: head.data_digest }, head.data_digest.slice(0, 12) || "\u2013")));
  $("other-data").hidden = head.same_data;
  set("method", `Intervals: Clopper-Pearson, 95 %${head.groups ? "; those of the chosen cut take groups, not rows, as independent" : ""}` +
    `${head.weighted ? ", at the effective number of rows" : ""}. The slider offers up to 160 of the data\u2019s cuts, and the counts at each are exact. ` +
    "Rates are those of these data: a cut moved by hand is chosen on the rows that it is judged by.");
}

$("slider").addEventListener("input", () => moveTo(Number($("slider").value)));
$("back").addEventListener("click", () => moveTo(label.chosen));
$("log").addEventListener("change", () => { drawPlots(); moveTo(at); });
