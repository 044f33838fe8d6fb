// Short notes in a corner, gone after a while.

const TOAST_MS = 7000;
const TOASTS = 4;
const toasts = document.getElementById("toasts");
const said = document.getElementById("said"); // for those who hear the page

export function toast(kind, ...content) {
  const card = document.createElement("div");
  card.className = `toast ${kind}`;
  card.append(...content);
  toasts.append(card);
  while (toasts.children.length > TOASTS) toasts.firstElementChild.remove();
  setTimeout(() => card.remove(), TOAST_MS);
}

// What a person's own action led to. Texts only: they may hold an exchange's words.
export function tell(kind, title, detail = "") {
  const head = document.createElement("b");
  head.textContent = title;
  const more = document.createElement("span");
  more.className = "sub line";
  more.textContent = detail;
  toast(kind, head, more);
  said.textContent = detail ? `${title}: ${detail}` : title;
}
