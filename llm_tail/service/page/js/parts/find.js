/** The search box: a combobox whose suggestions come as one types. */

import { get } from "../api.js";
import { h, quiet, replace } from "../dom.js";
import { t } from "../i18n.js";
import { itemLink, link, parse } from "../router.js";
import { icon } from "./icons.js";
import { badge } from "./items.js";
import { whisper } from "./notes.js";

/** @typedef {import("../types.js").Suggestion} Suggestion */

const SHOWN = 8;
const PAUSE_MS = 130;

/** @returns {{ element: HTMLElement, show: (words: string) => void }} */
export function findBox() {
  /** @type {Suggestion[]} */ let found = [];
  let active = -1;
  let asked = 0;

  const input = /** @type {HTMLInputElement} */ (
    h("input.field", {
      id: "find", type: "search", role: "combobox", autocomplete: "off", spellcheck: "false", enterkeyhint: "search", dir: "auto", maxlength: 500,
      "aria-label": t("find.label"), placeholder: t("find.hint"),
      "aria-expanded": "false", "aria-controls": "find-options", "aria-autocomplete": "list",
      onkeydown: press, oninput: quiet(suggest, PAUSE_MS), onblur: () => close(), onfocus: () => found.length && open(),
    })
  );
  const list = h("ul.options", { id: "find-options", role: "listbox", "aria-label": t("find.options"), hidden: true });
  const lens = icon("lens");
  lens.setAttribute("class", "lens");
  const element = h("form.find", { role: "search", onsubmit: submit }, lens, input, list);

  async function suggest() {
    const q = input.value.trim();
    const mine = (asked += 1);
    /** @type {Suggestion[]} */ let items = [];
    if (q) items = (await get(["suggest"], { q, k: SHOWN }).catch(() => ({ items: [] }))).items;
    if (mine !== asked || document.activeElement !== input) return;
    found = items;
    active = -1;
    replace(list, items.map((item, place) =>
      h("li", { id: `find-${place}`, role: "option", "aria-selected": "false", onpointerdown: (/** @type {Event} */ event) => { event.preventDefault(); choose(place); } },
        h("span", { dir: "auto" }, item.title), badge(item.segment)),
    ));
    if (items.length) open();
    else close();
    if (q) whisper(t("find.count", { n: items.length }));
  }

  function open() {
    list.hidden = false;
    input.setAttribute("aria-expanded", "true");
  }

  function close() {
    list.hidden = true;
    mark(-1);
    input.setAttribute("aria-expanded", "false");
  }

  /** @param {number} place */
  function mark(place) {
    active = place;
    [...list.children].forEach((option, i) => option.setAttribute("aria-selected", String(i === place)));
    if (place < 0) return input.removeAttribute("aria-activedescendant");
    input.setAttribute("aria-activedescendant", `find-${place}`);
    list.children[place].scrollIntoView({ block: "nearest" });
  }

  /** @param {number} place */
  function choose(place) {
    asked += 1;
    input.value = "";
    input.blur();
    const item = found[place];
    found = [];
    close();
    location.hash = itemLink(item.item_id);
  }

  /** @param {KeyboardEvent} event */
  function press(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (event.isComposing) return; // Enter belongs to the input method then
    if (step && found.length) {
      event.preventDefault();
      if (list.hidden) open();
      const n = found.length + 1; // one place more: back in the words typed
      mark(((active + 1 + step + n) % n) - 1);
    } else if (event.key === "Escape" && !list.hidden) {
      event.preventDefault();
      close();
    } else if (event.key === "Enter" && active >= 0 && !list.hidden) {
      event.preventDefault();
      choose(active);
    }
  }

  /** @param {Event} event */
  function submit(event) {
    event.preventDefault();
    const q = input.value.trim();
    asked += 1;
    found = [];
    close();
    input.blur(); // the results, and not a phone's keyboard
    const { view, query } = parse(location.hash);
    const kept = view === "search" ? { how: query.get("how") ?? "", where: query.getAll("where") } : {};
    if (q) location.hash = link("search", "", { q, ...kept });
  }

  return { element, show: (words) => { if (document.activeElement !== input) input.value = words; } };
}
