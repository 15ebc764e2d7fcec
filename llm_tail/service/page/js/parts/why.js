/** Why an item would be recommended: shares of the score, who lends to it, what speaks for it, whom it fits. */

import { get } from "../api.js";
import { h, replace } from "../dom.js";
import { percent, t } from "../i18n.js";
import { link } from "../router.js";
import { taken } from "../state.js";
import { itemName } from "./items.js";
import { later } from "./notes.js";
import { sharesBar, strip } from "./shares.js";

/** @typedef {import("../types.js").Explanation} Explanation */

const SHOWN = 5;

/**
 * The whole section of an item's page: for the person it fits best, or for what the reader took.
 * @param {{ item_id: string, n_interactions: number }} item
 * @param {AbortSignal} signal
 * @returns {HTMLElement}
 */
export function reasons(item, signal) {
  const place = h("div");
  /** @param {string} whom */
  const load = (whom) => replace(place, later(async () => explained(await explanation(item.item_id, whom)), { signal }));
  load("best");
  const mine = taken().some((one) => one.item_id !== item.item_id);
  return h("div.card.stack", {},
    mine && strip(t("why.whom"), ["best", "tray"].map((value) => ({ value, name: t(`why.${value}`) })), "best", load),
    place);
}

/**
 * @param {string} id
 * @param {string} whom "best", "tray", or "user:" and the person's id
 * @returns {Promise<Explanation>}
 */
export function explanation(id, whom) {
  const history = taken().map((one) => one.item_id).filter((one) => one !== id);
  const query = whom === "tray" ? { history: history.join(",") } : whom.startsWith("user:") ? { user: whom.slice(5) } : {};
  return get(["items", id, "explain"], query);
}

/**
 * @param {Explanation} told
 * @param {{ whom?: boolean }} [how] `whom` says whether to tell whom it fits, too
 * @returns {HTMLElement}
 */
export function explained(told, { whom = true } = {}) {
  const parts = [
    { name: t("why.own"), share: told.own_share, colour: "--own" },
    { name: t("why.borrowed"), share: told.borrowed_share, colour: "--borrowed" },
    { name: t("why.text"), share: told.text_share, colour: "--text" },
  ];
  const any = parts.some(({ share }) => share > 0);
  return h("div.stack", {},
    any ? sharesBar(parts) : h("p.note", {}, t("why.nothing")),
    whom && told.user && h("p.note", { dir: "auto" }, t("why.person", { user: told.user })),
    h("div.three.slim", {},
      lenders(told),
      told.because.length > 0 && h("div", {}, h("h3", {}, t("why.because")),
        h("ul.items", {}, told.because.slice(0, SHOWN).map((one) => h("li", {}, itemName(one))))),
      whom && told.readers.length > 0 && h("div", {}, h("h3", {}, t("why.readers")),
        h("ul.items", {}, told.readers.slice(0, SHOWN).map(({ user }) =>
          h("li", {}, h("a.name", { href: link("tray", "", { user }), dir: "auto" }, user)))))));
}

/** @param {Explanation} told */
function lenders({ lenders }) {
  const some = lenders.filter(({ share }) => share >= 0.005).slice(0, SHOWN);
  return h("div", {}, h("h3", {}, t("why.lenders")), some.length === 0 && h("p.note", {}, t("why.noLenders")),
    some.length > 0 && h("ul.items", {}, some.map((one) =>
      h("li", {}, itemName(one), h("span.number", {}, h("span.meter.lent", { "aria-hidden": "true" }, h("i", { style: { "--share": one.share } })), " ", percent(one.share))))));
}
