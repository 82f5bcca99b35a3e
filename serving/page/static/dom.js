// Elements and words: everything that is shown is made here as nodes and text, never as markup.

const SVG = "http://www.w3.org/2000/svg";
const kept = (children) => children.flat(3).filter((child) => child !== null && child !== undefined && child !== false);

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && ["value", "checked", "disabled", "hidden", "indeterminate"].includes(name)) element[name] = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...kept(children));
  return element;
}

export const h = (tag, attributes = {}, ...children) => filled(document.createElement(tag), attributes, children);
export const s = (tag, attributes = {}, ...children) => filled(document.createElementNS(SVG, tag), attributes, children);

export function replace(element, ...children) {
  element.replaceChildren(...kept(children));
  return element;
}

const NONE = "–";
export const known = (value) => Number.isFinite(value);

// Decimals with which the smallest of these has two figures, so that a column of them lines up.
export function decimals(values, most = 7) {
  const least = Math.min(...values.filter((value) => known(value) && value !== 0).map(Math.abs));
  if (!Number.isFinite(least) || least >= 1) return 2;
  return Math.min(most, Math.max(2, 1 - Math.floor(Math.log10(least))));
}

export function usd(value, places = decimals([value])) {
  if (!known(value)) return NONE;
  const text = Math.abs(value).toLocaleString("en-US", { minimumFractionDigits: places, maximumFractionDigits: places });
  return `${value < 0 && Number(Math.abs(value).toFixed(places)) !== 0 ? "−" : ""}$${text}`;
}

export function percent(value, places = 1) {
  return known(value) ? `${(value * 100).toFixed(places).replace("-", "−")}%` : NONE;
}

// What a thousand cost; nothing where one's cost is not known.
export const thousand = (value) => (known(value) ? value * 1000 : null);

// A share that was set, such as 5% or 2.5%: a decimal only where it has one.
export const share = (value) => percent(value, known(value) && Math.abs(value * 100 - Math.round(value * 100)) > 1e-6 ? 1 : 0);

// An amount on its own: cents, or two figures of what is less than one.
export const dollars = (value) => usd(value, known(value) && Math.abs(value) < 0.01 ? decimals([value], 12) : 2);

export function number(value, places = 0) {
  if (!known(value)) return NONE;
  return value.toLocaleString("en-US", { minimumFractionDigits: places, maximumFractionDigits: places });
}

export function between(low, high, show) {
  return known(low) && known(high) ? `${show(low)} to ${show(high)}` : known(low) ? `at least ${show(low)}` : NONE;
}

export const clock = (epoch) => (known(epoch) ? new Date(epoch * 1000).toLocaleTimeString("en-GB") : NONE);

export const moment = (epoch) => (known(epoch) ? new Date(epoch * 1000).toLocaleString("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" }) : NONE);

export const day = (value) => (value ? String(value).slice(0, 10) : NONE);

export const words = (name) => String(name).replaceAll("_", " ");

export const many = (count, one, more = `${one}s`) => `${number(count)} ${count === 1 ? one : more}`;

// The colour of a candidate is its place in the bundle, wherever it is shown.
let order = [];
export const setCandidates = (names) => (order = names);
export const colour = (name) => (order.includes(name) ? `c${order.indexOf(name) % 8}` : "c-other");

export const swatch = (name) => h("span", { class: `swatch ${colour(name)}`, "aria-hidden": "true" });
// A name on one line: hyphens in it are no place to break.
export const whole = (name) => h("span", { class: "name", title: name }, name);
// What is asked about most, in a few words beside its label.
const TERMS = {
  "P(acceptable)": "estimated chance that the answer is good enough",
  PSI: "stability index: how far the mix of prompts is from training's, 0 is the same",
  AIQ: "mean quality over all costs on the test part, higher is better",
};
export const helped = (term, label = term) => h("span", { title: TERMS[term] }, label, h("small", { class: "muted block" }, TERMS[term]));
export const titled = (term, label = term) => h("abbr", { title: TERMS[term] }, label);
export const meaning = (term) => `${term}: ${TERMS[term]}.`;
export const candidate = (name) => h("span", { class: "candidate" }, swatch(name), whole(name ?? NONE));

export function bar(share, kind) {
  const fill = h("span", { class: `fill ${kind}` });
  fill.style.width = `${Math.max(0, Math.min(1, known(share) ? share : 0)) * 100}%`;
  return h("span", { class: "bar", "aria-hidden": "true" }, fill);
}

const MANY_COLUMNS = 5, FEW_ROWS = 15;
// columns: [heading, "num" | ""]; rows: arrays of text or nodes.
export function table(caption, columns, rows, empty = "Nothing yet.", stacks = columns.length >= MANY_COLUMNS && rows.length <= FEW_ROWS) {
  const head = h("tr", { role: "row" }, columns.map(([title, kind]) => h("th", { scope: "col", class: kind, role: "columnheader" }, title)));
  const body = rows.map((row) =>
    h("tr", { role: "row" }, row.map((cell, place) =>
      h(place ? "td" : "th", { class: columns[place][1], scope: place ? null : "row", role: place ? "cell" : "rowheader", "data-label": columns[place][0].textContent ?? columns[place][0] }, cell))));
  if (!rows.length) return nothing(empty);
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h("table", { role: "table", class: stacks && "stacks" }, h("caption", { class: "unseen" }, caption), h("thead", { role: "rowgroup" }, head), h("tbody", { role: "rowgroup" }, body)));
}

export const details = (summary, ...children) => h("details", {}, h("summary", {}, summary), ...children);

export const card = (title, ...children) => h("section", { class: "card" }, title && h("h2", {}, title), ...children);

export const figure = (label, value, note, kind = "") =>
  h("div", { class: `figure ${kind}` }, h("dt", {}, label), h("dd", {}, h("span", { class: "value" }, value), note && h("span", { class: "note" }, note)));

export const muted = (...children) => h("p", { class: "muted" }, ...children);
export const nothing = (...children) => h("p", { class: "muted empty" }, ...children);
export const loading = (text = "Loading…") => h("p", { class: "muted", role: "status" }, text);

export const badge = (text, kind = "") => h("span", { class: `badge ${kind}` }, text);

export function failure(problem, again) {
  const kind = problem.status === 403 || problem.status === 401 ? "Not with this key" : problem.status === 404 ? "Not here" : "That did not work";
  return h("div", { class: "failure", role: "alert" },
    h("h3", {}, kind), h("p", {}, problem.message),
    problem.needs && muted(problem.needs),
    again && h("button", { type: "button", onclick: again }, "Try again"));
}
