"use strict";
// The page of compare: a table that can be sorted and filtered, and plotly's charts of the rows that are shown.
const GREY = "#8a8f98", LINE = "#e3e5e8";
const MOST_GREY = 50; // curves of other rows; more would be one grey
const MOST_NAMED = 30; // in the legend
// Nothing leaves this file: plotly's button that uploads a chart is removed.
const CONFIG = { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["sendChartToCloud", "select2d", "lasso2d", "autoScale2d"] };
const data = JSON.parse(document.getElementById("data").textContent);
const drawable = new Set(data.drawable);
const chosen = new Set(); // rows clicked in the table
const ownColours = new Map(data.drawable.slice(0, data.colors.length).map((row, place) => [row, data.colors[place]]));
let shown = data.order; // numbers of the rows that pass the filter, best first
let colours = new Map(); // row ↦ colour, the same in all charts

const plot = (id) => document.querySelector(`#${id} .plot`); // null if no run has what the chart shows
const escaped = (text) => text.replace(/[&<>"]/g, (sign) => `&#${sign.charCodeAt(0)};`);

/** Gives colours to the clicked rows and to the best rows, and writes the legend that all charts share.
 *  The best of all rows have colours of their own, whatever is filtered. */
function recolour() {
  const rows = shown.filter((row) => drawable.has(row));
  const picked = rows.filter((row) => chosen.has(row));
  const best = picked.concat(rows.filter((row) => !chosen.has(row))).slice(0, Math.max(data.colors.length, picked.length));
  const taken = best.map((row) => ownColours.get(row));
  const free = data.colors.filter((color) => !taken.includes(color));
  colours = new Map(best.map((row, place) => [row, ownColours.get(row) ?? free.shift() ?? data.colors[place % data.colors.length]]));
  const chip = (color, name, kind = "") => `<span><i style="border-color:${color}" class="${kind}"></i>${escaped(name)}</span>`;
  const chips = best.slice(0, MOST_NAMED).map((row) => chip(colours.get(row), data.labels[row], data.finished[row] ? "" : "unfinished"));
  const left = rows.length - chips.length;
  if (left) chips.push(chip(GREY, `${left} other${left > 1 ? "s" : ""}`));
  document.getElementById("legend").innerHTML = chips.join("");
}

// ---- the charts

function layout(x, xLog, y, yLog) {
  const axis = (title, log) => ({ title: { text: escaped(title), standoff: 8 }, automargin: true, type: log ? "log" : "linear", gridcolor: LINE, zeroline: false, exponentformat: "power", minexponent: 6, nticks: 7, hoverformat: ".4~g" });
  return { margin: { l: 60, r: 14, t: 30, b: 45 }, hovermode: "closest", hoverlabel: { namelength: -1, align: "left" }, showlegend: false, xaxis: axis(x, xLog), yaxis: axis(y, yLog) };
}

async function draw(id, traces, design) {
  const place = plot(id), isNew = !place.on;
  await Plotly.react(place, traces, design, CONFIG);
  if (isNew) place.on("plotly_click", ({ points: [point] }) => choose(point.customdata ?? point.data.meta));
}

function drawCurves() {
  const { metric, log, steps, lines, widths } = data.curves;
  const rows = shown.filter((row) => lines[row]);
  const best = rows.filter((row) => colours.has(row)), others = rows.filter((row) => !colours.has(row));
  const every = Math.ceil(others.length / MOST_GREY);
  const line = (row, color, width) => ({ x: steps[lines[row][0]], y: lines[row][1], meta: row, mode: lines[row][1].length < 30 ? "lines+markers" : "lines",
    line: { color, width, dash: data.finished[row] ? "solid" : "dash" }, marker: { color, size: width + 3 },
    hovertemplate: `<b>${escaped(data.labels[row])}</b><br>${escaped(metric)} %{y} at step %{x}<extra></extra>` });
  const band = (row) => { // from the lowest to the highest seed
    const [grid, , low, high] = lines[row], x = steps[grid];
    return { x: x.concat([...x].reverse()), y: high.concat([...low].reverse()), fill: "toself", fillcolor: colours.get(row), mode: "lines", line: { width: 0 }, opacity: Math.max(0.06, 0.2 - 0.03 * (best.length - 1)), hoverinfo: "skip" };
  };
  const grey = others.filter((_, place) => place % every === 0).map((row) => ({ ...line(row, GREY, 0.6), opacity: 0.5 }));
  const coloured = best.reverse().flatMap((row) => [band(row), line(row, colours.get(row), widths[row] ?? 2)]); // the best lies on top
  return draw("curves", [...grey, ...coloured], layout("training step", false, metric, log));
}

function drawCost(id) {
  const { name, log, points } = data.costs[id]; // row ↦ [cost, metric, standard error]
  const rows = shown.filter((row) => points[row]);
  const trace = (list, color, marker) => ({ x: list.map((row) => points[row][0]), y: list.map((row) => points[row][1]), customdata: list, mode: "markers", marker: { color, ...marker },
    error_y: { array: list.map((row) => points[row][2]), visible: color !== GREY, color, thickness: 1.2, width: 4 },
    text: list.map((row) => escaped(data.labels[row])), hovertemplate: `<b>%{text}</b><br>${escaped(data.main)} %{y}<br>${name} %{x}<extra></extra>` });
  const grey = trace(rows.filter((row) => !colours.has(row)), GREY, { size: 5, opacity: 0.5 });
  const coloured = rows.filter((row) => colours.has(row)).reverse().map((row) => trace([row], colours.get(row), { size: 9 }));
  return draw(id, [grey, ...coloured], layout(name, log, data.main, data.mainLog));
}

function drawParallel() {
  const { rows, axes } = data.parallel, visible = new Set(shown);
  const places = [...rows.keys()].filter((place) => visible.has(rows[place])).reverse(); // the best lines lie on top
  const ends = axes.flatMap((axis) => axis.ticks.map(([place]) => place));
  const dimensions = axes.map(({ title, places: all, ticks }) => ({ label: escaped(title), range: [Math.min(0, ...ends), Math.max(1, ...ends)],
    values: places.map((place) => all[place]), tickvals: ticks.map(([place]) => place), ticktext: ticks.map(([, text]) => text) }));
  const line = { color: places, colorscale: "Viridis", cmin: 0, cmax: Math.max(1, rows.length - 1) };
  return draw("parallel", [{ type: "parcoords", dimensions, line, labelfont: { size: 12 }, tickfont: { size: 11 } }], { margin: { l: 130, r: 60, t: 50, b: 25 } });
}

const DRAWERS = { curves: drawCurves, parameters: () => drawCost("parameters"), fit_seconds: () => drawCost("fit_seconds"), parallel: drawParallel };
const painted = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));

/** Draws the charts one after the other, so that each appears as soon as it is ready. */
async function drawAll() {
  for (const id of Object.keys(DRAWERS)) {
    if (plot(id)) await DRAWERS[id]();
    await painted();
    performance.mark(`${id}-drawn`);
  }
}

function update() {
  recolour();
  lines.forEach((line, row) => { // each row's colour in the charts beside the row
    line.classList.toggle("chosen", colours.has(row));
    line.style.setProperty("--chosen", colours.get(row) ?? "");
  });
}

/** Adds a row to the coloured ones, or removes it. */
function choose(row) {
  if (!chosen.delete(row)) chosen.add(row);
  update();
  drawAll();
}

// ---- the table: sorting and filter

const table = document.querySelector("#scroll table");
const headers = [...table.tHead.rows[0].cells];
const lines = []; // one <tr> for each row, by number
const textOf = (cell) => cell.textContent.replace(/^★ /, "");

/** Sorts the rows by a column: numbers before texts, blank cells last. */
function sortBy(column, descending) {
  const isNumber = (value) => typeof value === "number";
  const keyed = lines.map((line) => [line.cells[column].dataset.v === undefined ? textOf(line.cells[column]) : Number(line.cells[column].dataset.v), line]);
  keyed.sort(([a], [b]) => (a === "") - (b === "") || isNumber(b) - isNumber(a)
    || (descending ? -1 : 1) * (isNumber(a) ? a - b : a.localeCompare(b, undefined, { numeric: true })));
  table.tBodies[0].append(...keyed.map(([, line]) => line));
  headers.forEach((header, place) => header.setAttribute("aria-sort", place !== column ? "none" : descending ? "descending" : "ascending"));
}

/** Returns whether a row has a word of the filter: COLUMN=VALUE, or a text that one of its cells contains. */
function has(line, word) {
  const [name, value] = word.split(/=(.*)/s);
  const column = headers.findIndex((header) => value !== undefined && [header.textContent, header.title].includes(name));
  if (column >= 0) return [line.cells[column].dataset.v, textOf(line.cells[column])].includes(value);
  return [...line.cells].some((cell) => cell.textContent.toLowerCase().includes(word.toLowerCase()));
}

/** Shows the rows that have all words of the filter; quotes keep blanks inside a word. */
function applyFilter(text) {
  const words = (text.match(/("[^"]*"?|[^\s"])+/g) || []).map((word) => word.replaceAll('"', ""));
  lines.forEach((line) => { line.hidden = !words.every((word) => has(line, word)); });
  shown = data.order.filter((row) => !lines[row].hidden);
  document.getElementById("count").textContent = `${shown.length} of ${lines.length} rows`;
  update();
}

/** Keeps sorting and filter in the address, so that a view can be sent to others. */
function remember() {
  const sorted = headers.find((header) => /ending/.test(header.getAttribute("aria-sort")));
  const parts = new URLSearchParams(sorted ? { [sorted.getAttribute("aria-sort")]: sorted.textContent } : {});
  if (filter.value) parts.set("filter", filter.value);
  history.replaceState(null, "", `#${parts}`);
}

function recall() {
  const parts = new URLSearchParams(location.hash.slice(1));
  for (const order of ["ascending", "descending"]) {
    const column = headers.findIndex((header) => header.textContent === parts.get(order));
    if (column >= 0) sortBy(column, order === "descending");
  }
  filter.value = parts.get("filter") || "";
  applyFilter(filter.value);
}

for (const line of table.tBodies[0].rows) { lines[Number(line.dataset.row)] = line; line.tabIndex = 0; }
const filter = document.getElementById("filter");
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
let waiting = 0;
filter.addEventListener("input", () => {
  clearTimeout(waiting);
  waiting = setTimeout(() => { applyFilter(filter.value); remember(); drawAll(); }, 150);
});
recall();
performance.mark("table-ready");
addEventListener("DOMContentLoaded", drawAll); // after plotly, which stands below this script
