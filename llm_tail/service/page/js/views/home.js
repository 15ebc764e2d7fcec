/** The start: what this catalogue is, how it divides, a look at the whole, and a few items to begin with. */

import { get, info } from "../api.js";
import { colour, h, isDark, replace } from "../dom.js";
import { hues, points } from "../draw/catalog.js";
import { bounds } from "../draw/grid.js";
import { PointCanvas } from "../draw/points.js";
import { number, segmentName, t } from "../i18n.js";
import { itemName } from "../parts/items.js";
import { sharesBar } from "../parts/shares.js";
import { link } from "../router.js";
import { SEGMENTS } from "../types.js";

const SHOWN = 6;

/** @param {import("../main.js").Visit} visit @returns {Promise<import("../main.js").View>} */
export async function show({ signal }) {
  const told = await info();
  const preview = h("div");
  const start = h("div.start");
  const body = h("div.home.fresh", {},
    h("header.hero", {}, h("h1", {}, t("home.title")), h("p.lead", {}, t("home.lead")), figures(told)),
    divided(told), preview, start);
  return { title: "llm_tail", body, ready: () => soon(() => whole(preview, start, signal)) };
}

/** @param {() => void} run after the first picture is on the screen */
const soon = (run) => requestAnimationFrame(() => setTimeout(run));

/** @param {import("../types.js").Info} told */
function figures({ n_items, n_people, communities }) {
  const shown = [[n_items, "home.items"], [n_people, "home.people"], [communities, "home.communities"]];
  return h("dl.figures", {}, shown.filter(([n]) => Number(n) > 0).map(([n, key]) =>
    h("div", {}, h("dt", {}, t(String(key), { n })), h("dd", {}, number(Number(n))))));
}

/** @param {import("../types.js").Info} told */
function divided({ segments }) {
  const all = SEGMENTS.reduce((sum, name) => sum + (segments[name] ?? 0), 0);
  if (!all) return null;
  const parts = SEGMENTS.map((name) => ({ name: `${segmentName(name)}: ${t(`segment.${name}.is`)}`, share: (segments[name] ?? 0) / all, colour: `--${name}` }));
  return h("section.stack", { "aria-labelledby": "divided" }, h("h2", { id: "divided" }, t("home.shares")), sharesBar(parts));
}

/**
 * The map in small, and items to start with. Where the run has no map, the start goes without.
 * @param {HTMLElement} preview
 * @param {HTMLElement} start
 * @param {AbortSignal} signal
 */
async function whole(preview, start, signal) {
  const all = await points().catch(() => null);
  if (!all || !all.n || signal.aborted) return;
  const canvas = /** @type {HTMLCanvasElement} */ (h("canvas", { "aria-hidden": "true" }));
  replace(preview, h("a.preview.fresh", { href: link("map") }, canvas, h("span", {}, h("strong", {}, t("home.map")), h("span.button.primary", {}, t("home.openMap")))));
  const picture = new PointCanvas(canvas);
  picture.setPoints(all.x, all.y);
  const grouped = all.communities.length > 1;
  picture.kind = grouped ? all.community : all.segment;
  const paint = () => {
    picture.palette = grouped ? hues(all.communities.length, isDark()) : [...SEGMENTS.map((name) => colour(`--${name}`)), colour("--quiet")];
    picture.ground = colour("--surface");
    const box = bounds(all.x, all.y);
    const fit = Math.min(picture.width / box.width, picture.height / box.height) * 0.94;
    picture.draw({ x: box.left + box.width / 2, y: box.top + box.height / 2, scale: fit }, fit);
  };
  document.addEventListener("repaint", paint, { signal });
  const watch = new ResizeObserver(() => picture.resize() && paint()); // tells the first size, too
  watch.observe(canvas);
  signal.addEventListener("abort", () => { watch.disconnect(); picture.stop(); });
  await offer(start, all, signal);
}

/**
 * @param {HTMLElement} start
 * @param {import("../draw/catalog.js").Points} all
 * @param {AbortSignal} signal
 */
async function offer(start, all, signal) {
  const cold = SEGMENTS.indexOf("cold");
  /** @type {[string, number[]][]} */
  const lists = [[t("home.coldSome"), draw(all, (code) => code === cold)], [t(all.counts[SEGMENTS.length] < all.n ? "home.some" : "home.begin"), draw(all, (code) => code !== cold)]];
  const rows = lists.flatMap(([, some]) => some);
  if (!rows.length) return;
  const { items } = await get(["map", "items"], { rows: rows.join(",") }).catch(() => ({ items: [] }));
  if (signal.aborted) return;
  const found = new Map(items.map((/** @type {import("../types.js").MapItem} */ item) => [item.row, item]));
  const other = h("button.button", { type: "button", onclick: async () => {
    await offer(start, all, signal);
    start.querySelector("button")?.focus();
  } }, t("home.other"));
  replace(start,
    h("div.pair", {}, lists.filter(([, some]) => some.length).map(([title, some]) =>
      h("section.card.fresh", {}, h("h2", {}, title),
        h("ul.items", {}, some.filter((row) => found.has(row)).map((row) => h("li", {}, itemName(found.get(row)))))))),
    h("p", {}, other));
}

/**
 * @param {import("../draw/catalog.js").Points} all
 * @param {(segment: number) => boolean} fits
 * @returns {number[]} a few rows by chance
 */
function draw(all, fits) {
  /** @type {Set<number>} */
  const rows = new Set();
  for (let tries = 0; tries < 40 * SHOWN && rows.size < SHOWN; tries += 1) {
    const row = Math.floor(Math.random() * all.n);
    if (fits(all.segment[row])) rows.add(row);
  }
  return [...rows];
}
