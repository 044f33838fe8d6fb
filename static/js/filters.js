// Which failed orders are shown: the form, the page's address and the server say the same.
import { showFailed } from "./live.js";
import { localDay } from "./times.js";

const NAMES = ["strategy_account_id", "symbol", "error_type", "created_after", "created_before"];
const section = document.getElementById("failed");
const form = document.getElementById("failed-filter");
const exporting = document.getElementById("failed-export");
let typing = 0;

const midnight = (text, days = 0) => {
  const [year, month, day] = text.split("-").map(Number);
  return new Date(year, month - 1, day + days).toISOString();
};

function asked() {
  const { strategy_account_id, symbol, error_type, from, until } = form.elements;
  const filter = {
    strategy_account_id: strategy_account_id?.value ?? "",
    symbol: symbol.value.trim().toUpperCase(),
    error_type: error_type.value,
    created_after: from.value && midnight(from.value),
    created_before: until.value && midnight(until.value, 1), // that day is meant too
  };
  return Object.fromEntries(Object.entries(filter).filter(([, value]) => value));
}

function link(filter) {
  const wanted = { ...filter };
  if (section.dataset.of) wanted.strategy_account_id ??= section.dataset.of; // the whole page shows one only
  exporting.search = new URLSearchParams(wanted);
  document.getElementById("failed-list").classList.toggle("narrowed", Object.keys(filter).length > 0);
}

function narrow() {
  clearTimeout(typing);
  const filter = asked();
  const address = new URL(location.href);
  for (const name of NAMES) address.searchParams.delete(name);
  for (const [name, value] of Object.entries(filter)) address.searchParams.set(name, value);
  history.replaceState(null, "", address);
  link(filter);
  showFailed(filter);
}

function restore() {
  const given = new URLSearchParams(location.search);
  const filter = Object.fromEntries(NAMES.filter((name) => given.get(name)).map((name) => [name, given.get(name)]));
  const day = (name, less) => {
    const at = new Date(new Date(filter[name]) - less);
    return isNaN(at) ? "" : localDay(at);
  };
  for (const name of ["strategy_account_id", "symbol", "error_type"]) {
    if (form.elements[name] && filter[name]) form.elements[name].value = filter[name];
  }
  form.elements.from.value = day("created_after", 0);
  form.elements.until.value = day("created_before", 1);
  link(filter);
  showFailed(filter);
}

form.addEventListener("submit", (event) => event.preventDefault() ?? narrow());
form.addEventListener("change", narrow);
form.addEventListener("reset", () => setTimeout(narrow));
form.elements.symbol.addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(narrow, 400);
});
restore();
