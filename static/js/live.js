// Keeps the live page up to date over its socket; tracking/consumers.py tells what travels on it.
import { localise } from "./times.js";
import { toast } from "./toasts.js";

const SILENCE_MS = 25000; // the server speaks at least every ten seconds
const RETRY_MS = [250, 500, 1000, 2000, 4000, 8000];
const TICKER_LENGTH = 100;
const SEEN_LENGTH = 1000;
const LOUD = ["filled", "failed", "rejected", "expired", "late_fill", "impossible_report", "stream", "operator", "guard"];

const live = document.getElementById("live");
const connection = document.getElementById("connection");
const ticker = document.getElementById("events-rows");
const seen = new Set([...ticker.children].map((line) => line.id));

let lastId = Number(live.dataset.lastId) || null;
let failures = 0;
let socket = null;
let silence = 0;
let failedFilter = {}; // which failed orders are shown; the server is told again after each reconnect

// Shows other failed orders; the names are those of orders/failed_filter.py.
export function showFailed(filter) {
  failedFilter = filter;
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ failed: filter }));
}

// --- taking steps ----------------------------------------------------------------------------

function parsed(html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  localise(template.content);
  return template.content;
}

// Takes over the new row's cells that differ, so that only they light up and a selection survives.
function swap(old, fresh) {
  if (old.tagName !== "TR" || old.cells.length !== fresh.cells.length) {
    old.replaceWith(fresh);
    return;
  }
  old.className = fresh.className;
  for (const [index, cell] of [...fresh.cells].entries()) {
    const before = old.cells[index];
    if (before.isEqualNode(unlit(cell, before))) continue;
    before.replaceWith(cell);
    if ("still" in cell.dataset) continue; // moves with every price
    const move = Math.sign(Number(cell.dataset.value) - Number(before.dataset.value));
    cell.classList.add(move > 0 ? "up" : move < 0 ? "down" : "changed");
  }
}

// A cell as it would look had it been lit up the same way: the glow is no difference.
function unlit(cell, before) {
  const twin = cell.cloneNode(true);
  for (const glow of ["up", "down", "changed"]) if (before.classList.contains(glow)) twin.classList.add(glow);
  return twin;
}

function take(step) {
  const at = document.getElementById(step.at);
  if (!at) return; // the next full frame puts it right
  const held = at.contains(document.activeElement) ? document.activeElement : null;
  const row = held?.closest("tr");
  const next = row?.nextElementSibling ?? row?.previousElementSibling;
  const section = held?.closest("section");
  change(step, at);
  if (held && !held.isConnected) refocus(held.dataset.focus, [row?.id, next?.id], section);
}

// Who works by keyboard goes on at the same control of the row, else of its neighbour, else at the heading.
function refocus(name, rows, section) {
  for (const id of rows) {
    const control = id && name && document.getElementById(id)?.querySelector(`[data-focus="${name}"]`);
    if (control) return control.focus({ preventScroll: true });
  }
  section?.querySelector("h2[tabindex]")?.focus({ preventScroll: true });
}

function change(step, at) {
  if (step.do === "remove") return at.remove();
  const fresh = parsed(step.html);
  if (step.do === "fill") at.replaceChildren(fresh);
  else if (step.do === "swap") swap(at, fresh.firstElementChild);
  else {
    for (const row of fresh.children) row.classList.add("fresh");
    if (step.do === "first") at.prepend(fresh);
    else if (step.do === "after") at.after(fresh);
  }
}

function tell(event, isNews) {
  const key = `event-${event.id}`;
  if (seen.has(key)) return; // told before the connection was lost
  seen.add(key);
  const line = parsed(event.html).firstElementChild;
  if (isNews && LOUD.some((kind) => line.classList.contains(kind))) toast(line.className, ...line.cloneNode(true).childNodes);
  if (isNews) line.classList.add("fresh");
  ticker.prepend(line);
  while (ticker.children.length > TICKER_LENGTH) ticker.lastElementChild.remove();
  for (const old of seen) {
    if (seen.size <= SEEN_LENGTH) break;
    seen.delete(old);
  }
}

function apply(frame) {
  if (frame.kind === "snapshot") {
    ticker.replaceChildren();
    seen.clear();
  }
  for (const event of frame.events) tell(event, frame.kind !== "snapshot");
  frame.steps.forEach(take);
  lastId = frame.last_id || null;
  if (frame.steps.length) document.dispatchEvent(new Event("live:changed"));
}

// --- the socket ------------------------------------------------------------------------------

function show(state) {
  if (connection.dataset.state === state) return;
  connection.dataset.state = state;
  connection.querySelector(".text").textContent = connection.dataset[state];
}

function connect() {
  const address = new URL(live.dataset.socket, location.href);
  address.protocol = address.protocol.replace("http", "ws");
  if (lastId) address.searchParams.set("last", lastId);
  for (const [name, value] of Object.entries(failedFilter)) address.searchParams.set(name, value);
  const own = (socket = new WebSocket(address));
  const asked = failedFilter;
  own.onopen = () => asked === failedFilter || showFailed(failedFilter); // chosen meanwhile
  watch();
  own.onmessage = (message) => {
    if (own !== socket) return;
    const frame = JSON.parse(message.data);
    apply(frame);
    own.send(JSON.stringify({ ack: frame.frame }));
    failures = 0;
    show("live");
    watch();
  };
  own.onclose = () => own === socket && again();
}

// A connection can die without a word (a phone that changes networks): silence counts as its end.
function watch() {
  clearTimeout(silence);
  silence = setTimeout(again, SILENCE_MS);
}

function again() {
  clearTimeout(silence);
  const gone = socket;
  socket = null;
  gone?.close();
  show("reconnecting");
  const most = RETRY_MS[Math.min(failures, RETRY_MS.length - 1)];
  failures += 1;
  setTimeout(retry, most / 2 + (Math.random() * most) / 2);
}

async function retry() {
  if (failures > 2 && (await isLoggedOut())) return location.reload(); // to the login page
  if (!socket) connect();
}

async function isLoggedOut() {
  try {
    const answer = await fetch(location.href, { method: "HEAD", redirect: "manual", cache: "no-store" });
    return answer.type === "opaqueredirect";
  } catch {
    return false; // the server is away, that is all
  }
}

addEventListener("pagehide", () => {
  const gone = socket;
  socket = null;
  gone?.close();
  clearTimeout(silence);
});
addEventListener("pageshow", (event) => event.persisted && !socket && connect());
addEventListener("online", () => !socket && connect());

for (const select of document.querySelectorAll(".bar .filter select")) {
  select.addEventListener("change", () => select.form.requestSubmit());
}
localise(document);
addEventListener("DOMContentLoaded", connect); // when filters.js has said which failed orders are shown
