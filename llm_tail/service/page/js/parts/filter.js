/** Conditions that items have to meet: chips for those that hold, a small form for one more, or words of one's own. */

import { h, replace, uid } from "../dom.js";
import { number, segmentName, t } from "../i18n.js";
import { SEGMENTS } from "../types.js";
import { icon } from "./icons.js";

/**
 * @typedef {import("../types.js").ColumnInfo} ColumnInfo
 * @typedef {import("../types.js").Info} Info
 */

const SIGNS = { text: ["=", "!=", "contains"], list: ["=", "!="], flag: ["="], number: ["=", "<", "<=", ">", ">=", "!="], date: ["=", "<", "<=", ">", ">="] };
const SHOWN = { "!=": "≠", "<=": "≤", ">=": "≥" };
const SEGMENT = "segment";

/**
 * @param {Info} told
 * @param {string[]} where the conditions that hold
 * @param {(where: string[]) => void} change
 * @returns {HTMLElement}
 */
export function filterBox(told, where, change) {
  const columns = [...told.columns];
  if (SEGMENTS.some((name) => told.segments[name]) && columns.every(({ name }) => name !== SEGMENT)) {
    columns.push({ name: SEGMENT, kind: "text", values: SEGMENTS, low: null, high: null });
  }
  const add = (/** @type {string} */ condition) => change([...new Set([...where, condition])]);
  const chips = h("ul.row", {}, where.map((condition) =>
    h("li", {}, h("button.button.small", { type: "button", "aria-label": t("filter.remove", { condition }), onclick: () => change(where.filter((one) => one !== condition)) },
      h("span", { dir: "auto" }, condition), icon("cross")))));
  const form = columns.length ? h("div.card.stack", {}, choose(columns, add), write(add)) : h("p.card.note", {}, t("filter.none"));
  return h("div.row", {}, where.length > 0 && chips, h("details.filter", {}, h("summary.button", {}, t("filter.title")), form));
}

/**
 * @param {ColumnInfo[]} columns
 * @param {(condition: string) => void} add
 * @returns {HTMLElement}
 */
function choose(columns, add) {
  const values = h("datalist", { id: uid("values") });
  const value = /** @type {HTMLInputElement} */ (h("input.field", { list: values.id, required: true, dir: "auto", autocomplete: "off", maxlength: 400, "aria-label": t("filter.value") }));
  const sign = /** @type {HTMLSelectElement} */ (h("select.field", { "aria-label": t("filter.operator") }));
  const column = /** @type {HTMLSelectElement} */ (
    h("select.field", { "aria-label": t("filter.column"), onchange: offer }, columns.map(({ name }) => h("option", { value: name }, name.replaceAll("_", " "))))
  );

  function offer() {
    const { kind, low, high, values: common, name } = columns[column.selectedIndex];
    replace(sign, SIGNS[kind].map((one) => h("option", { value: one }, one === "contains" ? t("filter.contains") : SHOWN[/** @type {keyof typeof SHOWN} */ (one)] ?? one)));
    replace(values, (kind === "flag" ? ["true", "false"] : common).map((one) => h("option", { value: one, label: name === SEGMENT ? segmentName(one) : null })));
    value.placeholder = low !== null && high !== null ? `${number(low)} – ${number(high)}` : t("filter.value");
    value.inputMode = kind === "number" ? "decimal" : "text";
  }
  offer();
  return h("form.row", { onsubmit: (/** @type {Event} */ event) => {
    event.preventDefault();
    add(condition(columns[column.selectedIndex], sign.value, value.value.trim()));
  } }, column, sign, value, values, h("button.button.primary", { type: "submit" }, t("filter.add")));
}

/** @param {(condition: string) => void} add @returns {HTMLElement} */
function write(add) {
  const words = /** @type {HTMLInputElement} */ (h("input.field", { required: true, autocomplete: "off", spellcheck: "false", maxlength: 2000, "aria-label": t("filter.own"), placeholder: t("filter.ownHint") }));
  return h("form.row", { onsubmit: (/** @type {Event} */ event) => {
    event.preventDefault();
    add(words.value.trim());
  } }, words, h("button.button", { type: "submit" }, t("filter.add")));
}

/**
 * Write a condition as the service reads it: names in backquotes where needed, words in quotes.
 * @param {ColumnInfo} column
 * @param {string} sign
 * @param {string} value
 * @returns {string}
 */
export function condition({ name, kind }, sign, value) {
  const plain = /^[\p{L}_][\p{L}\p{N}_]*$/u.test(name) && !["and", "or", "not", "in", "is", "missing", "contains"].includes(name);
  const bare = kind === "number" || kind === "date" || kind === "flag";
  const said = bare ? value.replace(",", ".") : `"${value.replace(/["\\]/g, "\\$&")}"`;
  return `${plain ? name : `\`${name}\``} ${sign} ${said}`;
}
