"use strict";
// The first picture is drawn before the table is parsed; everything else follows when it is looked at.
const COLORS = ["#1f5fa8", "#d9622b", "#2a9d5c", "#b5367a", "#7a5cc7", "#b58a00", "#0f9bb3", "#8c4a2f", "#c2413b", "#4f6d2f"];
const GREY = "#8a8f98";
const MOST_GREY = 100; // curves of other rows; more would be one grey
// Nothing leaves this file: plotly would offer to send a chart to its makers.
const CONFIG = { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["sendChartToCloud"] };
const first = JSON.parse(document.getElementById("first").textContent);
let rest = null; // curves of the other rows, when they are there
let shown = first.order; // numbers of the rows that pass the filter, best first
const chosen = new Set(); // rows clicked in the table

const plot = (id) => document.querySelector(`#${id} .plot`);

function layout(x, y) {
  const axis = (title, log) => ({ title: { text: title, standoff: 6 }, automargin: true, type: log ? "log" : "linear", gridcolor: "#e3e5e8", zeroline: false, exponentformat: "power" });
  return {
    margin: { l: 65, r: 10, t: 10, b: 45 }, hovermode: "closest", showlegend: true, paper_bgcolor: "#fff", plot_bgcolor: "#fff",
    legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom", font: { size: 11 } }, xaxis: axis(...x), yaxis: axis(...y),
  };
}

function nothing(id) {
  const place = plot(id);
  if (place.classList.contains("js-plotly-plot")) Plotly.purge(place);
  place.classList.add("none");
  place.textContent = "The runs do not have what this would show.";
}

function draw(id, traces, design) {
  if (!traces.length) { nothing(id); return Promise.resolve(); }
  const place = plot(id);
  if (place.classList.contains("none")) { place.classList.remove("none"); place.textContent = ""; }
  return Plotly.react(place, traces, design, CONFIG);
}

/** Rows in colour: those that were clicked, and the best. */
function coloured(rows) {
  const picked = rows.filter((row) => chosen.has(row));
  return picked.concat(rows.filter((row) => !chosen.has(row))).slice(0, Math.max(COLORS.length, picked.length));
}

const colour = (place) => COLORS[place % COLORS.length];
const curveOf = (row) => first.curves[row] || (rest && rest.curves[row]) || null;
const stepsOf = (curve) => first.grids[curve[0]] || rest.grids[curve[0]];

function drawCurves() {
  const rows = shown.filter(curveOf);
  const best = coloured(rows);
  const traces = [];
  const others = rest ? rows.filter((row) => !best.includes(row)) : [];
  if (others.length) {
    const x = [], y = [];
    const every = Math.ceil(others.length / MOST_GREY);
    for (let i = 0; i < others.length; i += every) {
      const curve = curveOf(others[i]);
      const thin = Math.ceil(curve[1].length / 60);
      curve[1].forEach((value, place) => { if (place % thin === 0) { x.push(stepsOf(curve)[place]); y.push(value); } });
      x.push(null); y.push(null);
    }
    const name = every > 1 ? `${Math.ceil(others.length / every)} of ${others.length} others` : `${others.length} others`;
    traces.push({ x, y, mode: "lines", line: { color: GREY, width: 0.6 }, opacity: 0.5, name, hoverinfo: "skip" });
  }
  best.forEach((row, place) => {
    const curve = curveOf(row), x = stepsOf(curve), color = colour(place);
    const band = { x: x.concat([...x].reverse()), y: curve[3].concat([...curve[2]].reverse()), fill: "toself", fillcolor: color };
    traces.push({ ...band, mode: "lines", line: { width: 0 }, opacity: Math.max(0.06, 0.2 - 0.03 * (best.length - 1)), hoverinfo: "skip", showlegend: false, legendgroup: `${row}` });
    traces.push({ x, y: curve[1], mode: "lines", line: { color, width: 2, dash: first.finished[row] ? "solid" : "dash" },
      name: first.labels[row], legendgroup: `${row}`, hovertemplate: "%{y:.3g} at %{x}<extra>%{fullData.name}</extra>" });
  });
  document.querySelectorAll("tr.chosen").forEach((line) => line.classList.remove("chosen"));
  best.forEach((row, place) => {
    const line = lineOf(row);
    if (line && (chosen.has(row) || rows.length > 1)) { line.classList.add("chosen"); line.style.setProperty("--chosen", colour(place)); }
  });
  return draw("curves", traces, layout(["training step", false], [first.curveMetric, first.curveLog]));
}

function drawCost(id) {
  const cost = first.costs[id];
  const at = new Map(cost.rows.map((row, place) => [row, place]));
  const rows = shown.filter((row) => at.has(row));
  const best = coloured(rows);
  const pick = (list, values) => list.map((row) => values[at.get(row)]);
  const traces = [];
  const grey = rows.filter((row) => !best.includes(row));
  const hover = "%{y:.3g} at %{x:.4g}<extra>%{text}</extra>";
  if (grey.length) traces.push({ x: pick(grey, cost.x), y: pick(grey, cost.y), text: grey.map((row) => first.labels[row]), mode: "markers",
    marker: { color: GREY, size: 5, opacity: 0.5 }, name: `${grey.length} others`, hovertemplate: hover });
  best.forEach((row, place) => traces.push({ x: pick([row], cost.x), y: pick([row], cost.y), text: [first.labels[row]], mode: "markers",
    error_y: { array: pick([row], cost.error), thickness: 1.2, width: 4 }, marker: { color: colour(place), size: 9 }, name: first.labels[row], hovertemplate: hover }));
  return draw(id, traces, layout([cost.name, cost.log], [first.main, first.mainLog]));
}

function hasWebGL() {
  try { return Boolean(document.createElement("canvas").getContext("webgl")); } catch { return false; }
}

function drawParallel() {
  const { rows, axes } = first.parallel;
  const visible = new Set(shown);
  const places = rows.map((_, place) => place).filter((place) => visible.has(rows[place]));
  if (axes.length < 2 || !places.length) { nothing("parallel"); return Promise.resolve(); }
  const rank = places.map((_, place) => place / Math.max(1, places.length - 1));
  const design = { margin: { l: 55, r: 75, t: 70, b: 25 }, paper_bgcolor: "#fff", plot_bgcolor: "#fff", showlegend: false };
  if (hasWebGL()) {
    const dimensions = axes.map((axis) => ({ label: axis.name, range: [Math.min(0, ...axis.places), 1], values: places.map((place) => axis.places[place]),
      tickvals: axis.ticks.map((tick) => tick[0]), ticktext: axis.ticks.map((tick) => tick[1]) }));
    return draw("parallel", [{ type: "parcoords", dimensions, line: { color: rank, colorscale: "Viridis" } }], design);
  }
  // Without WebGL, the same lines in ten colours, which can't be brushed.
  const shades = ["#440154", "#482878", "#3e4a89", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6dcd59", "#b4de2c", "#e5c812"];
  const traces = shades.map((color) => ({ x: [], y: [], mode: "lines", hoverinfo: "skip", opacity: places.length > 100 ? 0.35 : 0.8, line: { color, width: 1 } }));
  [...places.keys()].reverse().forEach((i) => {
    const trace = traces[Math.min(9, Math.floor(10 * rank[i]))];
    axes.forEach((axis, x) => { trace.x.push(x); trace.y.push(axis.places[places[i]]); });
    trace.x.push(null); trace.y.push(null);
  });
  const notes = axes.flatMap((axis, x) => axis.ticks.map(([y, text]) => ({ x, y, text, showarrow: false, xanchor: "left", xshift: 3, bgcolor: "rgba(255,255,255,.75)", font: { size: 10 } })));
  const lines = axes.map((_, x) => ({ type: "line", x0: x, x1: x, y0: -0.1, y1: 1.03, line: { color: "#3c4046", width: 1 } }));
  const xaxis = { tickvals: axes.map((_, x) => x), ticktext: axes.map((axis) => axis.name), side: "top", showgrid: false, zeroline: false, fixedrange: true };
  const yaxis = { visible: false, range: [-0.12, 1.05], fixedrange: true };
  return draw("parallel", traces.reverse(), { ...design, xaxis, yaxis, annotations: notes, shapes: lines });
}

const DRAWERS = { curves: drawCurves, parallel: drawParallel, parameters: () => drawCost("parameters"), wall_seconds: () => drawCost("wall_seconds") };
const drawn = new Set();

function drawAgain() { drawn.forEach((id) => DRAWERS[id]()); }

// ---- the table ----

const lines = []; // one <tr> for each row, by number
const lineOf = (row) => lines[row];
const headers = () => [...document.querySelectorAll("th")];
const valueOf = (line, column) => { const cell = line.cells[column]; return cell.dataset.v === undefined ? cell.textContent : Number(cell.dataset.v); };

function sortBy(column, descending) {
  const body = document.querySelector("tbody");
  const sign = descending ? -1 : 1;
  const keyed = lines.map((line) => [valueOf(line, column), line]);
  const blank = (value) => value === "";
  keyed.sort(([a], [b]) => {
    if (blank(a) || blank(b)) return blank(a) - blank(b); // blanks last, either way
    if (typeof a === "number" && typeof b === "number") return sign * (a - b);
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
    return sign * a.localeCompare(b, undefined, { numeric: true });
  });
  body.append(...keyed.map(([, line]) => line));
  headers().forEach((header, place) => {
    if (place === column) header.setAttribute("aria-sort", descending ? "descending" : "ascending"); else header.removeAttribute("aria-sort");
  });
}

/** A test of a table row for one word of the filter: FIELD OP VALUE, or a text; null for an unknown field. */
function testOf(word) {
  const parts = word.match(/^(.+?)(!=|<=|>=|==|=|<|>|~)(.*)$/);
  if (!parts) return (line) => line.textContent.toLowerCase().includes(word.toLowerCase());
  const column = headers().findIndex((header) => [header.textContent, header.title].includes(parts[1]));
  if (column < 0) return null;
  const [sign, wanted] = [parts[2], parts[3]];
  const asked = wanted === "" ? NaN : Number(wanted);
  return (line) => {
    const value = valueOf(line, column);
    if (sign === "~") return String(line.cells[column].textContent).toLowerCase().includes(wanted.toLowerCase());
    const same = typeof value === "number" ? value === asked : value === wanted;
    if (sign === "!=") return !same;
    if (sign === "=" || sign === "==") return same;
    if (typeof value !== "number" || Number.isNaN(asked)) return false;
    return { "<": value < asked, "<=": value <= asked, ">": value > asked, ">=": value >= asked }[sign];
  };
}

function applyFilter(text) {
  const tests = text.split(/\s+/).filter(Boolean).map(testOf);
  document.getElementById("filter").classList.toggle("wrong", tests.includes(null));
  const passes = lines.map((line) => tests.every((test) => test === null || test(line)));
  lines.forEach((line, row) => { line.hidden = !passes[row]; });
  shown = first.order.filter((row) => passes[row]);
  document.getElementById("count").textContent = `${shown.length} of ${lines.length} rows`;
}

/** Sorting and filter are kept in the address, so that a view can be sent to others. */
function remember() {
  const sorted = document.querySelector("th[aria-sort]");
  const parts = new URLSearchParams();
  if (sorted) parts.set(sorted.getAttribute("aria-sort"), sorted.textContent);
  const text = document.getElementById("filter").value;
  if (text) parts.set("filter", text);
  history.replaceState(null, "", `#${parts}`);
}

function recall() {
  const parts = new URLSearchParams(location.hash.slice(1));
  for (const order of ["ascending", "descending"]) {
    const column = headers().findIndex((header) => header.textContent === parts.get(order));
    if (column >= 0) sortBy(column, order === "descending");
  }
  document.getElementById("filter").value = parts.get("filter") || "";
  applyFilter(document.getElementById("filter").value);
}

function interactive() {
  document.querySelectorAll("tbody tr").forEach((line) => { lines[Number(line.dataset.row)] = line; });
  headers().forEach((header, column) => header.addEventListener("click", () => {
    sortBy(column, header.getAttribute("aria-sort") === "ascending");
    remember();
  }));
  document.querySelector("tbody").addEventListener("click", (event) => {
    const row = Number(event.target.closest("tr").dataset.row);
    if (!chosen.delete(row)) chosen.add(row);
    drawAgain();
  });
  let waiting = 0;
  document.getElementById("filter").addEventListener("input", (event) => {
    clearTimeout(waiting);
    waiting = setTimeout(() => { applyFilter(event.target.value); remember(); drawAgain(); }, 150);
  });
  recall();
  ready.then(() => {
    const seen = new IntersectionObserver((entries) => entries.forEach((entry) => {
      if (entry.isIntersecting && !drawn.has(entry.target.id)) { drawn.add(entry.target.id); DRAWERS[entry.target.id](); }
    }), { rootMargin: "200px" });
    ["parallel", "parameters", "wall_seconds"].forEach((id) => seen.observe(document.getElementById(id)));
    setTimeout(() => { rest = JSON.parse(document.getElementById("rest").textContent); drawCurves(); }, 0);
  });
}

drawn.add("curves");
const painted = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
const ready = drawCurves().then(painted).then(() => performance.mark("first-picture"));
