// ---- all labels: a table to sort, search and choose from ----
// The page before it gives `label`, COLUMNS (name, value of a label, text of a value, to the left), `sorting`, showHead, showLabel.

// Half a surrogate pair is a name that no address can hold.
const hashOf = ({ name }) => "#label=" + encodeURIComponent(name.toWellFormed ? name.toWellFormed() : name);

const lines = labels.map((each) => {
  const cells = COLUMNS.map(([name, value, text, left]) => {
    const v = value(each), shown = v === null ? "\u2013" : text(v, each);
    if (name === "label") return make("td", { title: v }, make("a", { href: hashOf(each), tabindex: -1 }, v));
    return make("td", { class: name === "status" ? "left status " + v : left ? "left" : "" }, shown);
  });
  const row = make("tr", { "aria-selected": "false" }, ...cells);
  return Object.assign(row, { of: each });
});

function sortLines() {
  const { column, down } = sorting, value = COLUMNS[column][1];
  const keyed = lines.map((row, i) => [value(row.of), i, row]);
  keyed.sort(([a, i], [b, j]) => {
    if (a === null || b === null) return (a === null) - (b === null) || i - j;  // none comes last, whichever way
    const order = typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b;
    return (down ? -order : order) || i - j;
  });
  $("labels").tBodies[0].replaceChildren(...keyed.map(([, , row]) => row));
  [...$("labels").tHead.rows[0].cells].forEach((cell, i) =>
    i === column ? cell.setAttribute("aria-sort", down ? "descending" : "ascending") : cell.removeAttribute("aria-sort"));
}

function filterLines() {
  const wanted = $("search").value.trim().toLowerCase(), status = $("status") ? $("status").value : "";
  let found = 0;
  for (const row of lines) {
    row.hidden = !(row.of.name.toLowerCase().includes(wanted) && (!status || row.of.status === status));
    found += !row.hidden;
  }
  set("found", found === lines.length ? plural(found, "label") : `${count(found)} of ${plural(lines.length, "label")}`);
}

function select(wanted, focus) {
  label = wanted;
  for (const row of lines) {
    const here = row.of === wanted, link = row.querySelector("a");
    row.setAttribute("aria-selected", here);
    link.tabIndex = here ? 0 : -1;
    if (here && focus) link.focus();
    if (here) showRow(row);
  }
  showLabel();
}
function showRow(row) {  // within its own box; the page stays where it is
  const box = $("box"), top = row.offsetTop - $("labels").tHead.offsetHeight;
  if (top < box.scrollTop || row.offsetTop + row.offsetHeight > box.scrollTop + box.clientHeight) box.scrollTop = top;
}
function go(wanted, focus) {
  if (wanted !== label) select(wanted, focus);
  if (location.hash !== hashOf(wanted)) location.hash = hashOf(wanted);
}
function fromHash() {
  if (!location.hash.startsWith("#label=")) return null;
  try {
    const name = decodeURIComponent(location.hash.slice(7));
    return labels.find((each) => each.name === name) || null;
  } catch { return null; }
}

function showColumns() {
  $("labels").tHead.replaceChildren(make("tr", {}, ...COLUMNS.map(([name, , , left], i) => {
    const button = make("button", { type: "button" }, name);
    button.addEventListener("click", () => {
      sorting.down = i === sorting.column ? !sorting.down : !left;
      sorting.column = i;
      sortLines();
    });
    return make("th", { scope: "col", class: left ? "left" : "" }, button);
  })));
  if (labels.length === 1) {
    $("filters").hidden = true;
    $("box").className = "one";
  }
}

$("search").addEventListener("input", filterLines);
$("search").addEventListener("keydown", (event) => {
  const first = [...$("labels").tBodies[0].rows].find((row) => !row.hidden);
  if (event.key === "Enter" && first) go(first.of, true);
});
if ($("status")) $("status").addEventListener("change", filterLines);
$("labels").tBodies[0].addEventListener("click", (event) => {
  const row = event.target.closest("tr");
  event.preventDefault();
  if (row) go(row.of, true);
});
$("labels").tBodies[0].addEventListener("keydown", (event) => {
  const way = { ArrowDown: 1, ArrowUp: -1 }[event.key], rows = [...$("labels").tBodies[0].rows].filter((row) => !row.hidden);
  const next = way && rows[rows.indexOf(event.target.closest("tr")) + way];
  if (next) { event.preventDefault(); go(next.of, true); }
});
window.addEventListener("hashchange", () => {
  const wanted = fromHash();
  if (wanted && wanted.name !== label.name) select(wanted);
});

showHead();
showColumns();
sortLines();
filterLines();
select(fromHash() || $("labels").tBodies[0].rows[0].of);
