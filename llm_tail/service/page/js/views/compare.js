/** The nearest by text as the base and the fine-tuned encoder see them, and who moved. */

import { get } from "../api.js";
import { h } from "../dom.js";
import { t } from "../i18n.js";
import { itemList } from "../parts/items.js";
import { later } from "../parts/notes.js";

/** @typedef {import("../types.js").ShownItem} ShownItem */

const K = 10;

/**
 * @param {{ item_id: string }} item
 * @param {AbortSignal} signal
 * @returns {HTMLElement}
 */
export function comparison(item, signal) {
  return later(async () => {
    const [base, run] = await Promise.all(
      ["base", "run"].map(async (encoder) => (await get(["items", item.item_id, "similar"], { k: K, encoder })).items),
    );
    const before = ranks(base);
    const after = ranks(run);
    const same = run.filter((/** @type {ShownItem} */ one) => before.has(one.item_id)).length;
    return h("div.stack", {},
      h("p", {}, equal(base, run) ? t("compare.equal") : t("compare.same", { n: same, k: run.length })),
      h("div.pair", {},
        column("base", base, (one) => !after.has(one.item_id) && t("compare.gone")),
        column("run", run, (one, place) => moved(before.get(one.item_id), place))));
  }, { signal, lines: K });
}

/** @param {ShownItem[]} base @param {ShownItem[]} run */
const equal = (base, run) => base.length === run.length && base.every((one, i) => one.item_id === run[i].item_id && one.score === run[i].score);

/** @param {ShownItem[]} items @returns {Map<string, number>} */
const ranks = (items) => new Map(items.map((one, place) => [one.item_id, place]));

/**
 * @param {string} encoder
 * @param {ShownItem[]} items
 * @param {(item: ShownItem, place: number) => import("../dom.js").Child} note
 */
const column = (encoder, items, note) =>
  h("section.card", { "aria-label": t(`compare.${encoder}`) }, h("h3", {}, t(`compare.${encoder}`)),
    itemList(items, { label: t(`compare.${encoder}`), extra: (one, place) => {
      const words = note(one, place);
      return words && h("span.moved", {}, words);
    } }));

/** @param {number | undefined} before @param {number} now */
function moved(before, now) {
  if (before === undefined) return t("compare.new");
  if (before === now) return null;
  return before > now ? t("compare.up", { n: before - now }) : t("compare.down", { n: now - before });
}
