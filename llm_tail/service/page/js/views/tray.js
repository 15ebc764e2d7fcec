/** Recommendations: for what the reader pretends to have taken, or for a known person; each with its reason. */

import { forget, get, info, post } from "../api.js";
import { h, replace } from "../dom.js";
import { t } from "../i18n.js";
import { icon } from "../parts/icons.js";
import { itemList, itemName } from "../parts/items.js";
import { announce, later } from "../parts/notes.js";
import { explained, explanation } from "../parts/why.js";
import { link } from "../router.js";
import { empty, onTray, taken, toggle } from "../state.js";

/** @typedef {import("../types.js").ShownItem} ShownItem */

const K = 12;

/** @param {import("../main.js").Visit} visit @returns {Promise<import("../main.js").View>} */
export async function show({ query, signal }) {
  const told = await info();
  const user = query.get("user") ?? "";
  if (!told.models.length) return { title: t("tray.title"), body: h("div.state", {}, h("h1", {}, t("tray.title")), h("p.note", {}, t("tray.none"))) };
  const model = told.models.includes(query.get("model") ?? "") ? String(query.get("model")) : told.models[0];
  const shown = h("section", { "aria-labelledby": "shown" });
  const chosen = h("div.card.stack");
  const load = () => replace(shown, later(() => recommend(user, model, load), { signal, lines: K, way: (id) => link("tray", "", { user: id, model }) }));
  const list = () => replace(chosen, mine());
  load();
  list();
  onTray(() => { list(); if (!user) load(); }, signal);
  const body = h("div.stack.tray", {},
    h("h1", {}, t("tray.title")), h("p.lead", {}, t("tray.lead")),
    h("div.aside", {}, h("div.stack", {}, user ? null : chosen, person(user, model), models(told.models, model, user)), shown));
  return { title: user ? t("tray.for", { user }) : t("tray.title"), body };
}

/** What is in the tray. @returns {import("../dom.js").Child[]} */
function mine() {
  if (!taken().length) return [h("h2", {}, t("tray.mine")), h("p.note", {}, t("tray.empty"))];
  return [
    h("div.row.spread", {}, h("h2", {}, t("tray.mine")), h("button.button.small", { type: "button", onclick: empty }, t("tray.clear"))),
    h("ul.items", {}, taken().map((item) => h("li", {}, itemName(item),
      h("button.icon", { type: "button", "aria-label": t("tray.remove", { title: item.title }), onclick: () => toggle(item) }, icon("cross"))))),
  ];
}

/** @param {string} user @param {string} model */
function person(user, model) {
  const input = /** @type {HTMLInputElement} */ (h("input.field", { value: user, placeholder: t("tray.personHint"), autocomplete: "off", maxlength: 512, required: true, dir: "auto", "aria-label": t("tray.person") }));
  return h("form.card.stack", { onsubmit: (/** @type {Event} */ event) => {
    event.preventDefault();
    location.hash = link("tray", "", { user: input.value.trim(), model });
  } }, h("h2", {}, t("tray.person")), h("div.row.tight", {}, input, h("button.button", { type: "submit" }, t("tray.look"))),
    user && h("a", { href: link("tray", "", { model }) }, t("tray.leave")));
}

/** @param {string[]} all @param {string} model @param {string} user */
const models = (all, model, user) => all.length > 1 && h("label.card.stack.slim", {}, h("strong", {}, t("tray.model")),
  h("select.field", { onchange: (/** @type {Event} */ event) => {
    location.hash = link("tray", "", { user, model: /** @type {HTMLSelectElement} */ (event.target).value });
  } }, all.map((name) => h("option", { value: name, selected: name === model }, name))));

/**
 * @param {string} user
 * @param {string} model
 * @param {() => void} again
 */
async function recommend(user, model, again) {
  const who = user ? { user } : { history: taken().map(({ item_id }) => item_id) };
  const told = await post(["recommendations"], { ...who, k: K, model });
  const title = told.from_popularity ? t("tray.popular") : user ? t("tray.for", { user }) : t("tray.forMe");
  if (!told.items.length) return h("div", {}, h("h2", { id: "shown" }, title), h("p.note", {}, t("tray.nothing")));
  const most = Math.max(...told.items.map((/** @type {ShownItem} */ one) => one.score), 0) || 1;
  /** @type {ShownItem[]} */
  const items = told.items.map((/** @type {ShownItem} */ one) => ({ ...one, score: one.score / most }));
  return h("div.card.stack.fresh", {}, h("h2", { id: "shown", dir: "auto" }, title),
    itemList(items, { label: title, extra: (item) => actions(item, user, model === "hybrid" && !told.from_popularity, again) }));
}

/**
 * @param {ShownItem} item
 * @param {string} user
 * @param {boolean} explains
 * @param {() => void} again
 */
function actions(item, user, explains, again) {
  const place = h("div.because");
  const why = h("button.button.small", { type: "button", "aria-expanded": "false", "aria-label": t("tray.whyOf", { title: item.title }), onclick: () => {
    const open = why.getAttribute("aria-expanded") !== "true";
    why.setAttribute("aria-expanded", String(open));
    if (!open) return replace(place);
    replace(place, later(async () => explained(await explanation(item.item_id, user ? `user:${user}` : "tray"), { whom: false }), { signal: new AbortController().signal }));
  } }, t("tray.why"));
  const dismiss = async () => {
    try {
      await post(["feedback"], { user, item_id: item.item_id, event: "dismissed" });
    } catch (error) {
      return announce(error instanceof Error && error.message ? error.message : t("trouble.wrong"));
    }
    forget();
    announce(t("tray.dismissed", { title: item.title }));
    again();
  };
  const take = () => {
    toggle(item);
    announce(t("item.took", { title: item.title }));
  };
  return [h("span.acts", {},
    explains && why,
    user ? h("button.button.small", { type: "button", onclick: dismiss }, t("tray.dismiss")) : h("button.button.small", { type: "button", "aria-label": `${t("item.take")}: ${item.title}`, onclick: take }, t("item.take"))),
  place];
}
