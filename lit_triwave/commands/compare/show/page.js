"use strict";
// The page of compare: a table that can be sorted and filtered, and plotly's charts of the rows that are shown.
const COLORS = ["#1f5fa8", "#d9622b", "#2a9d5c", "#b5367a", "#7a5cc7", "#b58a00", "#0f9bb3", "#8c4a2f", "#c2413b", "#4f6d2f"];
const SHADES = ["#440154", "#482878", "#3e4a89", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6dcd59", "#b4de2c", "#e5c812"];
const GREY = "#8a8f98", DARK = "#3c4046", LINE = "#e3e5e8", WHITE = { paper_bgcolor: "#fff", plot_bgcolor: "#fff" };
const MOST_GREY = 100; // curves of other rows; more would be one grey
const MOST_NAMED = 30; // in the legend
const AXIS_WIDTH = 118; // pixels that one of the parallel coordinates needs, with its labels
// Nothing leaves this file: plotly's button that uploads a chart is removed.
const CONFIG = { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["sendChartToCloud", "select2d", "lasso2d", "autoScale2d"] };
const data = JSON.parse(document.getElementById("data").textContent);
const drawable = new Set(data.drawable);
let shown = data.order; // numbers of the rows that pass the filter, best first
let colours = new Map(); // row ↦ colour, the same in all charts
const chosen = new Set(); // rows clicked in the table
const ownColours = new Map(shown.filter((row) => drawable.has(row)).slice(0, COLORS.length).map((row, place) => [row, COLORS[place]]));
const lastColours = new Map(); // of other rows

const plot = (id) => document.querySelector(`#${id} .plot`);
const escaped = (text) => text.replace(/[&<>"]/g, (sign) => `&#${sign.charCodeAt(0)};`);
const numberText = (value) => String(Number(value.toPrecision(4)));
const curveOf = (row) => data.curves[row] || null; // [number of its grid, mean, low, high]
const stepsOf = (curve) => data.grids[curve[0]];

/** Gives colours to the clicked rows and to the best rows, and writes the legend that all charts share.
 *  The best of all rows always keep their colours. Other rows keep theirs until one of the best needs it back. */
function recolour() {
  const rows = shown.filter((row) => drawable.has(row));
  const picked = rows.filter((row) => chosen.has(row));
  const best = picked.concat(rows.filter((row) => !chosen.has(row))).slice(0, Math.max(COLORS.length, picked.length));
  const taken = new Set(best.map((row) => ownColours.get(row)));
  const free = COLORS.filter((color) => !taken.has(color));
  const others = best.filter((row) => !ownColours.has(row));
  for (const row of others) if (free.includes(lastColours.get(row))) free.splice(free.indexOf(lastColours.get(row)), 1); else lastColours.delete(row);
  others.forEach((row, place) => { if (!lastColours.has(row)) lastColours.set(row, free.shift() ?? COLORS[place % COLORS.length]); });
  colours = new Map(best.map((row) => [row, ownColours.get(row) ?? lastColours.get(row)]));
  const chip = (color, name, kind = "") => `<span><i style="border-color:${color}" class="${kind}"></i>${escaped(name)}</span>`;
  const chips = best.slice(0, MOST_NAMED).map((row) => chip(colours.get(row), data.labels[row], data.finished[row] ? "" : "unfinished"));
  const left = rows.length - chips.length;
  if (left) chips.push(chip(GREY, `${left} other${left > 1 ? "s" : ""}`));
  document.getElementById("legend").innerHTML = chips.join("");
}

/** Returns the ends of an axis with a margin, as exponents for a logarithmic axis. */
function rangeOf(values, log, top, accuracy) {
  const there = values.filter((value) => Number.isFinite(value) && (!log || (value > 0 && (top === null || value <= top)))).map((value) => (log ? Math.log10(value) : value));
  if (!there.length) return null;
  const [low, high] = there.reduce(([a, b], value) => [Math.min(a, value), Math.max(b, value)], [Infinity, -Infinity]);
  const room = Math.max(0.06 * (high - low), log ? 0.1 : high === low ? 0.04 * Math.abs(high) || 1 : 0);
  return [low - room, accuracy && high <= 1 ? Math.min(high + room, 1 + 0.02 * (1 - low + room)) : high + room];
}

/** Returns plotly's description of an axis. */
function axisOf({ title, log, values, top = null, format = ".4~g" }) {
  const range = rangeOf(values, log, top, /accuracy$/.test(title));
  const axis = { title: { text: escaped(title), standoff: 8 }, automargin: true, type: log ? "log" : "linear", gridcolor: LINE, zeroline: false, exponentformat: "power", minexponent: 6, nticks: 7 };
  if (range) axis.range = range;
  const decades = log && range ? range[1] - range[0] : 0;
  if (decades > 2) return { ...axis, dtick: Math.ceil(decades / 8) };
  return log ? { ...axis, nticks: 5, tickformat: format } : axis;
}

function layout(x, y) {
  const over = y.log && y.top ? y.values.some((value) => value > y.top) : false;
  const said = { text: `what diverged, above ${numberText(y.top || 0)}, is not shown`, xref: "paper", yref: "paper", x: 1, y: 1, xanchor: "right", yanchor: "top", showarrow: false, font: { size: 11, color: GREY } };
  return { margin: { l: 60, r: 14, t: 30, b: 45 }, hovermode: "closest", hoverlabel: { namelength: -1, align: "left" }, showlegend: false, ...WHITE,
    font: { size: 12 }, xaxis: axisOf(x), yaxis: axisOf(y), annotations: over ? [said] : [] };
}

function nothing(id) {
  const place = plot(id);
  if (place.classList.contains("js-plotly-plot")) Plotly.purge(place);
  place.classList.add("none");
  place.textContent = "The runs do not have what this would show.";
  return Promise.resolve();
}

function draw(id, traces, design) {
  if (!traces.length) return nothing(id);
  const place = plot(id);
  const isNew = !place.classList.contains("js-plotly-plot");
  if (isNew) { place.classList.remove("none"); place.textContent = ""; }
  return Plotly.react(place, traces, design, CONFIG).then(() => {
    if (isNew) place.on("plotly_click", ({ points: [point] }) => { const row = point.customdata ?? point.data.meta; if (row !== undefined) choose(row); });
  });
}

/** Returns row ↦ line width. A curve that is hidden below another one is drawn wider, so that both are visible. */
function lineWidths(rows) { // best first
  const hides = (one, other) => one.length === other.length && one.every((value, i) => value === other[i] || Math.abs(value - other[i]) <= 0.02 * Math.abs(value));
  return new Map(rows.map((row, place) => [row, 2 + 3 * rows.slice(0, place).filter((better) => hides(curveOf(row)[1], curveOf(better)[1])).length]));
}

function drawCurves() {
  const rows = shown.filter(curveOf);
  const best = rows.filter((row) => colours.has(row));
  const traces = [], heights = [];
  const others = rows.filter((row) => !colours.has(row));
  const hover = `<b>%{text}</b><br>${escaped(data.curveMetric)} %{y:.3g} at step %{x}<extra></extra>`;
  if (others.length) {
    const x = [], y = [], text = [], customdata = [];
    const every = Math.ceil(others.length / MOST_GREY);
    for (let i = 0; i < others.length; i += every) {
      const curve = curveOf(others[i]), name = escaped(data.labels[others[i]]);
      const thin = Math.ceil(curve[1].length / 60);
      curve[1].forEach((value, place) => { if (place % thin === 0) { x.push(stepsOf(curve)[place]); y.push(value); text.push(name); customdata.push(others[i]); } });
      x.push(null); y.push(null); text.push(""); customdata.push(null);
    }
    traces.push({ x, y, text, customdata, mode: "lines", line: { color: GREY, width: 0.6 }, opacity: 0.5, hovertemplate: hover });
    heights.push(y);
  }
  const widths = lineWidths(best);
  [...best].reverse().forEach((row) => { // the best lies on top
    const curve = curveOf(row), x = stepsOf(curve), color = colours.get(row);
    const band = { x: x.concat([...x].reverse()), y: curve[3].concat([...curve[2]].reverse()), fill: "toself", fillcolor: color };
    traces.push({ ...band, mode: "lines", line: { width: 0 }, opacity: Math.max(0.06, 0.2 - 0.03 * (best.length - 1)), hoverinfo: "skip" });
    traces.push({ x, y: curve[1], text: data.labels[row] && escaped(data.labels[row]), meta: row, mode: x.length < 30 ? "lines+markers" : "lines",
      line: { color, width: widths.get(row), dash: data.finished[row] ? "solid" : "dash" }, marker: { color, size: 5 }, hovertemplate: hover });
    heights.push(...curve.slice(1));
  });
  return draw("curves", traces, layout({ title: "training step", log: false, values: [] }, { title: data.curveMetric, log: data.curveLog, values: heights.flat(), top: data.curveTop }));
}

function drawCost(id) {
  const cost = data.costs[id];
  const at = new Map(cost.rows.map((row, place) => [row, place]));
  const rows = shown.filter((row) => at.has(row));
  const pick = (list, values) => list.map((row) => values[at.get(row)]);
  const trace = (list, marker) => {
    const error = pick(list, cost.error);
    return { x: pick(list, cost.x), y: pick(list, cost.y), customdata: list, mode: "markers", marker,
      text: list.map((row, i) => `<b>${escaped(data.labels[row])}</b><br>${escaped(data.main)} ${numberText(cost.y[at.get(row)])}${error[i] ? ` ± ${numberText(error[i])}` : ""}<br>${cost.name} ${numberText(cost.x[at.get(row)])}`),
      hovertemplate: "%{text}<extra></extra>" };
  };
  const traces = [];
  const grey = rows.filter((row) => !colours.has(row));
  if (grey.length) traces.push(trace(grey, { color: GREY, size: 5, opacity: 0.5 }));
  rows.filter((row) => colours.has(row)).reverse().forEach((row) => {
    const color = colours.get(row);
    const [y] = pick([row], cost.y), [error] = pick([row], cost.error);
    const down = data.mainLog ? Math.min(error, 0.9 * y) : error; // a mean less its error may lie below 0
    traces.push({ ...trace([row], { color, size: 9 }), error_y: { symmetric: false, array: [error], arrayminus: [down], visible: error > 0, color, thickness: 1.2, width: 4 } });
  });
  const ends = traces.flatMap(({ y, error_y: bar }) => (bar ? [y[0] + bar.array[0], y[0] - bar.arrayminus[0]] : y));
  const within = data.mainTop === null ? ends : ends.map((value) => (value > data.mainTop && value < 3 * data.mainTop ? data.mainTop : value));
  return draw(id, traces, layout({ title: cost.name, log: cost.log, values: pick(rows, cost.x), format: id === "parameters" ? "~s" : ".4~g" },
    { title: data.main || "", log: data.mainLog, values: within, top: data.mainTop }));
}

function hasWebGL() {
  try { return Boolean(document.createElement("canvas").getContext("webgl")); } catch { return false; }
}

/** Returns as many parallel coordinates as fit, always with the metric. */
function axesWithRoom(width) {
  const room = Math.max(2, Math.floor((width - 150) / AXIS_WIDTH) + 1);
  const kept = new Set([...data.parallel.axes].sort((a, b) => a.rank - b.rank).slice(0, room));
  return data.parallel.axes.filter((axis) => kept.has(axis));
}

function drawParallel() {
  const { rows, best, targets } = data.parallel;
  const axes = axesWithRoom(document.getElementById("parallel").clientWidth);
  plot("parallel").style.maxWidth = `${260 * axes.length}px`; // a few axes are not drawn far apart
  const visible = new Set(shown);
  const places = rows.map((_, place) => place).filter((place) => visible.has(rows[place]));
  if (axes.length < 2 || !places.length) return nothing("parallel");
  const rank = places.map((_, place) => place / Math.max(1, places.length - 1));
  const widest = (axis) => 10 + 6.2 * Math.max(...axis.ticks.map(([, text]) => text.length));
  const ends = axes.flatMap((axis) => axis.places);
  const [low, high] = [Math.min(0, ...new Set(ends)), Math.max(1, ...new Set(ends))];
  const caption = document.querySelector("#parallel figcaption");
  const left = data.parallel.axes.length - axes.length;
  const more = left ? ` A wider window shows ${left} more field${left > 1 ? "s" : ""}.` : "";
  if (hasWebGL()) {
    caption.textContent = `Parallel coordinates: a line for each row, dark is best. Drag along an axis to pick lines, its title to move it.${more}`;
    const last = [...places].reverse(); // the best lines lie on top
    const dimensions = axes.map((axis) => ({ label: axis.title.map(escaped).join("<br>"), range: [low, high], values: last.map((place) => axis.places[place]),
      tickvals: axis.ticks.map((tick) => tick[0]), ticktext: axis.ticks.map((tick) => tick[1]) }));
    const margin = { l: Math.max(60, widest(axes[0])), r: 60, t: 65, b: 25 };
    const line = { color: [...rank].reverse(), colorscale: "Viridis", cmin: 0, cmax: 1 };
    return draw("parallel", [{ type: "parcoords", dimensions, line, labelfont: { size: 12 }, tickfont: { size: 11 } }], { margin, ...WHITE });
  }
  // Without WebGL: the same lines in ten colours, without brushing.
  const bolds = targets > 1 ? [...places.keys()].filter((i) => best.includes(rows[places[i]])) : best.length ? [0] : [];
  const which = targets > 1 ? ", the best of each function or data set bold" : ", the best one bold";
  caption.textContent = `Parallel coordinates: a line for each row, dark is best${bolds.length ? which : ""}.${more}`;
  const opacity = places.length > 100 ? 0.35 : 0.8;
  const traces = SHADES.map((color) => ({ x: [], y: [], text: [], customdata: [], mode: "lines", opacity, line: { color, width: 1.2 }, hovertemplate: "%{text}<extra></extra>" }));
  const add = (trace, i) => {
    axes.forEach((axis, x) => { trace.x.push(x); trace.y.push(axis.places[places[i]]); trace.text.push(escaped(data.labels[rows[places[i]]])); trace.customdata.push(rows[places[i]]); });
    for (const list of [trace.x, trace.y, trace.text, trace.customdata]) list.push(null);
  };
  [...places.keys()].reverse().forEach((i) => add(traces[Math.min(9, Math.floor(10 * rank[i]))], i));
  const bold = { ...traces[0], x: [], y: [], text: [], customdata: [], opacity: 1, line: { color: COLORS[0], width: 3 } };
  bolds.forEach((i) => add(bold, i));
  const notes = axes.flatMap((axis, x) => axis.ticks.map(([y, text]) => ({ x, y, text: escaped(text), showarrow: false, xanchor: "left", xshift: 3, borderpad: 0, bgcolor: "rgba(255,255,255,.75)", font: { size: 11 } })));
  const lines = axes.map((_, x) => ({ type: "line", x0: x, x1: x, y0: low - 0.03, y1: high + 0.03, line: { color: DARK, width: 1 } }));
  notes.push(...axes.map((axis, x) => ({ x, y: 1, yref: "paper", text: axis.title.map(escaped).join("<br>"), align: "left", showarrow: false, xanchor: "left", yanchor: "bottom", xshift: -4, font: { size: 12 } })));
  const xaxis = { visible: false, range: [0, axes.length - 1], fixedrange: true };
  const yaxis = { visible: false, range: [low - 0.04, high + 0.04], fixedrange: true };
  const margin = { l: 24, r: Math.max(70, widest(axes[axes.length - 1])), t: 50, b: 15 };
  return draw("parallel", [...traces.reverse(), bold].map((trace) => ({ ...trace, cliponaxis: false })), { margin, ...WHITE, hovermode: "closest", showlegend: false, xaxis, yaxis, annotations: notes, shapes: lines });
}

const DRAWERS = { curves: drawCurves, parameters: () => drawCost("parameters"), fit_seconds: () => drawCost("fit_seconds"), parallel: drawParallel };
const drawn = new Set();

function drawAgain() {
  recolour();
  markRows();
  drawn.forEach((id) => DRAWERS[id]());
}

const painted = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));

/** Draws each chart when it comes near the window, one at a time, so that each appears as soon as it is ready. */
function watch() {
  let queue = Promise.resolve();
  const seen = new IntersectionObserver((entries) => entries.forEach(({ isIntersecting, target: { id } }) => {
    if (!isIntersecting || drawn.has(id)) return;
    drawn.add(id);
    queue = queue.then(DRAWERS[id]).then(painted).then(() => performance.mark(`${id}-drawn`));
  }), { rootMargin: "200px" });
  Object.keys(DRAWERS).forEach((id) => seen.observe(document.getElementById(id)));
  let waiting = 0, width = innerWidth;
  addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => { if (innerWidth !== width && drawn.has("parallel")) drawParallel(); width = innerWidth; }, 200);
  });
}

// ---- the table: sorting, filter, and the rows that are picked for the charts

const OPERATOR = "!=|<=|>=|==|=|<|>|~";
const QUOTED = `"[^"]*"?|'[^']*'?`;
const WORD = new RegExp(`([^\\s"'=!<>~]+)\\s*(${OPERATOR})\\s*(${QUOTED}|\\[[^\\]]*\\]|[^\\s"']\\S*)?|(${QUOTED})|(\\S+)`, "g");
const CONDITION = new RegExp(`^\\s*([^=!<>~]*?)\\s*(${OPERATOR})\\s*(.*?)\\s*$`, "s");
const ORDERS = { "<": (a, b) => a < b, "<=": (a, b) => a <= b, ">": (a, b) => a > b, ">=": (a, b) => a >= b };

const table = document.querySelector("#scroll table");
const headers = [...table.tHead.rows[0].cells];
const names = headers.map((header) => ({ short: header.textContent, full: header.title }));
const lines = []; // one <tr> for each row, by number
const unquoted = (text) => (/^["']/.test(text || "") ? text.slice(1).replace(new RegExp(`${text[0]}$`), "") : text || "");
const textOf = (cell) => cell.textContent.replace(/^★ /, "");
const numberOf = (cell) => Number(cell.dataset.v ?? cell.dataset.logged ?? NaN);
/** Returns every text that means a cell's value; the first one is the whole value. */
const textsOf = (cell) => (cell.dataset.is ? JSON.parse(cell.dataset.is) : [cell.dataset.v ?? textOf(cell)].filter(Boolean));
/** Returns a text in the form that is compared: times as runs have them, no blanks around commas. */
const normal = (text) => text.replace(/(\d{4}-\d\d-\d\d) (?=\d)/g, "$1T").replace(/\s*,\s*/g, ",");

function sortBy(column, descending) {
  const sign = descending ? -1 : 1;
  const keyed = lines.map((line) => { const cell = line.cells[column]; return [cell.dataset.v === undefined ? textOf(cell) : Number(cell.dataset.v), line]; });
  const blank = (value) => value === "";
  keyed.sort(([a], [b]) => {
    if (blank(a) || blank(b)) return blank(a) - blank(b); // blanks last in both directions
    if (typeof a === "number" && typeof b === "number") return sign * (a - b);
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
    return sign * a.localeCompare(b, undefined, { numeric: true });
  });
  table.tBodies[0].append(...keyed.map(([, line]) => line));
  headers.forEach((header, place) => {
    if (place === column) header.setAttribute("aria-sort", descending ? "descending" : "ascending"); else header.removeAttribute("aria-sort");
  });
}

/** Returns the number of the column with a full or a short name, or { error }. */
function columnOf(name) {
  const exact = names.findIndex(({ short, full }) => short === name || full === name);
  if (exact >= 0) return exact;
  const meant = names.flatMap(({ full }, column) => (full.endsWith(`.${name}`) || full.endsWith(`/${name}`) ? [column] : []));
  if (meant.length === 1) return meant[0];
  return { error: meant.length ? `${name}: ${meant.map((column) => names[column].full).join(" or ")}? Give more of its name.` : `${name}: no column of the table` };
}

/** Returns the test of a table row for FIELD OP VALUE, with the meaning that --where gives it, or { error }. */
function condition(field, operator, value) {
  const column = columnOf(field), sign = operator === "==" ? "=" : operator;
  if (column.error) return column;
  const kind = headers[column].className, wanted = normal(value), number = value.trim() === "" ? NaN : Number(value);
  if (sign in ORDERS && kind === "text unordered") return { error: `${field}${operator}${value}: ${names[column].short} has no order; it takes = != ~` };
  if (sign in ORDERS && !kind && Number.isNaN(number)) return { error: `${field}${operator}${value}: ${sign} takes a number` };
  return (line) => {
    const cell = line.cells[column], own = numberOf(cell), texts = textsOf(cell).map(normal);
    if (sign in ORDERS) return Number.isNaN(own) ? texts.length > 0 && ORDERS[sign](texts[0], wanted) : ORDERS[sign](own, number);
    if (sign === "~") return texts.some((text) => text.toLowerCase().includes(wanted.toLowerCase()));
    const equal = texts.length ? texts.includes(wanted) || own === number : ["null", "none", ""].includes(wanted.toLowerCase());
    return equal === (sign === "=");
  };
}

function containing(text) {
  return (line) => [...line.cells].some((cell) => cell.textContent.toLowerCase().includes(text.toLowerCase()));
}

/** Returns the tests of a filter's words: conditions and texts. A quoted word is a condition if it names a column. */
function testsOf(filter) {
  return [...filter.matchAll(WORD)].map(([, field, operator, value, quoted, word]) => {
    if (field && /^[=<>~]/.test(value || "")) return { error: `${field}${operator}${value}: OP is one of = != < <= > >= ~` };
    if (field) return condition(field, operator, unquoted(value));
    if (word) return containing(word);
    const text = unquoted(quoted), inside = text.match(CONDITION);
    return inside && !columnOf(inside[1]).error ? condition(inside[1], inside[2], unquoted(inside[3])) : containing(text);
  });
}

function applyFilter(text) {
  const tests = testsOf(text);
  const errors = tests.flatMap((test) => test.error || []);
  document.getElementById("filter").classList.toggle("wrong", errors.length > 0);
  document.getElementById("said").textContent = errors.join(" ");
  const passes = lines.map((line) => tests.every((test) => test.error || test(line)));
  lines.forEach((line, row) => { line.hidden = !passes[row]; });
  shown = data.order.filter((row) => passes[row]);
  document.getElementById("count").textContent = `${shown.length} of ${lines.length} rows`;
}

/** Keeps sorting and filter in the address, so that a view can be sent to others. */
function remember() {
  const sorted = headers.find((header) => header.hasAttribute("aria-sort"));
  const parts = new URLSearchParams();
  if (sorted) parts.set(sorted.getAttribute("aria-sort"), sorted.textContent);
  const text = document.getElementById("filter").value;
  if (text) parts.set("filter", text);
  history.replaceState(null, "", `#${parts}`);
}

function recall() {
  const parts = new URLSearchParams(location.hash.slice(1));
  for (const order of ["ascending", "descending"]) {
    const column = headers.findIndex((header) => header.textContent === parts.get(order));
    if (column >= 0) sortBy(column, order === "descending");
  }
  document.getElementById("filter").value = parts.get("filter") || "";
  applyFilter(document.getElementById("filter").value);
  recolour();
  markRows();
}

/** Shows each row's colour in the charts beside the row. */
function markRows() {
  lines.forEach((line, row) => {
    const color = colours.get(row);
    line.classList.toggle("chosen", color !== undefined);
    if (color) line.style.setProperty("--chosen", color);
  });
}

/** Adds a row to the coloured ones, or removes it. */
function choose(row) {
  if (!chosen.delete(row)) chosen.add(row);
  drawAgain();
}

for (const line of table.tBodies[0].rows) { lines[Number(line.dataset.row)] = line; line.tabIndex = 0; }
table.tHead.addEventListener("click", (event) => {
  const header = event.target.closest("th");
  sortBy(headers.indexOf(header), header.getAttribute("aria-sort") === "ascending");
  remember();
});
table.tBodies[0].addEventListener("click", (event) => {
  if (getSelection().isCollapsed) choose(Number(event.target.closest("tr").dataset.row)); // otherwise a text is being copied
});
table.tBodies[0].addEventListener("keydown", (event) => {
  if (event.key !== "Enter" && event.key !== " ") return;
  event.preventDefault();
  choose(Number(event.target.closest("tr").dataset.row));
});
table.tBodies[0].addEventListener("mouseover", (event) => {
  const cell = event.target.closest("td");
  if (cell && cell.scrollWidth > cell.clientWidth) cell.title = cell.textContent;
});
let waiting = 0;
document.getElementById("filter").addEventListener("input", (event) => {
  clearTimeout(waiting);
  waiting = setTimeout(() => { applyFilter(event.target.value); remember(); drawAgain(); }, 150);
});
recall();
performance.mark("table-ready");
addEventListener("DOMContentLoaded", watch); // after plotly, which stands below this script
