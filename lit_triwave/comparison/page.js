"use strict";
// A plain first picture is drawn before the table is parsed; plotly's charts follow when they are looked at.
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

function layout(x, y, heights) {
  const there = heights.flat().filter((value) => value > 0);
  const decades = Math.log10(there.reduce((a, b) => Math.max(a, b), 0) / there.reduce((a, b) => Math.min(a, b), Infinity));
  const axis = (title, log) => ({ title: { text: title, standoff: 6 }, automargin: true, type: log ? "log" : "linear", gridcolor: "#e3e5e8", zeroline: false, exponentformat: "power" });
  return {
    margin: { l: 65, r: 10, t: 10, b: 45 }, hovermode: "closest", showlegend: true, paper_bgcolor: "#fff", plot_bgcolor: "#fff",
    legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom", font: { size: 11 } }, xaxis: axis(...x),
    yaxis: { ...axis(...y), ...(y[1] && decades > 1.5 ? { dtick: Math.ceil(decades / 8) } : {}) },
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
  if (!place.classList.contains("js-plotly-plot")) { place.classList.remove("none"); place.textContent = ""; }
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

/** The best curves as plain SVG, at once: plotly takes a second or two to start. */
function sketch() {
  const rows = first.order.filter((row) => first.curves[row]).slice(0, COLORS.length);
  const scale = first.curveLog ? (value) => (value > 0 ? Math.log10(value) : NaN) : (value) => (value === null ? NaN : value);
  const finite = (lists) => lists.flat().filter(Number.isFinite);
  const xs = finite(rows.map((row) => stepsOf(first.curves[row])));
  const ys = finite(rows.flatMap((row) => first.curves[row].slice(1).map((list) => list.map(scale))));
  if (!xs.length || !ys.length) return;
  const [left, right, top, bottom] = [65, 590, 25, 255];
  const [x0, x1, y0, y1] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const across = (x) => left + ((x - x0) / (x1 - x0 || 1)) * (right - left);
  const up = (y) => bottom - ((y - y0) / (y1 - y0 || 1)) * (bottom - top);
  const path = (steps, values) => steps.map((x, i) => [across(x), up(scale(values[i]))]).filter(([, y]) => Number.isFinite(y))
    .map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" ");
  const escaped = (text) => text.replace(/[&<>]/g, (sign) => `&#${sign.charCodeAt(0)};`);
  const parts = [];
  const every = Math.max(1, Math.ceil((y1 - y0) / 6));
  const marks = first.curveLog ? Array.from({ length: Math.floor(y1) - Math.ceil(y0) + 1 }, (_, i) => Math.ceil(y0) + i).filter((_, i) => i % every === 0)
    : [0, 0.25, 0.5, 0.75, 1].map((share) => y0 + share * (y1 - y0));
  for (const y of marks) {
    const text = first.curveLog ? `1e${y}` : y.toPrecision(3);
    parts.push(`<path d="M${left} ${up(y)}H${right}" stroke="#e3e5e8"/><text x="${left - 6}" y="${up(y) + 4}" text-anchor="end">${text}</text>`);
  }
  for (const share of [0, 0.5, 1]) {
    const x = x0 + share * (x1 - x0);
    parts.push(`<text x="${across(x)}" y="${bottom + 18}" text-anchor="middle">${Math.round(x)}</text>`);
  }
  [...rows].reverse().forEach((row, i) => {
    const curve = first.curves[row], steps = stepsOf(curve), color = colour(rows.length - 1 - i);
    const band = `${path(steps, curve[3])} ${path([...steps].reverse(), [...curve[2]].reverse())}`;
    parts.push(`<polygon points="${band}" fill="${color}" opacity="0.07"/><polyline points="${path(steps, curve[1])}" fill="none" stroke="${color}" stroke-width="2"/>`);
  });
  rows.forEach((row, i) => {
    const [x, y] = [left, bottom + 56 + 13 * i];
    parts.push(`<path d="M${x} ${y - 4}h22" stroke="${colour(i)}" stroke-width="2"/><text x="${x + 28}" y="${y}">${escaped(first.labels[row])}</text>`);
  });
  parts.push(`<text x="${(left + right) / 2}" y="${bottom + 36}" text-anchor="middle">training step</text>`);
  parts.push(`<text transform="translate(14 ${(top + bottom) / 2}) rotate(-90)" text-anchor="middle">${escaped(first.curveMetric)}</text>`);
  plot("curves").innerHTML = `<svg class="sketch" viewBox="0 0 610 440" width="100%" height="100%" font-size="11">${parts.join("")}</svg>`;
}

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
  return draw("curves", traces, layout(["training step", false], [first.curveMetric, first.curveLog], traces.map((trace) => trace.y)));
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
  return draw(id, traces, layout([cost.name, cost.log], [first.main, first.mainLog], traces.map((trace) => trace.y)));
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
  const design = { margin: { l: 55, r: 75, t: 80, b: 25 }, paper_bgcolor: "#fff", plot_bgcolor: "#fff", showlegend: false };
  if (hasWebGL()) {
    const last = [...places].reverse(); // the best lines lie on top
    const dimensions = axes.map((axis) => ({ label: axis.name, range: [Math.min(0, ...axis.places), 1], values: last.map((place) => axis.places[place]),
      tickvals: axis.ticks.map((tick) => tick[0]), ticktext: axis.ticks.map((tick) => tick[1]) }));
    return draw("parallel", [{ type: "parcoords", dimensions, line: { color: [...rank].reverse(), colorscale: "Viridis" } }], design);
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
  notes.push(...axes.map((axis, x) => ({ x, y: 1, yref: "paper", text: axis.name, showarrow: false, xanchor: "left", yanchor: "bottom", xshift: -8, textangle: axes.length > 5 ? -20 : 0 })));
  const xaxis = { visible: false, range: [-0.15, axes.length - 0.5], fixedrange: true };
  const yaxis = { visible: false, range: [-0.12, 1.04], fixedrange: true };
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
    let queue = Promise.resolve(); // one at a time, so that each is seen as soon as it is there
    const seen = new IntersectionObserver((entries) => entries.forEach(({ isIntersecting, target: { id } }) => {
      if (!isIntersecting || drawn.has(id)) return;
      drawn.add(id);
      queue = queue.then(DRAWERS[id]).then(painted).then(() => performance.mark(`${id}-drawn`));
    }), { rootMargin: "200px" });
    Object.keys(DRAWERS).forEach((id) => seen.observe(document.getElementById(id)));
  });
}

const painted = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
const loaded = new Promise((done) => addEventListener("DOMContentLoaded", done));

/** Runs plotly, which lies in the page as text so that it does not hold up the first picture. */
function start() {
  const script = document.createElement("script");
  script.textContent = document.getElementById("plotly").textContent;
  document.head.append(script);
  rest = JSON.parse(document.getElementById("rest").textContent);
}

sketch();
const ready = painted().then(() => performance.mark("first-picture")).then(() => loaded).then(start);
