/** Items as the reader meets them everywhere: a badge, a row of a list, the button that takes one. */

import { h, replace } from "../dom.js";
import { number, segmentName, t } from "../i18n.js";
import { itemLink } from "../router.js";
import { isTaken, onTray, toggle } from "../state.js";
import { announce } from "./notes.js";
import { icon } from "./icons.js";
import { reason } from "./reason.js";

/**
 * @typedef {import("../types.js").ShownItem} ShownItem
 * @typedef {import("../types.js").Segment} Segment
 */

/** @param {Segment | null | undefined} segment @returns {HTMLElement | null} head, tail or cold; its shape differs, too */
export const badge = (segment) =>
  segment ? h(`span.badge.${segment}`, { title: t(`segment.${segment}.is`) }, segmentName(segment)) : null;

/** @param {{ item_id: string, title: string }} item @param {string} [name] @returns {HTMLElement} */
export const itemName = ({ item_id, title }, name = "a.name") =>
  h(name, { href: itemLink(item_id), dir: "auto", title }, title || item_id);

/**
 * @param {number} score in [0, 1] for the bar to say something
 * @returns {HTMLElement}
 */
export const meter = (score) =>
  h("span.number", {}, h("span.meter", { "aria-hidden": "true" }, h("i", { style: { "--share": Math.max(0, Math.min(1, score)) } })), " ", number(score, 2));

/**
 * A list of items, best first.
 * @param {ShownItem[]} items
 * @param {{ scored?: boolean, label?: string, extra?: (item: ShownItem, place: number) => import("../dom.js").Child | import("../dom.js").Child[] }} [how]
 * @returns {HTMLElement}
 */
export function itemList(items, { scored = true, label, extra } = {}) {
  return h(
    "ol.items",
    { "aria-label": label },
    items.map((item, place) =>
      h(
        "li",
        {},
        itemName(item),
        scored ? meter(item.score) : h("span"),
        h("div.under", {}, badge(item.segment), item.why && h("span.why", { dir: "auto" }, reason(item.why)), extra?.(item, place) ?? null),
      ),
    ),
  );
}

/**
 * The button that takes an item and puts it back.
 * @param {{ item_id: string, title: string }} item
 * @param {AbortSignal} signal
 * @returns {HTMLElement}
 */
export function takeButton(item, signal) {
  const button = h("button.button", { type: "button", onclick: press });
  function show() {
    const is = isTaken(item.item_id);
    button.setAttribute("aria-pressed", String(is));
    replace(button, icon(is ? "check" : "plus"), t(is ? "item.untake" : "item.take"));
  }
  function press() {
    toggle(item);
    announce(t(isTaken(item.item_id) ? "item.took" : "item.untook", { title: item.title }));
  }
  onTray(show, signal);
  show();
  return button;
}
