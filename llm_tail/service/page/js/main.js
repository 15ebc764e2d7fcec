/** The frame around the views: the bar, the address, theme and language, focus and titles. */

import { get, hasKey, info, Problem, whenKeyIsMissing } from "./api.js";
import { find, h, replace, s } from "./dom.js";
import { language, LANGUAGES, speak, t } from "./i18n.js";
import { findBox } from "./parts/find.js";
import { icon } from "./parts/icons.js";
import { askKey } from "./parts/key.js";
import { announce, trouble, waiting, whisper } from "./parts/notes.js";
import { rememberDepths, restoreDepth } from "./parts/scroll.js";
import { link, parse } from "./router.js";
import { onTray, taken } from "./state.js";

/**
 * @typedef {{ id: string, query: URLSearchParams, signal: AbortSignal }} Visit what a view is asked for; the signal
 *   tells that the reader has left
 * @typedef {{ title: string, body: Node, wide?: boolean, ready?: () => void }} View
 */

/** Views are loaded when they are first visited. @type {Record<string, () => Promise<{ show: (visit: Visit) => Promise<View> }>>} */
const VIEWS = {
  home: () => import("./views/home.js"),
  search: () => import("./views/search.js"),
  item: () => import("./views/item.js"),
  map: () => import("./views/map.js"),
  exposure: () => import("./views/exposure.js"),
  tray: () => import("./views/tray.js"),
};

const THEMES = ["auto", "light", "dark"];
const THEME = "llm-tail-theme";
const AHEAD_MS = 1500; // the other views are fetched then, so that a service that is gone for a while is no wall

/** @type {AbortController} */
let present = new AbortController();
let box = findBox();
let first = true;

/** Build the bar and the foot in the present language. */
function frame() {
  box = findBox();
  find("#skip").textContent = t("page.skip");
  replace(
    find("#bar"),
    h("a.brand", { href: link("home"), "aria-label": t("nav.home") },
      s("svg", { viewBox: "0 0 34 22", "aria-hidden": "true" },
        s("path", { d: "M2 3C5 15 14 19 32 19" }), s("circle", { cx: 9, cy: 8, r: 2 }), s("circle", { cx: 16, cy: 12.5, r: 2 }), s("circle", { cx: 25, cy: 14.5, r: 2 })),
      h("span", { "aria-hidden": "true" }, "llm_tail")),
    box.element,
    h("nav.nav", { "aria-label": t("nav.label") },
      ["map", "exposure", "tray"].map((view) => h("a", { href: link(view), "data-view": view }, t(`nav.${view}`), view === "tray" && h("span.count", { id: "taken" })))),
    h("div.tools", {}, languageButton(), themeButton()),
  );
  showTaken();
  info().then(({ name, n_items: n, encoder, dim, runtime }) =>
    replace(find("#foot"), h("span", { dir: "auto" }, t("page.served", { name, n, encoder, dim, runtime })), hasKey() ? null : h("a", { href: "openapi.json" }, t("page.api"))),
  ).catch(() => replace(find("#foot")));
}

function showTaken() {
  const count = find("#taken");
  count.hidden = taken().length === 0;
  replace(count, h("span", { "aria-hidden": "true" }, taken().length), h("span.sr", {}, t("nav.trayCount", { n: taken().length })));
}

function languageButton() {
  const other = LANGUAGES[(LANGUAGES.indexOf(language) + 1) % LANGUAGES.length];
  return h("button.icon", { type: "button", id: "language", title: t("page.languageHint"), lang: other === "zh" ? "zh-Hans" : other, onclick: () => {
    speak(other);
    frame();
    void visit();
    find("#language").focus();
  } }, t("page.language"));
}

function themeButton() {
  const now = document.documentElement.dataset.theme ?? "auto";
  const label = t("page.theme", { theme: t(`page.theme.${now}`) });
  return h("button.icon", { type: "button", id: "theme", "aria-label": label, title: label, onclick: () => {
    const next = THEMES[(THEMES.indexOf(now) + 1) % THEMES.length];
    if (next === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = next;
    try {
      localStorage.setItem(THEME, next);
    } catch {
      // it then lasts as long as the page
    }
    find("#theme").replaceWith(themeButton());
    find("#theme").focus();
    announce(t(`page.theme.${next}`));
    document.dispatchEvent(new Event("repaint"));
  } }, icon(/** @type {"auto" | "light" | "dark"} */ (now)));
}

/** Show the view that the address names. */
async function visit() {
  present.abort();
  const mine = (present = new AbortController());
  const { view, id, query } = parse(location.hash);
  const main = find("#main");
  const place = location.hash;
  const slow = setTimeout(() => replace(main, waiting(6)), 160);
  for (const a of document.querySelectorAll("nav [data-view]")) {
    if (a.getAttribute("data-view") === view) a.setAttribute("aria-current", "page");
    else a.removeAttribute("aria-current");
  }
  box.show(view === "search" ? query.get("q") ?? "" : "");
  /** @type {View} */ let shown;
  if (view === "map") void get(["map"]).catch(() => {}); // under way while the view's own file is fetched
  try {
    const load = VIEWS[view];
    if (!load) shown = { title: t("trouble.view"), body: lost() };
    else shown = await (await load().catch(gone)).show({ id, query, signal: mine.signal });
  } catch (error) {
    shown = { title: t("trouble.wrong"), body: h("div", {}, h("h1.sr", {}, t("trouble.wrong")), trouble(error, () => void visit())) };
  }
  clearTimeout(slow);
  if (mine.signal.aborted) return;
  main.classList.toggle("wide", Boolean(shown.wide));
  document.body.classList.toggle("full", Boolean(shown.wide));
  replace(main, shown.body);
  main.dataset.place = place; // what is shown, for whoever waits for it
  document.title = shown.title === "llm_tail" ? "llm_tail" : `${shown.title} · llm_tail`;
  shown.ready?.();
  if (first) performance.mark("llm-tail-shown");
  else {
    restoreDepth(mine.signal);
    arrive(shown.title);
  }
  if (first) setTimeout(() => Object.values(VIEWS).forEach((load) => load().catch(() => {})), AHEAD_MS);
  first = false;
}

/** @param {unknown} error a view's file could not be had @returns {never} */
function gone(error) {
  throw new Problem("gone", error instanceof Error ? error.message : "");
}

/** @param {string} title where the reader has come to */
function arrive(title) {
  if (!document.querySelector("dialog[open]") && !find("#bar").contains(document.activeElement)) find("#main").focus({ preventScroll: true });
  whisper(title);
}

function lost() {
  return h("div.state", {}, h("h1", {}, t("trouble.view")), h("a.button", { href: link("home") }, t("trouble.home")));
}

whenKeyIsMissing(askKey);
onTray(showTaken);
frame();
rememberDepths();
addEventListener("hashchange", () => void visit());
find("#skip").addEventListener("click", (event) => {
  event.preventDefault(); // the hash belongs to the views
  find("#main").focus();
  find("#main").scrollIntoView();
});
addEventListener("keydown", (event) => {
  const at = /** @type {HTMLElement} */ (event.target);
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || at.closest("input, textarea, select")) return;
  event.preventDefault();
  find("#find").focus();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => document.dispatchEvent(new Event("repaint")));
void visit();
