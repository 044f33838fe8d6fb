// The statistics of failed orders: tables whose bars are drawn beside the numbers, and the days as columns.
import { call } from "./api.js";

const SVG = "http://www.w3.org/2000/svg";
const ROWS = 12;
const section = document.getElementById("failed");
const words = JSON.parse(section.dataset.words);
const tabs = [...section.querySelectorAll("[role=tab]")];
const days = document.getElementById("failed-days");
const problem = document.getElementById("failed-stats-problem");
let asked = 0;

// --- the tabs ----------------------------------------------------------------------------------------

function show(tab) {
  for (const one of tabs) {
    one.ariaSelected = String(one === tab);
    one.tabIndex = one === tab ? 0 : -1;
    document.getElementById(one.getAttribute("aria-controls")).hidden = one !== tab;
  }
  if (tab.id === "failed-tab-stats") load();
}

section.querySelector("[role=tablist]").addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  const tab = tabs[(tabs.indexOf(document.activeElement) + step + tabs.length) % tabs.length];
  tab.focus();
  show(tab);
});
for (const tab of tabs) tab.addEventListener("click", () => show(tab));
days.addEventListener("change", load);

// --- drawing -----------------------------------------------------------------------------------------

function node(name, attributes = {}, ...content) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...content);
  return made;
}

function shape(name, attributes, ...content) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...content);
  return made;
}

// `parts`: [class, share of the width]. The number stands beside it, so the picture is no news to a reader.
function bar(parts) {
  let x = 0;
  const pieces = parts.map(([kind, share]) => {
    const piece = shape("rect", { class: kind, x, y: 0, width: share * 100, height: 8 });
    x += share * 100;
    return piece;
  });
  return shape("svg", { class: "bar-of", viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" }, ...pieces);
}

function table(heads, rows) {
  const head = heads.map(([text, kind]) => node("th", { scope: "col", class: kind }, text));
  const lines = rows.map(([first, ...cells]) =>
    node("tr", {}, node("th", { scope: "row" }, first), ...cells.map(([content, kind]) => node("td", { class: kind }, content))),
  );
  return node("table", { class: "stats" }, node("thead", {}, node("tr", {}, ...head)), node("tbody", {}, ...lines));
}

function put(id, empty, ...content) {
  const figure = document.getElementById(id);
  const nothing = node("p", { class: "nothing" }, empty);
  figure.replaceChildren(figure.querySelector("figcaption"), ...(content.length ? content : [nothing]));
}

function counted(id, head, counts, name) {
  const most = Math.max(...counts.map((one) => one.count));
  const rows = counts.slice(0, ROWS).map((one) => [one[name] || "–", [bar([["lost", one.count / most]]), "drawn"], [String(one.count), "number"]]);
  const heads = [[head, ""], [words.share, "unseen-head"], [words.failed, "number"]];
  put(id, words.nothing_failed, ...(rows.length ? [table(heads, rows)] : []));
}

function perDay(counts) {
  const most = Math.max(...counts.map((one) => one.count), 0);
  if (!most) return put("stats-days", words.nothing_failed);
  const wide = 100 / counts.length;
  const columns = counts.map((one, at) => {
    const high = (one.count / most) * 40;
    const title = shape("title", {}, `${one.day}: ${one.count}`);
    return shape("rect", { class: "lost", x: at * wide + wide * 0.1, y: 40 - high, width: wide * 0.8, height: high }, title);
  });
  const chart = shape("svg", { class: "columns-of", viewBox: "0 0 100 40", preserveAspectRatio: "none", "aria-hidden": "true" }, ...columns);
  const axis = node("p", { class: "axis", "aria-hidden": "true" }, node("span", {}, counts[0].day.slice(5)), node("span", {}, `max ${most}`), node("span", {}, counts.at(-1).day.slice(5)));
  const rows = counts.filter((one) => one.count).map((one) => [one.day, [String(one.count), "number"]]);
  const words_of = table([[words.day, ""], [words.failed, "number"]], rows);
  put("stats-days", "", chart, axis, node("div", { class: "unseen" }, words_of));
}

function perStrategy(rates) {
  const rows = rates.map((one) => {
    const known = one.succeeded + one.failed || 1;
    const rate = one.success_rate === null ? "–" : `${one.success_rate} %`;
    const drawn = bar([["won", one.succeeded / known], ["lost", one.failed / known]]);
    return [one.strategy, [drawn, "drawn"], [rate, "number"], [String(one.orders), "number"], [String(one.failed), "number"]];
  });
  const heads = [[words.strategy, ""], [words.share, "unseen-head"], [words.rate, "number"], [words.orders, "number"], [words.failed, "number"]];
  put("stats-strategies", words.no_orders, ...(rows.length ? [table(heads, rows)] : []));
}

async function load() {
  const own = ++asked;
  const told = await call("GET", `${section.dataset.api}/stats?days=${days.value}`);
  if (own !== asked) return; // another period was chosen meanwhile
  problem.textContent = told.ok ? "" : told.status === 403 ? words.not_allowed : (told.error ?? words.no_answer);
  if (!told.ok) return;
  perDay(told.by_day);
  perStrategy(told.strategies);
  counted("stats-reasons", words.reason, told.by_reason, "reason");
  counted("stats-symbols", words.symbol, told.by_symbol, "symbol");
}

// While it is looked at, it follows what happens; a burst counts as one.
let soon = 0;
document.addEventListener("live:changed", () => {
  if (document.getElementById("failed-stats").hidden || soon) return;
  soon = setTimeout(() => load((soon = 0)), 3000);
});
