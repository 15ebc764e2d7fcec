/** Shares of a whole: a bar of coloured parts and the legend that says the same in words. */

import { h } from "../dom.js";
import { percent } from "../i18n.js";

/**
 * @param {{ name: string, share: number, colour: string }[]} parts colours are names of CSS properties
 * @param {{ thin?: boolean }} [how]
 * @returns {HTMLElement}
 */
export function sharesBar(parts, { thin = false } = {}) {
  const shown = parts.filter(({ share }) => share > 0);
  return h(
    "div.stack",
    { style: { gap: "0.5rem" } },
    h(`div.shares${thin ? ".thin" : ""}`, { "aria-hidden": "true" }, shown.map(({ share, colour }) => h("i", { style: { "--share": share, "--tone": `var(${colour})` } }))),
    h("ul.legend", {}, parts.map(({ name, share, colour }) =>
      h("li", {}, h("i.dot", { style: { "--tone": `var(${colour})` } }), name, h("strong.number", {}, percent(share))))),
  );
}

/**
 * A choice of one among few.
 * @param {string} label
 * @param {{ value: string, name: string }[]} choices
 * @param {string} chosen
 * @param {(value: string) => void} change
 * @returns {HTMLElement}
 */
export function strip(label, choices, chosen, change) {
  const group = `strip-${label}`;
  return h("fieldset.strip", {}, h("legend.sr", {}, label), choices.map(({ value, name }) =>
    h("label", {}, h("input", { type: "radio", name: group, value, checked: value === chosen, onchange: () => change(value) }), h("span", {}, name))));
}
