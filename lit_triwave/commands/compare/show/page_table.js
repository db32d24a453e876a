"use strict";
// The table: sorting, filter, and the rows that are picked for the charts.
const OPERATOR = "!=|<=|>=|==|=|<|>|~";
const QUOTED = `"[^"]*"?|'[^']*'?`;
const WORD = new RegExp(`([^\\s"'=!<>~]+)\\s*(${OPERATOR})\\s*(${QUOTED}|\\[[^\\]]*\\]|[^\\s"']\\S*)?|(${QUOTED})|(\\S+)`, "g");
const CONDITION = new RegExp(`^\\s*([^=!<>~]*?)\\s*(${OPERATOR})\\s*(.*?)\\s*$`, "s");
const MOST_NEAR = 3; // names that are offered for an unknown one

const table = document.querySelector("#scroll table");
const headers = [...table.tHead.rows[0].cells];
const names = headers.map((header) => ({ short: header.textContent, full: header.title }));
const lines = []; // one <tr> for each row, by number
const unquoted = (text) => (/^["']/.test(text || "") ? text.slice(1).replace(new RegExp(`${text[0]}$`), "") : text || "");
const textOf = (cell) => cell.textContent.replace(/^★ /, "");

/** What a cell has: a number, a list, a text, true or false; null for nothing. */
function valueOf(cell) {
  if (cell.dataset.v !== undefined) return Number(cell.dataset.v);
  const text = textOf(cell);
  if (cell.dataset.json !== undefined) try { return JSON.parse(cell.dataset.json); } catch { return text; } // NaN is no JSON
  return text === "" ? null : text === "true" || text === "false" ? text === "true" : text;
}

function sortBy(column, descending) {
  const sign = descending ? -1 : 1;
  const keyed = lines.map((line) => { const cell = line.cells[column]; return [cell.dataset.v === undefined ? textOf(cell) : Number(cell.dataset.v), line]; });
  const blank = (value) => value === "";
  keyed.sort(([a], [b]) => {
    if (blank(a) || blank(b)) return blank(a) - blank(b); // blanks last, either way
    if (typeof a === "number" && typeof b === "number") return sign * (a - b);
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
    return sign * a.localeCompare(b, undefined, { numeric: true });
  });
  table.tBodies[0].append(...keyed.map(([, line]) => line));
  headers.forEach((header, place) => {
    if (place === column) header.setAttribute("aria-sort", descending ? "descending" : "ascending"); else header.removeAttribute("aria-sort");
  });
}

/** How many signs have to be changed to make one text of another. */
function distance(one, other) {
  let above = Array.from({ length: other.length + 1 }, (_, i) => i);
  for (let i = 1; i <= one.length; i++) {
    const line = [i];
    for (let j = 1; j <= other.length; j++) line[j] = Math.min(above[j] + 1, line[j - 1] + 1, above[j - 1] + (one[i - 1] !== other[j - 1]));
    above = line;
  }
  return above[other.length];
}

/** The number of the column that a full or a short name means; { error } for none, or for several. */
function columnOf(name) {
  const exact = names.findIndex(({ short, full }) => short === name || full === name);
  if (exact >= 0) return exact;
  if (name === "name") return 0;
  const meant = names.flatMap(({ full }, column) => (full.endsWith(`.${name}`) || full.endsWith(`/${name}`) ? [column] : []));
  if (meant.length === 1) return meant[0];
  if (meant.length) return { error: `${name}: ${meant.map((column) => names[column].full).join(" or ")}? Give more of its name.` };
  const known = [...new Set(names.flatMap(({ short, full }) => [short, full]))].map((other) => [distance(name.toLowerCase(), other.toLowerCase()), other]);
  const near = known.filter(([changes, other]) => changes <= Math.max(2, Math.max(name.length, other.length) * 0.4)).sort(([a], [b]) => a - b);
  const offered = near.slice(0, MOST_NEAR).map(([, other]) => `'${other}'`).join(" or ");
  return { error: `${name}: no column of the table${offered ? `; did you mean ${offered}?` : ""}` };
}

/** A value as a cell shows it: a class by its last name. */
const shownAs = (value) => (/^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$/.test(value) ? value.split(".").pop() : String(value));

function equal(value, wanted) {
  if (typeof value === "number") return wanted.trim() !== "" && value === Number(wanted);
  if (value === null) return ["null", "none", ""].includes(wanted.toLowerCase());
  if (typeof value === "boolean") return String(value) === wanted.toLowerCase();
  return wanted === (typeof value === "object" ? JSON.stringify(value) : value) || wanted === shownAs(value);
}

/** A list as a config has it, in YAML of one level; null for another text. */
function listed(text) {
  if (!/^\[.*\]$/s.test(text)) return null;
  try { return JSON.parse(text); } catch { /* YAML's texts need no quotes */ }
  const inside = text.slice(1, -1).trim();
  return inside ? inside.split(",").map((item) => unquoted(item.trim())) : [];
}

const alike = (value, wanted) => (Array.isArray(value) && Array.isArray(wanted)
  ? value.length === wanted.length && value.every((item, i) => alike(item, wanted[i])) : !Array.isArray(wanted) && equal(value, String(wanted)));

/** Why < and > mean nothing for a column and a wanted value; "" if they do. */
function withoutOrder(column, said, sign, isNumber) {
  const values = lines.map((line) => valueOf(line.cells[column])).filter((value) => value !== null);
  if (!"<>".includes(sign[0]) || !values.length || values.some((value) => typeof value === "string")) return "";
  if (!values.some((value) => typeof value === "number")) return `${said}: ${names[column].short} has no order; it takes = != ~`;
  return isNumber ? "" : `${said}: ${sign} takes a number`;
}

const ORDERS = { "<": (a, b) => a < b, "<=": (a, b) => a <= b, ">": (a, b) => a > b, ">=": (a, b) => a >= b };

/** The test of a table row that FIELD OP VALUE means, as --where of the command line has it; or { error }. */
function condition(field, operator, wanted) {
  const column = columnOf(field), sign = operator === "==" ? "=" : operator;
  if (column.error) return column;
  const asked = wanted.trim() === "" ? NaN : Number(wanted), list = listed(wanted);
  const error = withoutOrder(column, `${field}${operator}${wanted}`, sign, !Number.isNaN(asked));
  if (error) return { error };
  const time = wanted.replace(/(\d{4}-\d\d-\d\d) (?=\d)/g, "$1T"); // as runs have it
  const ofOne = (value, how) => {
    if (how === "~") return value !== null && (typeof value === "object" ? JSON.stringify(value) : String(value)).toLowerCase().includes(wanted.toLowerCase());
    if (how === "=" || how === "!=") return equal(value, wanted) === (how === "=");
    if (typeof value === "string") return ORDERS[how](value, time);
    return typeof value === "number" && ORDERS[how](value, asked);
  };
  return (line) => {
    const cell = line.cells[column], value = valueOf(cell);
    if (!Array.isArray(value) || "<>".includes(sign[0])) return ofOne(value, sign);
    const found = value.some((item) => ofOne(item, sign === "!=" ? "=" : sign)) || (sign !== "~" && (wanted === textOf(cell) || alike(value, list ?? wanted)));
    return found !== (sign === "!=");
  };
}

function containing(text) {
  return (line) => [...line.cells].some((cell) => cell.textContent.toLowerCase().includes(text.toLowerCase()));
}

/** The tests of a filter's words: conditions, and texts; a quoted word is a condition if it is one of a column. */
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
  shown = first.order.filter((row) => passes[row]);
  document.getElementById("count").textContent = `${shown.length} of ${lines.length} rows`;
}

/** Sorting and filter are kept in the address, so that a view can be sent to others. */
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

/** Shows the charts' colours beside the rows. */
function markRows() {
  lines.forEach((line, row) => {
    const color = colours.get(row);
    line.classList.toggle("chosen", color !== undefined);
    if (color) line.style.setProperty("--chosen", color);
  });
}

/** Adds a row to those in colour, or takes it away. */
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
  if (getSelection().isCollapsed) choose(Number(event.target.closest("tr").dataset.row)); // else a text is being copied
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
ready.then(watch);
