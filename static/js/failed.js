// Failed orders: selecting them, and sending again, scheduling or removing them after a question.
// Rows come and go by themselves (live.js); what is selected is kept here by id.
import "./filters.js";
import { call } from "./api.js";
import { localMinute } from "./times.js";
import { tell } from "./toasts.js";

const SHOWN_IN_DIALOG = 5;
const TELLING = ["another_order", "exchange_error", "failed_again", "guard", "stopped", "invalid_time"]; // their sentences say more than the code
const byId = (id) => document.getElementById(id);
const section = byId("failed");
const words = JSON.parse(section.dataset.words);
const all = byId("failed-all");
const dialog = byId("failed-dialog");
const chosen = new Set();
let task = null; // what the open dialog asks about

const say = (key, values = {}) => Object.entries(values).reduce((text, [name, value]) => text.replaceAll(`{${name}}`, value), words[key]);
const picks = () => [...section.querySelectorAll("#failed-rows input[type=checkbox]")];

// --- selecting -------------------------------------------------------------------------------------

// After each change of the list or the selection: the boxes, the counts and the buttons say the same.
function agree() {
  const boxes = picks();
  const shown = new Set(boxes.map((box) => box.value));
  for (const id of chosen) if (!shown.has(id)) chosen.delete(id);
  for (const box of boxes) {
    box.checked = chosen.has(box.value);
    box.closest("tr").classList.toggle("chosen", box.checked);
  }
  all.checked = boxes.length > 0 && chosen.size === boxes.length;
  all.indeterminate = chosen.size > 0 && !all.checked;
  all.disabled = boxes.length === 0;
  byId("failed-selected").value = chosen.size ? say("selected", { count: chosen.size }) : "";
  const sendable = boxes.some((box) => box.checked && box.dataset.retry === "yes");
  for (const button of section.querySelectorAll("[data-all]")) {
    button.disabled = button.dataset.all === "remove" ? chosen.size === 0 : !sendable;
  }
}

section.addEventListener("change", (event) => {
  if (event.target === all) for (const box of picks()) all.checked ? chosen.add(box.value) : chosen.delete(box.value);
  else if (event.target.dataset.focus === "pick") event.target.checked ? chosen.add(event.target.value) : chosen.delete(event.target.value);
  else return;
  agree();
});
document.addEventListener("live:changed", agree);

// --- asking ----------------------------------------------------------------------------------------

section.addEventListener("click", (event) => {
  const button = event.target.closest("[data-act], [data-all]");
  if (!button) return;
  if (button.ariaDisabled === "true") return tell("failed", say("not_done"), button.title);
  const action = button.dataset.act ?? button.dataset.all;
  if (action === "decide") return ask("decide", [{ uid: button.dataset.uid, what: button.dataset.what }]);
  const boxes = button.dataset.act ? [button.closest("tr").querySelector("input")] : picks().filter((box) => box.checked);
  open(action, boxes);
});

function open(action, boxes) {
  const able = action === "remove" ? boxes : boxes.filter((box) => box.dataset.retry === "yes");
  const orders = able.map((box) => ({ id: Number(box.value), what: box.dataset.what }));
  ask(action, orders, { left: boxes.length - able.length, planned: able.find((box) => box.dataset.at)?.dataset.at });
}

function ask(action, orders, { left = 0, planned } = {}) {
  task = { action, orders };
  byId("failed-dialog-title").textContent = say(`${action}_title`);
  byId("failed-dialog-text").textContent = [say(`${action}_text`), left ? say("left_out", { count: left }) : ""].join(" ");
  const lines = orders.slice(0, SHOWN_IN_DIALOG).map((order) => order.what);
  if (orders.length > lines.length) lines.push(say("more", { count: orders.length - lines.length }));
  byId("failed-dialog-orders").replaceChildren(...lines.map((text) => Object.assign(document.createElement("li"), { textContent: text })));
  dialog.querySelector("form").reset();
  byId("failed-dialog-problem").textContent = "";
  byId("failed-dialog-yes").textContent = say(action);
  byId("failed-dialog-yes").classList.toggle("danger", action === "remove");
  byId("failed-dialog-when").hidden = action !== "schedule";
  byId("failed-dialog-became").hidden = action !== "decide";
  byId("failed-dialog-unplan").hidden = action !== "schedule" || !planned;
  byId("failed-dialog-zone").textContent = Intl.DateTimeFormat().resolvedOptions().timeZone;
  byId("failed-dialog-at").value = localMinute(planned ? new Date(planned) : new Date(Date.now() + 3600e3));
  busy(false);
  dialog.showModal();
  byId({ schedule: "failed-dialog-at", decide: "failed-dialog-there" }[action] ?? "failed-dialog-yes").focus();
}

function busy(is) {
  for (const button of dialog.querySelectorAll("button")) button.disabled = is;
}

dialog.querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (task.action === "decide") return decide();
  if (task.action !== "schedule") return carryOut();
  const at = new Date(byId("failed-dialog-at").value);
  if (isNaN(at)) byId("failed-dialog-problem").textContent = say("when_missing");
  else carryOut(at.toISOString());
});
byId("failed-dialog-number").addEventListener("input", () => (byId("failed-dialog-there").checked = true));
byId("failed-dialog-unplan").addEventListener("click", () => carryOut(null));
byId("failed-dialog-no").addEventListener("click", () => dialog.close());
dialog.addEventListener("close", () => {
  // The browser gives the focus back, unless the row has gone meanwhile.
  if (document.activeElement === document.body) byId("failed-heading").focus({ preventScroll: true });
});

// --- acting ----------------------------------------------------------------------------------------

async function carryOut(at) {
  const { action, orders } = task;
  busy(true);
  const results = await (action === "schedule" ? schedule(orders, at) : act(action, orders));
  busy(false);
  if (results.every((one) => one.code === "invalid_time")) {
    byId("failed-dialog-problem").textContent = reason(results[0]); // nothing was done: another time may do
    return;
  }
  dialog.close();
  for (const one of results) if (one.ok) chosen.delete(String(one.id));
  agree();
  report(action, at, orders, results);
}

async function decide() {
  const [{ uid, what }] = task.orders;
  const became = dialog.querySelector("[name=became]:checked")?.value;
  const number = byId("failed-dialog-number").value.trim();
  if (!became || (became === "there" && !number)) return (byId("failed-dialog-problem").textContent = say("which_missing"));
  busy(true);
  const body = became === "there" ? { exchange_order_id: number } : { never_placed: true };
  const answer = await call("POST", `/api/orders/${uid}/resolve`, body);
  busy(false);
  if (!answer.ok) return (byId("failed-dialog-problem").textContent = reason(answer));
  dialog.close();
  tell("done", say("decided", { what }));
}

async function act(action, orders) {
  const api = section.dataset.api;
  if (orders.length === 1) {
    const [{ id }] = orders;
    return [{ id, ...(await (action === "retry" ? call("POST", `${api}/${id}/retry`) : call("DELETE", `${api}/${id}`))) }];
  }
  const answer = await call("POST", `${api}/bulk`, { action, ids: orders.map((order) => order.id) });
  return answer.results?.map((one) => ({ ...one, ok: one.success })) ?? orders.map(({ id }) => ({ ...answer, id }));
}

// One by one: each is an order's own appointment, and the first impossible time ends it.
async function schedule(orders, at) {
  const results = [];
  for (const { id } of orders) {
    const answer = await call("POST", `${section.dataset.api}/${id}/schedule`, { at });
    results.push({ id, ...answer, code: answer.errors?.some((one) => one.field === "at") ? "invalid_time" : answer.code });
    if (results[0].code === "invalid_time") break;
  }
  return results;
}

function reason({ code, error, status }) {
  if (!status) return say("no_answer");
  if (status === 403) return say("not_allowed");
  const known = words[`code:${code}`];
  return [known, !known || TELLING.includes(code) ? error : ""].filter(Boolean).join(" ");
}

function report(action, at, orders, results) {
  const done = results.filter((one) => one.ok);
  const refused = results.find((one) => !one.ok);
  const why = refused ? reason(refused) : "";
  if (orders.length > 1) {
    const title = done.length ? say("done_of", { done: done.length, count: orders.length }) : say("not_done");
    return tell(refused ? "failed" : "done", title, why);
  }
  const [{ what }] = orders;
  if (refused) return tell("failed", say("not_done"), `${what}: ${why}`);
  const became = { retry: results[0].queued ? "queued" : "sent", remove: "removed", schedule: at ? "planned" : "unplanned" };
  tell("done", say(became[action], { what }));
}

agree();
