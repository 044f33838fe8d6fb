// The admin's front page: fills the figures in, and asks for new ones every few seconds.
// Nothing from outside is ever taken for HTML.
import { call } from "./api.js";
import { clock, span } from "./times.js";

const EVERY = 5000;
const front = document.getElementById("front");
const read = (id) => JSON.parse(document.getElementById(id).textContent);
const words = read("front-words");
const say = (key, values = {}) => Object.entries(values).reduce((text, [name, value]) => text.replaceAll(`{${name}}`, value), words[key]);
const number = (value) => new Intl.NumberFormat(document.documentElement.lang, { maximumFractionDigits: 2 }).format(value);
const shown = (value) => (value === null || value === undefined ? "–" : number(value));
let last = null;

function card(name, text, note = "", level = "") {
  const node = front.querySelector(`[data-card="${name}"]`);
  node.querySelector(`[data-figure="${name}"]`).textContent = text;
  node.querySelector(`[data-figure="${name}_note"]`).textContent = note;
  node.dataset.level = level;
}

function cards(told) {
  const streams = told.websocket_stats;
  const connected = streams.by_status.connected;
  const unwatched = streams.unwatched;
  card(
    "streams",
    `${number(connected)} / ${number(streams.streams)}`,
    unwatched ? say("unwatched", { count: unwatched }) : say("reconnects", { count: number(streams.reconnects) }),
    unwatched || streams.by_status.error ? "bad" : connected < streams.streams ? "warn" : "",
  );
  card("accounts", number(told.accounts.active), told.accounts.paused ? say("paused", { count: told.accounts.paused }) : "");
  const unknown = told.orders.unknown;
  card("open", number(told.orders.open), unknown ? say("in_doubt", { count: unknown }) : "", unknown ? "warn" : "");
  const oldest = told.queue.oldest_seconds;
  card("waiting", number(told.queue.waiting), oldest === null ? "" : say("oldest", { age: span(oldest) }));
  card("failed", number(told.orders.failed), "", told.orders.failed ? "warn" : "");
  const { succeeded, failed, percent } = told.success;
  const rated = percent === null ? say("none_known") : say("of_known", { succeeded: number(succeeded), known: number(succeeded + failed) });
  card("success", percent === null ? "–" : `${number(percent)} %`, rated, percent !== null && percent < 90 ? "warn" : "");
  card("kill_switch", told.kill_switch ? say("killed") : say("accepting"), "", told.kill_switch ? "bad" : "");
  const kinds = Object.entries(told.processes);
  const missing = kinds.filter(([, one]) => !one.alive).map(([kind]) => say(`kind_${kind}`));
  card(
    "processes",
    kinds.map(([, one]) => number(one.alive)).join(" / "),
    missing.length ? say("not_seen", { kinds: missing.join(", ") }) : kinds.map(([kind]) => say(`kind_${kind}`)).join(" / "),
    missing.length ? "bad" : "",
  );
}

function row(heading, ...values) {
  const line = document.createElement("tr");
  const head = document.createElement("th");
  head.scope = "row";
  head.textContent = heading;
  line.append(head, ...values.map((value) => Object.assign(document.createElement("td"), { textContent: value })));
  return line;
}

function tables(told) {
  const { exchange_request: requests, ...latencies } = told.latency_ms;
  const lines = ["webhook_to_exchange", "webhook", "exchange_to_ledger", "rebalance"].map((name) => [say(name), latencies[name]]);
  for (const [exchange, one] of Object.entries(requests)) lines.push([say("exchange_request", { exchange }), one]);
  const percentiles = lines.map(([name, one]) => row(name, shown(one.p50), shown(one.p95), shown(one.p99), number(one.count)));
  front.querySelector("#front-latency tbody").replaceChildren(...percentiles);
  const { total, ...outcomes } = told.submissions;
  const counts = Object.entries(outcomes).filter(([name, count]) => count || name === "accepted");
  front.querySelector("#front-submissions tbody").replaceChildren(...counts.map(([name, count]) => row(say(name), number(count))));
}

function item(at, heading, text, small) {
  const line = document.createElement("li");
  const time = Object.assign(document.createElement("time"), { dateTime: at, title: at, textContent: clock(new Date(at)) });
  const strong = Object.assign(document.createElement("strong"), { textContent: heading });
  line.append(time, " ", strong, " ", text);
  if (small) line.append(Object.assign(document.createElement("small"), { textContent: small }));
  return line;
}

function lists(told) {
  const errors = told.errors.map((one) => item(one.at, `${one.symbol} · ${one.account}`, one.text, one.exchange_error));
  const none = Object.assign(document.createElement("li"), { textContent: say("no_errors") });
  document.getElementById("front-errors").replaceChildren(...(errors.length ? errors : [none]));
  const broken = told.breakers.filter((one) => one.state !== "CLOSED");
  const section = document.getElementById("front-breakers");
  section.hidden = !broken.length;
  section.querySelector("ul").replaceChildren(
    ...broken.map((one) => {
      const time = one.retry_at ? clock(new Date(one.retry_at)) : "–";
      const exchange = [one.exchange, ...one.market_types].join(" ");  // its markets have breakers of their own
      return Object.assign(document.createElement("li"), { textContent: say("breaker", { ...one, exchange, time }) });
    }),
  );
}

function show(told) {
  last = told;
  cards(told);
  tables(told);
  lists(told);
}

async function refresh() {
  if (document.visibilityState === "visible") {
    const told = await call("GET", front.dataset.address);
    if (told.ok) show(told);
    front.classList.toggle("stale", !told.ok);
    document.getElementById("front-state").textContent = told.ok ? "" : say("stale", { time: clock(new Date(last.at)) });
  }
  setTimeout(refresh, EVERY);
}

show(read("front-figures"));
setTimeout(refresh, EVERY);
