/** What the reader has chosen: items "taken" for the time being, the theme, the language. Each tells who listens. */

/** @typedef {{ item_id: string, title: string }} Taken */

const TRAY = "llm-tail-tray";
const MOST = 200;

/** @type {Set<() => void>} */
const listeners = new Set();

/** @type {Taken[]} */
let tray = read();

/** @returns {Taken[]} */
function read() {
  try {
    const found = JSON.parse(sessionStorage.getItem(TRAY) ?? "[]");
    return Array.isArray(found) ? found.filter((one) => typeof one?.item_id === "string").slice(0, MOST) : [];
  } catch {
    return [];
  }
}

/** @param {Taken[]} next */
function keep(next) {
  tray = next;
  try {
    sessionStorage.setItem(TRAY, JSON.stringify(tray));
  } catch {
    // storage is full or switched off; the tray then lasts as long as the page
  }
  for (const listener of listeners) listener();
}

/** @returns {readonly Taken[]} items that are taken as the history, in the order of taking */
export const taken = () => tray;

/** @param {string} id @returns {boolean} */
export const isTaken = (id) => tray.some((one) => one.item_id === id);

/** @param {Taken} item */
export function toggle({ item_id, title }) {
  if (isTaken(item_id)) keep(tray.filter((one) => one.item_id !== item_id));
  else keep([...tray, { item_id, title }].slice(-MOST));
}

/** Take everything out. */
export const empty = () => keep([]);

/**
 * Call a function whenever the tray changes.
 * @param {() => void} listener
 * @param {AbortSignal} [signal] ends it
 */
export function onTray(listener, signal) {
  listeners.add(listener);
  signal?.addEventListener("abort", () => listeners.delete(listener));
}
