"use strict";
// A plain first picture is drawn before the table is parsed; plotly's charts follow when they are looked at.
const COLORS = ["#1f5fa8", "#d9622b", "#2a9d5c", "#b5367a", "#7a5cc7", "#b58a00", "#0f9bb3", "#8c4a2f", "#c2413b", "#4f6d2f"];
const SHADES = ["#440154", "#482878", "#3e4a89", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6dcd59", "#b4de2c", "#e5c812"];
const GREY = "#8a8f98", DARK = "#3c4046", LINE = "#e3e5e8", WHITE = { paper_bgcolor: "#fff", plot_bgcolor: "#fff" };
const MOST_GREY = 100; // curves of other rows; more would be one grey
const MOST_NAMED = 30; // in the legend
const AXIS_WIDTH = 118; // pixels that one of the parallel coordinates needs, with its labels
// Nothing leaves this file: plotly would offer to send a chart to its makers.
const CONFIG = { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["sendChartToCloud", "select2d", "lasso2d", "autoScale2d"] };
const first = JSON.parse(document.getElementById("first").textContent);
const drawable = new Set(first.drawable);
let rest = null; // curves of the other rows, when they are there
let shown = first.order; // numbers of the rows that pass the filter, best first
let colours = new Map(); // row ↦ colour, the same in all charts
const chosen = new Set(); // rows clicked in the table
const ownColours = new Map(shown.filter((row) => drawable.has(row)).slice(0, COLORS.length).map((row, place) => [row, COLORS[place]]));
const lastColours = new Map(); // of other rows

const plot = (id) => document.querySelector(`#${id} .plot`);
const escaped = (text) => text.replace(/[&<>"]/g, (sign) => `&#${sign.charCodeAt(0)};`);
const numberText = (value) => String(Number(value.toPrecision(4)));
const curveOf = (row) => first.curves[row] || (rest && rest.curves[row]) || null;
const stepsOf = (curve) => first.grids[curve[0]] || rest.grids[curve[0]];

/** Gives colours to the rows that were clicked and to the best, and names them once for all charts.
 *  The best of all rows have theirs for good; what a filter or a click adds keeps its own until one of those is back. */
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
  const chips = best.slice(0, MOST_NAMED).map((row) => chip(colours.get(row), first.labels[row], first.finished[row] ? "" : "unfinished"));
  const left = rows.length - chips.length;
  if (left) chips.push(chip(GREY, `${left} other${left > 1 ? "s" : ""}`));
  document.getElementById("legend").innerHTML = chips.join("");
}

/** The ends of an axis, with some room; those of a logarithmic one as exponents. */
function rangeOf(values, log, top, accuracy) {
  const there = values.filter((value) => Number.isFinite(value) && (!log || (value > 0 && (top === null || value <= top)))).map((value) => (log ? Math.log10(value) : value));
  if (!there.length) return null;
  const [low, high] = there.reduce(([a, b], value) => [Math.min(a, value), Math.max(b, value)], [Infinity, -Infinity]);
  const room = Math.max(0.06 * (high - low), log ? 0.1 : high === low ? 0.04 * Math.abs(high) || 1 : 0);
  return [low - room, accuracy && high <= 1 ? Math.min(high + room, 1 + 0.02 * (1 - low + room)) : high + room];
}

/** Of an axis { title, log, values, top, format }: what plotly is to draw. */
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

/** The best curves as plain SVG, at once: plotly takes a second or two to start. */
function sketch() {
  const rows = [...colours.keys()].filter((row) => first.curves[row]);
  const scale = first.curveLog ? (value) => (value > 0 ? Math.log10(value) : NaN) : (value) => (value === null ? NaN : value);
  const xs = rows.flatMap((row) => stepsOf(first.curves[row]));
  const range = rangeOf(rows.flatMap((row) => first.curves[row].slice(1).flat()), first.curveLog, first.curveTop, /accuracy$/.test(first.curveMetric));
  if (!xs.length || !range) return;
  const { clientWidth: width, clientHeight: height } = plot("curves");
  const [left, right, top, bottom] = [60, width - 14, 30, height - 45];
  const [x0, x1, y0, y1] = [Math.min(...xs), Math.max(...xs), ...range];
  const across = (x) => left + ((x - x0) / (x1 - x0 || 1)) * (right - left);
  const up = (y) => bottom - ((Math.min(y, y1) - y0) / (y1 - y0)) * (bottom - top);
  const path = (steps, values) => steps.map((x, i) => [across(x), up(scale(values[i]))]).filter(([, y]) => Number.isFinite(y))
    .map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" ");
  const parts = [];
  const every = Math.max(1, Math.ceil((y1 - y0) / 8));
  const marks = first.curveLog && y1 - y0 > 2 ? Array.from({ length: Math.floor(y1) - Math.ceil(y0) + 1 }, (_, i) => Math.ceil(y0) + i).filter((_, i) => i % every === 0)
    : [0.1, 0.4, 0.7, 1].map((share) => y0 + share * (y1 - y0));
  for (const y of marks) {
    const text = !first.curveLog ? y.toPrecision(3) : Number.isInteger(y) ? `1e${y}` : (10 ** y).toPrecision(2);
    parts.push(`<path d="M${left} ${up(y)}H${right}" stroke="${LINE}"/><text x="${left - 6}" y="${up(y) + 4}" text-anchor="end">${text}</text>`);
  }
  for (const share of [0, 0.5, 1]) {
    const x = x0 + share * (x1 - x0);
    parts.push(`<text x="${across(x)}" y="${bottom + 18}" text-anchor="middle">${Math.round(x)}</text>`);
  }
  const widths = lineWidths(rows);
  [...rows].reverse().forEach((row) => {
    const curve = first.curves[row], steps = stepsOf(curve), color = colours.get(row);
    const band = `${path(steps, curve[3])} ${path([...steps].reverse(), [...curve[2]].reverse())}`;
    parts.push(`<polygon points="${band}" fill="${color}" opacity="0.07"/><polyline points="${path(steps, curve[1])}" fill="none" stroke="${color}" stroke-width="${widths.get(row)}"/>`);
  });
  parts.push(`<text x="${(left + right) / 2}" y="${bottom + 38}" text-anchor="middle">training step</text>`);
  parts.push(`<text transform="translate(14 ${(top + bottom) / 2}) rotate(-90)" text-anchor="middle">${escaped(first.curveMetric)}</text>`);
  plot("curves").innerHTML = `<svg class="sketch" viewBox="0 0 ${width} ${height}" width="100%" height="100%" font-size="12">${parts.join("")}</svg>`;
}

/** Row ↦ width of its line: a curve that lies below another all along is so much wider that both are seen. */
function lineWidths(rows) { // best first
  const hides = (one, other) => one.length === other.length && one.every((value, i) => value === other[i] || Math.abs(value - other[i]) <= 0.02 * Math.abs(value));
  return new Map(rows.map((row, place) => [row, 2 + 3 * rows.slice(0, place).filter((better) => hides(curveOf(row)[1], curveOf(better)[1])).length]));
}

function drawCurves() {
  const rows = shown.filter(curveOf);
  const best = rows.filter((row) => colours.has(row));
  const traces = [], heights = [];
  const others = rest ? rows.filter((row) => !colours.has(row)) : [];
  const hover = `<b>%{text}</b><br>${escaped(first.curveMetric)} %{y:.3g} at step %{x}<extra></extra>`;
  if (others.length) {
    const x = [], y = [], text = [], customdata = [];
    const every = Math.ceil(others.length / MOST_GREY);
    for (let i = 0; i < others.length; i += every) {
      const curve = curveOf(others[i]), name = escaped(first.labels[others[i]]);
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
    traces.push({ x, y: curve[1], text: first.labels[row] && escaped(first.labels[row]), meta: row, mode: x.length < 30 ? "lines+markers" : "lines",
      line: { color, width: widths.get(row), dash: first.finished[row] ? "solid" : "dash" }, marker: { color, size: 5 }, hovertemplate: hover });
    heights.push(...curve.slice(1));
  });
  return draw("curves", traces, layout({ title: "training step", log: false, values: [] }, { title: first.curveMetric, log: first.curveLog, values: heights.flat(), top: first.curveTop }));
}

function drawCost(id) {
  const cost = first.costs[id];
  const at = new Map(cost.rows.map((row, place) => [row, place]));
  const rows = shown.filter((row) => at.has(row));
  const pick = (list, values) => list.map((row) => values[at.get(row)]);
  const trace = (list, marker) => {
    const error = pick(list, cost.error);
    return { x: pick(list, cost.x), y: pick(list, cost.y), customdata: list, mode: "markers", marker,
      text: list.map((row, i) => `<b>${escaped(first.labels[row])}</b><br>${escaped(first.main)} ${numberText(cost.y[at.get(row)])}${error[i] ? ` ± ${numberText(error[i])}` : ""}<br>${cost.name} ${numberText(cost.x[at.get(row)])}`),
      hovertemplate: "%{text}<extra></extra>" };
  };
  const traces = [];
  const grey = rows.filter((row) => !colours.has(row));
  if (grey.length) traces.push(trace(grey, { color: GREY, size: 5, opacity: 0.5 }));
  rows.filter((row) => colours.has(row)).reverse().forEach((row) => {
    const color = colours.get(row);
    const [y] = pick([row], cost.y), [error] = pick([row], cost.error);
    const down = first.mainLog ? Math.min(error, 0.9 * y) : error; // a mean less its error may lie below 0
    traces.push({ ...trace([row], { color, size: 9 }), error_y: { symmetric: false, array: [error], arrayminus: [down], visible: error > 0, color, thickness: 1.2, width: 4 } });
  });
  const ends = traces.flatMap(({ y, error_y: bar }) => (bar ? [y[0] + bar.array[0], y[0] - bar.arrayminus[0]] : y));
  const within = first.mainTop === null ? ends : ends.map((value) => (value > first.mainTop && value < 3 * first.mainTop ? first.mainTop : value));
  return draw(id, traces, layout({ title: cost.name, log: cost.log, values: pick(rows, cost.x), format: id === "parameters" ? "~s" : ".4~g" },
    { title: first.main || "", log: first.mainLog, values: within, top: first.mainTop }));
}

function hasWebGL() {
  try { return Boolean(document.createElement("canvas").getContext("webgl")); } catch { return false; }
}

/** As many of the parallel coordinates as there is room for, the metric among them. */
function axesWithRoom(width) {
  const room = Math.max(2, Math.floor((width - 150) / AXIS_WIDTH) + 1);
  const kept = new Set([...first.parallel.axes].sort((a, b) => a.rank - b.rank).slice(0, room));
  return first.parallel.axes.filter((axis) => kept.has(axis));
}

function drawParallel() {
  const { rows, best, targets } = first.parallel;
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
  const left = first.parallel.axes.length - axes.length;
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
  // Without WebGL, the same lines in ten colours, which can't be brushed.
  const bolds = targets > 1 ? [...places.keys()].filter((i) => best.includes(rows[places[i]])) : best.length ? [0] : [];
  const which = targets > 1 ? ", the best of each function or data set bold" : ", the best one bold";
  caption.textContent = `Parallel coordinates: a line for each row, dark is best${bolds.length ? which : ""}.${more}`;
  const opacity = places.length > 100 ? 0.35 : 0.8;
  const traces = SHADES.map((color) => ({ x: [], y: [], text: [], customdata: [], mode: "lines", opacity, line: { color, width: 1.2 }, hovertemplate: "%{text}<extra></extra>" }));
  const add = (trace, i) => {
    axes.forEach((axis, x) => { trace.x.push(x); trace.y.push(axis.places[places[i]]); trace.text.push(escaped(first.labels[rows[places[i]]])); trace.customdata.push(rows[places[i]]); });
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
const loaded = new Promise((done) => addEventListener("DOMContentLoaded", done));

/** Runs plotly, which lies in the page as text so that it does not hold up the first picture. */
function start() {
  const script = document.createElement("script");
  script.textContent = document.getElementById("plotly").textContent;
  document.head.append(script);
  rest = JSON.parse(document.getElementById("rest").textContent);
}

/** Draws each chart when it comes near the window, one at a time, so that each is seen as soon as it is there. */
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

recolour();
sketch();
const ready = painted().then(() => performance.mark("first-picture")).then(() => loaded).then(start);
