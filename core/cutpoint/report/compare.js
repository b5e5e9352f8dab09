// ---- a comparison: a line a run ----

const { runs, baseline, seeds } = data;
const signed = (x, digits) => (x > 0 ? "+" : "") + fixed(x, digits);
const ends = (each, text) => (each && each.low !== null ? ` (${text(each.low)} to ${text(each.high)})` : "");
const words = (value) => value !== null && typeof value === "object" && !Array.isArray(value)
  ? Object.entries(value).map(([name, inner]) => `${name} ${words(inner)}`).join(", ") : String(value);

// [name, [estimate, class][], values of seeds] each; a dashed line at `zero`; an estimate is {value, low, high}.
function forest(id, lines, zero, digits) {
  const svg = $(id).querySelector("svg"), height = 34 * lines.length, bottom = 8 + height, left = 150, right = 470;
  svg.setAttribute("viewBox", `0 0 490 ${bottom + 30}`);
  svg.replaceChildren();
  const all = lines.flatMap(([, estimates, each]) => [...estimates.flatMap(([e]) => (e ? [e.value, e.low, e.high] : [])), ...each]);
  const known = all.filter((v) => v !== null && Number.isFinite(v)).concat(zero === null ? [] : [zero]);
  if (!known.length) return;
  const low = Math.min(...known), high = Math.max(...known), room = (high - low || Math.abs(high) || 1) * 0.08;
  const x = scale(low - room, high + room, left, right);
  for (const v of ticks(x)) {
    draw(svg, "line", { class: "grid", x1: x(v), x2: x(v), y1: 8, y2: bottom });
    draw(svg, "text", { x: x(v), y: bottom + 18, "text-anchor": "middle" }, tickText(v));
  }
  if (zero !== null) line(svg, "reference", x(zero), 8, x(zero), bottom);
  lines.forEach(([name, estimates, each], i) => {
    const middle = 8 + 34 * (i + 0.5);
    const text = draw(svg, "text", { class: "title", x: left - 10, y: middle + 4, "text-anchor": "end" }, name.length > 20 ? name.slice(0, 19) + "\u2026" : name);
    draw(text, "title", {}, name);
    for (const v of each) draw(svg, "circle", { class: "seed", cx: x(v), cy: middle + 10, r: 2.2 });
    estimates.forEach(([e, kind], k) => {
      if (!e) return;
      const y = middle + (k - (estimates.length - 1) / 2) * 11;
      if (e.low !== null) line(svg, kind === "before" ? "before" : "bar", x(e.low), y, x(e.high), y);
      const dot = draw(svg, "circle", { class: kind, cx: x(e.value), cy: y, r: 4 });
      draw(dot, "title", {}, `${name}: ${fixed(e.value, digits)}${ends(e, (v) => fixed(v, digits))}`);
    });
  });
  svg.setAttribute("aria-label", lines.map(([name, estimates]) => `${name}: ` + estimates.map(([e]) => (e ? fixed(e.value, digits) + ends(e, (v) => fixed(v, digits)) : "none")).join(", ")).join("; "));
}

function table(id, columns, rows) {
  $(id).tHead.replaceChildren(make("tr", {}, ...columns.map((name) => make("th", { scope: "col" }, name))));
  $(id).tBodies[0].replaceChildren(...rows.map(([first, ...cells]) =>
    make("tr", {}, make("th", { scope: "row" }, first), ...cells.map((cell) => make("td", {}, cell)))));
}

// Of all labels together, or of one.
function show() {
  const wanted = $("label").value, at = wanted === "" ? null : Number(wanted);
  const of = (run) => (at === null ? run : run.labels[at]), one = data.labels.length === 1;
  set("of", at === null ? (one ? data.labels[0] : `Mean of ${count(data.labels.length)} labels`) : data.labels[at]);
  table("runs", ["run", one || at !== null ? "AP" : "mean AP", `against ${baseline}`, "skill, training logits", "skill, prior undone", "alerts per hit", "precision", "recall", "FPR"],
    runs.map((run) => {
      const { average_precision: ap, difference, price } = of(run);
      return [run.name, ap ? make("span", {}, fixed(ap.value, 3), make("small", {}, ends(ap, (v) => fixed(v, 3)))) : "\u2013",
        difference ? make("span", {}, signed(difference.value, 3), make("small", {}, ends(difference, (v) => signed(v, 3)))) : run.name === baseline ? "baseline" : "\u2013",
        fixed(run.skill_before && run.skill_before.value, 3), fixed(run.skill_after && run.skill_after.value, 3), fixed(price.alerts_per_hit, 2),
        fixed(price.precision, 3), fixed(price.recall, 3), fixed(price.fpr, 5)];
    }));
  forest("precision", runs.map((run) => [run.name, [[of(run).average_precision, "dot"]], at === null ? run.seeds.map((each) => each.average_precision) : []]), null, 3);
  set("precision-key", key("dot round", "mean over seeds, 95 %"), at === null ? key("seed round", "each seed") : null,
    `Random scores: ${short(data.prevalence)}${one ? "" : ", mean over labels"}.`);
  forest("against", runs.filter((run) => of(run).difference).map((run) => [run.name, [[of(run).difference, "dot"]], []]), 0, 3);
  $("against").hidden = !runs.some((run) => of(run).difference);
  forest("skill", runs.map((run) => [run.name, [[run.skill_before, "before"], [run.skill_after, "dot"]], []]), 0, 3);
  set("skill-key", key("before round", "training logits as they are"), key("dot round", "prior undone"), "Mean over seeds, and the lowest and highest seed; 0 is always answering the prevalence.");
  forest("price", runs.map((run) => {
    const alerts = of(run).price.alerts_per_hit;
    return [run.name, [[alerts === null ? null : { value: alerts, low: 1, high: alerts }, "dot"]], []];
  }), null, 2);
}

set("model", `${data.model}: ${plural(runs.length, "run")} compared`);
set("head", fact("seeds", seeds.join(", ")), fact("baseline", baseline), fact("judged on", plural(data.rows, "test row")),
  fact("labels", count(data.labels.length)), fact("prevalence", short(data.prevalence)), fact("data", make("span", { title: data.data_digest }, data.data.split("/").pop())));
set("notes", ...data.conclusions.map((text) => make("p", { class: "note" }, text)));
set("against-title", `Difference to ${baseline}`);
set("price-title", `Price of recall ${data.recall}`);
set("method", ...[...data.method, `price: at the cuts that reach recall ${data.recall} on the validation rows, counted on the test rows`]
  .map((text) => make("p", { class: "muted" }, text)));
table("trained", ["run", "settings changed", "seed", "AP", "epoch kept", "seconds"], runs.flatMap((run) => run.seeds.map((each, i) =>
  [i ? "" : run.name, i ? "" : words(run.changes) || "none", String(each.seed), fixed(each.average_precision, 4), count(each.best_epoch), fixed(each.seconds, 1)])));
$("label").append(make("option", { value: "" }, "all"), ...data.labels.map((name, i) => make("option", { value: i }, name)));
$("chooser").hidden = data.labels.length === 1;
$("label").addEventListener("change", show);
show();
