/** Who gets seen: how evenly the last hour's attention fell on head, tail and cold. */

import { get } from "../api.js";
import { h, s } from "../dom.js";
import { number, percent, segmentName, t } from "../i18n.js";
import { later } from "../parts/notes.js";
import { sharesBar } from "../parts/shares.js";
import { link } from "../router.js";
import { SEGMENTS } from "../types.js";

/** @typedef {import("../types.js").Exposure} Exposure */

const SURFACES = ["all", "recommendations", "similar", "related", "together", "search"];
const SIDE = 320;
const ROWS = 11;

/** @param {import("../main.js").Visit} visit @returns {Promise<import("../main.js").View>} */
export async function show({ query, signal }) {
  const surface = SURFACES.includes(query.get("surface") ?? "") ? String(query.get("surface")) : "all";
  const place = h("div");
  const load = () => place.replaceChildren(later(async () => {
    const told = await get(["exposure"], { surface }, { fresh: true });
    return told.n_shown ? report(told) : h("p.card.note", {}, t("exposure.none"));
  }, { signal, lines: 8 }));
  load();
  const choose = h("select.field", { onchange: (/** @type {Event} */ event) => {
    location.hash = link("exposure", "", { surface: /** @type {HTMLSelectElement} */ (event.target).value });
  } }, SURFACES.map((name) => h("option", { value: name, selected: name === surface }, t(`surface.${name}`))));
  const body = h("div.stack.exposure", {}, h("h1", {}, t("exposure.title")), h("p.lead", {}, t("exposure.lead")),
    h("div.row", {}, h("label.row", {}, t("exposure.surface"), choose), h("button.button", { type: "button", onclick: load }, t("exposure.again"))), place);
  return { title: t("exposure.title"), body };
}

/** @param {Exposure} told */
function report(told) {
  return h("div.stack.fresh", {},
    h("dl.figures", {}, [[number(told.n_shown), "exposure.shown"], [percent(told.coverage), "exposure.coverage"], [number(told.gini, 2), "exposure.gini"]].map(([value, key]) =>
      h("div", {}, h("dt", {}, t(key)), h("dd", {}, value)))),
    h("div.pair", {},
      h("figure.card", {}, h("figcaption", {}, t("exposure.curve")), curve(told.curve)),
      h("div.card.stack", {}, segments(told),
        h("details", {}, h("summary", {}, t("exposure.points")), numbers(told.curve)))));
}

/** @param {[number, number][]} points */
function curve(points) {
  const path = points.map(([x, y], i) => `${i ? "L" : "M"}${(x * SIDE).toFixed(1)} ${((1 - y) * SIDE).toFixed(1)}`).join("");
  const ticks = [0, 0.25, 0.5, 0.75, 1];
  return s("svg.curve", { viewBox: `-44 -10 ${SIDE + 60} ${SIDE + 54}`, role: "img", "aria-label": t("exposure.curve") },
    ticks.map((at) => s("path.rule", { d: `M0 ${(1 - at) * SIDE}H${SIDE}` })),
    ticks.map((at) => s("text.tick", { x: -8, y: (1 - at) * SIDE + 4, "text-anchor": "end" }, percent(at))),
    ticks.map((at) => s("text.tick", { x: at * SIDE, y: SIDE + 18, "text-anchor": "middle" }, percent(at))),
    s("path.even", { d: `M0 ${SIDE}L${SIDE} 0` }),
    s("text.tick", { x: SIDE * 0.62, y: SIDE * 0.37, dy: -8, transform: `rotate(-45 ${SIDE * 0.62} ${SIDE * 0.38})`, "text-anchor": "middle" }, t("exposure.even")),
    s("path.area", { d: `${path}L${SIDE} ${SIDE}L0 ${SIDE}Z` }),
    s("path.line", { d: path }),
    s("text.tick", { x: SIDE / 2, y: SIDE + 38, "text-anchor": "middle" }, t("exposure.x")));
}

/** @param {Exposure} told */
function segments({ shares, catalog }) {
  const parts = (/** @type {import("../types.js").Shares} */ of) => SEGMENTS.map((name) => ({ name: segmentName(name), share: of[name], colour: `--${name}` }));
  return h("div.stack", {},
    h("h2", {}, t("exposure.table")),
    h("div", {}, h("p.kicker", {}, t("exposure.ofCatalog")), sharesBar(parts(catalog))),
    h("div", {}, h("p.kicker", {}, t("exposure.ofShown")), sharesBar(parts(shares))),
    h("div.table", {}, h("table", {}, h("thead", {}, h("tr", {}, ["segment", "ofCatalog", "ofShown", "ratio"].map((key) => h("th", { scope: "col" }, t(`exposure.${key}`))))),
      h("tbody", {}, SEGMENTS.map((name) => h("tr", {}, h("th", { scope: "row" }, segmentName(name)), h("td", {}, percent(catalog[name])), h("td", {}, percent(shares[name])),
        h("td", {}, catalog[name] > 0 ? `${number(shares[name] / catalog[name], 2)}×` : "–")))))));
}

/** @param {[number, number][]} points */
function numbers(points) {
  const every = Math.max(1, (points.length - 1) / (ROWS - 1));
  const some = Array.from({ length: Math.min(ROWS, points.length) }, (_, i) => points[Math.round(i * every)]);
  return h("div.table", {}, h("table", {}, h("caption", {}, t("exposure.curve")),
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, t("exposure.x")), h("th", { scope: "col" }, t("exposure.y")))),
    h("tbody", {}, some.map(([x, y]) => h("tr", {}, h("td", {}, percent(x)), h("td", {}, percent(y)))))));
}
