/** What lies around an item: the graph to travel in, a legend that switches ties, and the same as a list. */

import { get } from "../api.js";
import { h, replace, s } from "../dom.js";
import { GraphPicture } from "../draw/graph.js";
import { relationName, t } from "../i18n.js";
import { icon } from "../parts/icons.js";
import { badge, itemName } from "../parts/items.js";
import { later } from "../parts/notes.js";
import { strip } from "../parts/shares.js";
import { parse } from "../router.js";

/**
 * @typedef {import("../types.js").Graph} Graph
 * @typedef {import("../draw/graph.js").Look} Look
 */

const AROUND = 28;
const AROUND_NARROW = 14;
const DASHES = ["", "7 4", "2 4", "11 4 2 4", "5 2", "1 6"];

/**
 * @param {import("../types.js").Item} item
 * @param {import("../types.js").Info} told
 * @param {AbortSignal} signal
 * @returns {HTMLElement}
 */
export function surroundings(item, told, signal) {
  const looks = new Map(told.relations.map((name, i) => [name, { colour: `--edge-${(i % 6) + 1}`, dash: DASHES[i % 6] }]));
  const place = h("div");
  let stay = new AbortController();
  /** @param {string} hops */
  const load = (hops) => {
    stay.abort();
    stay = new AbortController();
    const mine = AbortSignal.any([signal, stay.signal]);
    replace(place, later(async () => {
      const graph = await get(["graph", item.item_id], { hops, k: innerWidth < 600 ? AROUND_NARROW : AROUND });
      return graph.nodes.length > 1 ? picture(graph, item.title, looks, mine) : h("p.note", {}, t("graph.alone"));
    }, { signal: mine, lines: 8 }));
  };
  load("2");
  return h("div.card.stack", {},
    strip(t("graph.hops"), ["1", "2"].map((value) => ({ value, name: t("graph.steps", { n: Number(value) }) })), "2", load),
    place);
}

/**
 * @param {Graph} graph
 * @param {string} title
 * @param {Map<string, Look>} looks
 * @param {AbortSignal} signal
 */
function picture(graph, title, looks, signal) {
  const shown = new Set(graph.edges.map(({ relation }) => relation));
  const drawn = new GraphPicture(graph, looks, t("graph.label", { n: graph.nodes.length, title }), signal);
  const legend = h("fieldset.legend", {}, h("legend.sr", {}, t("graph.relations")), [...shown].map((relation) => {
    const look = looks.get(relation) ?? { colour: "--line", dash: "" };
    return h("label.switch", {},
      h("input", { type: "checkbox", checked: true, onchange: (/** @type {Event} */ event) => {
        if (/** @type {HTMLInputElement} */ (event.target).checked) shown.add(relation);
        else shown.delete(relation);
        drawn.show(shown);
      } }),
      s("svg.stroke", { viewBox: "0 0 28 8", "aria-hidden": "true" }, s("path", { d: "M1 4H27", "stroke-dasharray": look.dash || null, style: { stroke: `var(${look.colour})` } })),
      relationName(relation));
  }));
  requestAnimationFrame(() => {
    drawn.start();
    if (parse(location.hash).query.get("at") !== "graph") return;
    drawn.element.scrollIntoView({ block: "center" });
    drawn.focus();
  });
  return h("div.stack", {},
    h("div.row.spread", {}, legend, zoomButtons(drawn)),
    h("div.frame", {}, drawn.element),
    h("p.kicker", { id: "graph-help" }, t("graph.help")),
    h("details", {}, h("summary", {}, t("graph.list")), asList(graph)));
}

/** @param {{ zoom: (factor: number) => void, fit: () => void }} drawn @returns {HTMLElement} */
export function zoomButtons(drawn) {
  /** @param {string} name @param {"plus" | "minus" | "all"} look @param {() => void} run */
  const button = (name, look, run) => h("button.icon", { type: "button", "aria-label": t(name), title: t(name), onclick: run }, icon(look));
  return h("div.zoom", {}, button("map.in", "plus", () => drawn.zoom(1.4)), button("map.out", "minus", () => drawn.zoom(1 / 1.4)), button("map.all", "all", () => drawn.fit()));
}

/** @param {Graph} graph */
function asList(graph) {
  const ties = new Map(graph.nodes.map(({ item_id }) => [item_id, /** @type {Set<string>} */ (new Set())]));
  for (const { source, target, relation } of graph.edges) {
    ties.get(source)?.add(relation);
    ties.get(target)?.add(relation);
  }
  return h("ul.items", {}, graph.nodes.filter(({ hops }) => hops > 0).map((node) =>
    h("li", {}, itemName(node), h("span.kicker", {}, t("graph.steps", { n: node.hops })),
      h("div.under", {}, badge(node.segment), [...(ties.get(node.item_id) ?? [])].map(relationName).join(", ")))));
}
