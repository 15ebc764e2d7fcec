/** One item: what it is, who is near, why it would be recommended, what lies around it. */

import { get, info } from "../api.js";
import { h, replace, uid } from "../dom.js";
import { t } from "../i18n.js";
import { badge, itemList, takeButton } from "../parts/items.js";
import { later } from "../parts/notes.js";
import { strip } from "../parts/shares.js";
import { reasons } from "../parts/why.js";
import { amend, link } from "../router.js";
import { comparison } from "./compare.js";
import { surroundings } from "./surroundings.js";

/**
 * @typedef {import("../types.js").Item} Item
 * @typedef {import("../types.js").Info} Info
 */

const NEAR = 8;
const LONG = 420;

/** @param {import("../main.js").Visit} visit @returns {Promise<import("../main.js").View>} */
export async function show({ id, query, signal }) {
  const [item, told] = await Promise.all([get(["items", id]), info()]);
  const body = h("article.item.fresh", {},
    head(item, signal),
    near(item, told, signal),
    told.n_people > 0 && section("why.title", reasons(item, signal)),
    section("graph.title", surroundings(item, told, signal)),
    told.encoders.length > 1 && compared(item, query.get("compare") !== null, signal));
  return { title: item.title, body };
}

/**
 * @param {string} title
 * @param {...import("../dom.js").Child} children
 */
function section(title, ...children) {
  const id = uid("section");
  return h("section", { "aria-labelledby": id }, h("h2", { id }, t(title)), children);
}

/** @param {Item} item @param {AbortSignal} signal */
function head(item, signal) {
  return h("header.top", {},
    h("div.row.kicker", {}, badge(item.segment), item.segment && h("span", {}, t("item.taken", { n: item.n_interactions })),
      item.upserted && h("span", {}, t("item.upserted")), h("code", { dir: "auto" }, item.item_id)),
    h("h1", { dir: "auto" }, item.title),
    h("div.row", {}, takeButton(item, signal),
      item.row !== null && h("a.button", { href: link("map", "", { row: item.row }) }, t("item.onMap"))),
    h("div.told", {}, description(item.description), facts(item.fields)));
}

/** @param {string} words */
function description(words) {
  if (!words.trim()) return h("p.note", {}, t("item.noText"));
  const text = h("p.description", { dir: "auto", id: uid("text") }, words);
  if (words.length <= LONG) return text;
  text.classList.add("cut");
  const more = h("button.button.small", { type: "button", "aria-expanded": "false", "aria-controls": text.id, onclick: () => {
    const cut = text.classList.toggle("cut");
    more.setAttribute("aria-expanded", String(!cut));
    more.textContent = t(cut ? "item.more" : "item.less");
  } }, t("item.more"));
  return h("div", {}, text, more);
}

/** @param {Record<string, unknown>} fields */
function facts(fields) {
  const shown = Object.entries(fields).filter(([, value]) => value !== null && value !== "" && !(Array.isArray(value) && !value.length));
  if (!shown.length) return null;
  return h("section.side", { "aria-label": t("item.facts") }, h("dl.facts", {}, shown.flatMap(([name, value]) => [
    h("dt", {}, name.replaceAll("_", " ")), h("dd", {}, plain(value))])));
}

/** @param {unknown} value @returns {string} */
function plain(value) {
  if (Array.isArray(value)) return value.map(plain).join(", ");
  if (value !== null && typeof value === "object") return Object.entries(value).map(([key, one]) => `${key}: ${plain(one)}`).join(", ");
  return String(value);
}

/**
 * Neighbours by text, graph and people, side by side; each loads and fails on its own.
 * @param {Item} item
 * @param {Info} told
 * @param {AbortSignal} signal
 */
function near(item, told, signal) {
  const lonely = item.n_interactions === 0 ? "item.nobody" : "item.noTies";
  const columns = [["similar", "item.byText", "item.noTies"], ["related", "item.byGraph", "item.noTies"], ["together", "item.byPeople", lonely]].slice(0, told.n_people ? 3 : 2);
  const three = h("div.three", { "data-shown": 0 }, columns.map(([route, title, none]) =>
    h("section.card", { "aria-label": t(title) }, h("h3", {}, t(title)), h("p.kicker", {}, t(`${title}.is`)),
      later(async () => {
        const { items } = await get(["items", item.item_id, route], { k: NEAR });
        return items.length ? itemList(items, { label: t(title) }) : h("p.note", {}, t(none));
      }, { signal, lines: NEAR }))));
  const pick = strip(t("item.near"), columns.map(([, title], i) => ({ value: String(i), name: t(title) })), "0", (shown) => three.setAttribute("data-shown", shown));
  pick.classList.add("pick"); // on a narrow screen one column at a time
  return section("item.near", pick, three);
}

/** @param {Item} item @param {boolean} open @param {AbortSignal} signal */
function compared(item, open, signal) {
  const place = h("div");
  const details = /** @type {HTMLDetailsElement} */ (h("details.compare", { open, ontoggle: () => {
    amend({ compare: details.open ? "1" : undefined });
    if (details.open && !place.hasChildNodes()) replace(place, comparison(item, signal));
  } }, h("summary", {}, h("h2", {}, t("compare.title"))), h("p.note", {}, t("compare.lead")), place));
  if (open) replace(place, comparison(item, signal));
  return details;
}
