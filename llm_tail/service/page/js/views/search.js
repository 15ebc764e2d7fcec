/** What was found for words, by words, by meaning, or both; narrowed by conditions on columns. */

import { get, info } from "../api.js";
import { h, replace } from "../dom.js";
import { t } from "../i18n.js";
import { filterBox } from "../parts/filter.js";
import { itemList } from "../parts/items.js";
import { later, whisper } from "../parts/notes.js";
import { strip } from "../parts/shares.js";
import { link } from "../router.js";

const FIRST = 20;

/** @param {import("../main.js").Visit} visit @returns {Promise<import("../main.js").View>} */
export async function show({ query, signal }) {
  const q = query.get("q")?.trim() ?? "";
  if (!q) return { title: t("search.empty"), body: prompt() };
  const told = await info();
  const where = query.getAll("where");
  const hows = ["both", "words", "vectors"].filter((how) => told.hows.includes(how));
  const wanted = query.get("how") ?? "";
  const how = hows.includes(wanted) ? wanted : hows[0];
  /** @param {Record<string, string | string[]>} changes */
  const go = (changes) => { location.hash = link("search", "", { q, how, where, ...changes }); };

  const results = later(() => ask(FIRST), { signal, lines: 8 });

  /** @param {number} k @returns {Promise<HTMLElement>} */
  async function ask(k) {
    const { items } = await get(["search"], { q, how, where, k });
    whisper(t("search.found", { n: items.length }));
    if (!items.length) return h("div.state", {}, h("h2", {}, t("search.nothing")), h("p.note", {}, t("search.nothingHint")));
    const more = items.length === k && k < told.max_k;
    return h("div.stack.fresh", {},
      itemList(items, { scored: how === "vectors", label: t("search.title", { q }) }),
      more && h("p", {}, h("button.button", { type: "button", onclick: () => replace(results, later(() => ask(Math.min(k * 2, told.max_k)), { signal, lines: 8 })) }, t("search.more"))));
  }

  const body = h("div.search", {},
    h("h1", { dir: "auto" }, t("search.title", { q })),
    h("div.row.spread", {},
      hows.length > 1 && strip(t("search.how"), hows.map((value) => ({ value, name: t(`how.${value}`) })), how, (next) => go({ how: next })),
      filterBox(told, where, (next) => go({ where: next }))),
    results);
  return { title: t("search.title", { q }), body };
}

function prompt() {
  const example = t("search.example");
  return h("div.state", {}, h("h1", {}, t("search.empty")), h("p.note", {}, t("search.emptyHint", { a: example })),
    h("a.button", { href: link("search", "", { q: example }) }, example));
}
