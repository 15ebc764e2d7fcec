/** The whole catalogue as a map: move, zoom, look, open. Beside it what the colours mean and what is in the middle. */

import { get } from "../api.js";
import { h, quiet, replace } from "../dom.js";
import { points } from "../draw/catalog.js";
import { MapPicture } from "../draw/map.js";
import { number, segmentName, t } from "../i18n.js";
import { itemName } from "../parts/items.js";
import { strip } from "../parts/shares.js";
import { amend, itemLink } from "../router.js";
import { SEGMENTS } from "../types.js";
import { zoomButtons } from "./surroundings.js";

/**
 * @typedef {import("../types.js").MapItem} MapItem
 * @typedef {import("../draw/catalog.js").Points} Points
 */

const MIDDLE = 8;
const LISTED = 24;
const CLOSE = 24; // how near an item is looked at that the address names
const TITLED = 60; // points in sight whose titles are written beside them

/** @param {import("../main.js").Visit} visit @returns {Promise<import("../main.js").View>} */
export async function show({ query, signal }) {
  const all = await points();
  const canvas = /** @type {HTMLCanvasElement} */ (h("canvas", { tabindex: 0, role: "application", "aria-label": t("map.canvas", { n: all.n }), "aria-describedby": "map-kind" }));
  const tip = h("div.tip", { hidden: true, "aria-hidden": "true", dir: "auto" });
  const labels = h("div.places", { "aria-hidden": "true" });
  const middle = h("ul.items", {});
  const legend = h("div");
  const names = new Names();

  const picture = new MapPicture(canvas, all, labels, {
    signal,
    open: async (row) => { location.hash = itemLink((await names.of([row]))[0]?.item_id ?? ""); },
    hover: (row, x, y) => hover(row, x, y),
    rest: quiet((rows, place) => { if (!signal.aborted) { list(rows); amend({ row: "", ...place }); } }, 180),
  });

  let pointed = -1;
  /** @param {number} row @param {number} x @param {number} y */
  async function hover(row, x, y) {
    pointed = row;
    tip.hidden = true;
    if (row < 0) return;
    const [item] = await names.of([row]);
    if (pointed !== row || !item) return;
    tip.textContent = item.title;
    tip.hidden = false;
    tip.style.setProperty("translate", `clamp(0px, calc(${x}px - 50%), calc(${picture.width}px - 100%)) ${y > 70 ? y - 46 : y + 18}px`);
  }

  /** @param {number[]} rows */
  async function list(rows) {
    const items = await names.of(rows);
    if (signal.aborted) return;
    replace(middle, items.map((item) => h("li", {}, itemName(item))));
    const near = await names.of(picture.inSight(TITLED));
    if (!signal.aborted) picture.setTitles(new Map(near.map(({ row, title }) => [row, title])));
  }

  /** @param {string} by */
  function colourBy(by) {
    picture.colourBy(by === "community" ? "community" : "segment");
    amend({ by });
    replace(legend, by === "community" ? communities(all, picture) : layered ? segments(all, picture) : "");
  }

  const layered = all.counts[SEGMENTS.length] < all.n;
  const both = layered && all.communities.length > 0;
  const by = all.communities.length && (query.get("by") === "community" || !layered) ? "community" : "segment";
  const panel = h("aside.panel", { "aria-label": t("map.panel") },
    h("h1", {}, t("map.title")),
    h("p.note", { id: "map-kind" }, t("map.kind", { n: all.n, kind: all.kind === all.kind.toLowerCase() ? all.kind.toUpperCase() : all.kind })),
    both && strip(t("map.colour"), [{ value: "segment", name: t("map.bySegment") }, { value: "community", name: t("map.byCommunity") }], by, colourBy),
    legend,
    h("section", { "aria-labelledby": "middle" }, h("h2", { id: "middle" }, t("map.middle")), middle));
  const body = h("div.chart", {}, panel, h("div.canvas", {}, canvas, labels, tip, zoomButtons(picture)));
  return { title: t("map.title"), body, wide: true, ready: () => {
    colourBy(by);
    const row = Number(query.get("row") || NaN);
    const place = row in all.x ? [all.x[row], all.y[row], CLOSE] : ["x", "y", "zoom"].map((name) => Number(query.get(name)));
    picture.start(place, MIDDLE);
  } };
}

/** Titles of points, asked for when they are looked at and kept. */
class Names {
  /** @type {Map<number, Promise<MapItem | undefined>>} */
  #kept = new Map();

  /** @param {number[]} rows @returns {Promise<MapItem[]>} those that there are, in the same order */
  async of(rows) {
    const missing = rows.filter((row) => !this.#kept.has(row));
    if (missing.length) {
      const answer = get(["map", "items"], { rows: missing.join(",") }).then(({ items }) => items, () => []);
      for (const row of missing) this.#kept.set(row, answer.then((items) => items.find((/** @type {MapItem} */ item) => item.row === row)));
    }
    const found = await Promise.all(rows.map((row) => this.#kept.get(row)));
    return found.flatMap((item) => item ?? []);
  }
}

/** @param {Points} all @param {MapPicture} picture */
const segments = (all, picture) =>
  h("ul.keys", {}, SEGMENTS.map((name, code) => key(picture, code, segmentName(name), all.counts[code], `--${name}`, t(`segment.${name}.is`))));

/** @param {Points} all @param {MapPicture} picture */
const communities = (all, picture) =>
  h("ul.keys", {}, all.communities.slice(0, LISTED).map(({ name, n }, code) => key(picture, code, name, n, picture.css(code), "",
    h("button.button.small", { type: "button", "aria-label": t("map.go", { name }), onclick: () => picture.goTo(code) }, "→"))));

/**
 * @param {MapPicture} picture
 * @param {number} code
 * @param {string} name
 * @param {number} n
 * @param {string} tone a CSS property or a colour
 * @param {string} title
 * @param {...import("../dom.js").Child} extra
 */
const key = (picture, code, name, n, tone, title, ...extra) =>
  h("li", {}, h("label.switch", { title }, h("input", { type: "checkbox", checked: true, onchange: (/** @type {Event} */ event) =>
    picture.showKind(code, /** @type {HTMLInputElement} */ (event.target).checked) }),
    h("i.dot", { style: { "--tone": tone.startsWith("--") ? `var(${tone})` : tone } }), h("span.grow", { dir: "auto" }, name), h("span.number.kicker", {}, number(n))), extra);
