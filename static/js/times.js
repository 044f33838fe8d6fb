// How points in time look: in the viewer's own zone (the title keeps UTC), or as an age.

const UNITS = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];
const pad = (number) => String(number).padStart(2, "0");

export function clock(at) {
  const day = at.toDateString() === new Date().toDateString() ? "" : `${pad(at.getMonth() + 1)}-${pad(at.getDate())} `;
  return `${day}${pad(at.getHours())}:${pad(at.getMinutes())}:${pad(at.getSeconds())}`;
}

const age = (at) => span(Math.max(0, Math.round((Date.now() - at) / 1000)));

export function span(seconds) {
  const [unit, length] = UNITS.find(([, length]) => seconds >= length) ?? UNITS.at(-1);
  const form = { style: "unit", unit, unitDisplay: "short" };
  return new Intl.NumberFormat(document.documentElement.lang, form).format(Math.floor(seconds / length));
}

export function localise(node) {
  for (const time of node.querySelectorAll("time")) {
    const at = new Date(time.dateTime);
    time.textContent = time.classList.contains("age") ? age(at) : clock(at);
  }
}

// What <input type="datetime-local"> and <input type="date"> understand.
export const localDay = (at) => `${at.getFullYear()}-${pad(at.getMonth() + 1)}-${pad(at.getDate())}`;
export const localMinute = (at) => `${localDay(at)}T${pad(at.getHours())}:${pad(at.getMinutes())}`;

setInterval(() => {
  for (const time of document.querySelectorAll("time.age")) time.textContent = age(new Date(time.dateTime));
}, 1000);
