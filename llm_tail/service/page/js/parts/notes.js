/** What the page says by itself: short notes, waiting, trouble. */

import { Problem } from "../api.js";
import { find, h } from "../dom.js";
import { t } from "../i18n.js";
import { itemLink, link } from "../router.js";

const NOTE_MS = 2600;

/** @type {HTMLElement | null} */
let toast = null;

/**
 * Say something to ears only.
 * @param {string} words
 */
export function whisper(words) {
  find("#said").textContent = words;
}

/**
 * Say something short to eyes and ears.
 * @param {string} words
 */
export function announce(words) {
  toast?.remove();
  whisper(words);
  const note = h("div.toast.fresh", { "aria-hidden": "true", dir: "auto" }, words.length > 90 ? `${words.slice(0, 89)}…` : words);
  document.body.append(note);
  toast = note;
  setTimeout(() => note.remove(), NOTE_MS);
}

/** @param {number} [lines] @returns {HTMLElement} a quiet picture of what is to come */
export const waiting = (lines = 5) =>
  h("div.wait", { role: "status", "aria-label": t("page.loading") }, Array.from({ length: lines }, () => h("i")));

/**
 * Show what went wrong, and a way on.
 * @param {unknown} error
 * @param {() => void} [again]
 * @param {(id: string) => string} [way] where the closest ids lead
 * @returns {HTMLElement}
 */
export function trouble(error, again, way = itemLink) {
  const problem = error instanceof Problem ? error : new Problem("wrong", error instanceof Error ? error.message : String(error));
  const { kind, closest, message } = problem;
  const hint = { gone: "trouble.gone.hint", key: "trouble.key.hint", busy: "trouble.busy.hint" }[String(kind)];
  return h(
    "div.state",
    { role: "alert" },
    h("h2", {}, t(`trouble.${kind}`)),
    h("p.note", { dir: "auto" }, hint ? t(hint) : message),
    closest.length > 0 && h("p", {}, t("trouble.closest"), ":"),
    closest.length > 0 && h("ul.row", {}, closest.map((id) => h("li", {}, h("a.button", { href: way(id), dir: "auto" }, id)))),
    h(
      "div.row",
      {},
      again && kind !== "unknown" && h("button.button.primary", { type: "button", onclick: again }, t("trouble.again")),
      h("a.button", { href: link("home") }, t("trouble.home")),
    ),
  );
}

/**
 * A place whose content comes later: waiting first, then what was asked for, or what went wrong there and there only.
 * @param {() => Promise<Node>} load
 * @param {{ signal: AbortSignal, lines?: number, way?: (id: string) => string }} how
 * @returns {HTMLElement}
 */
export function later(load, { signal, lines = 4, way }) {
  const place = h("div");
  const go = async () => {
    place.setAttribute("aria-busy", "true");
    place.replaceChildren(waiting(lines));
    try {
      const made = await load();
      if (!signal.aborted) place.replaceChildren(made);
    } catch (error) {
      if (!signal.aborted) place.replaceChildren(trouble(error, go, way));
    }
    place.removeAttribute("aria-busy");
  };
  void go();
  return place;
}
