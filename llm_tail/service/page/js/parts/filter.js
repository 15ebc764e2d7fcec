/** Conditions on columns: chips for those that hold, and a small form to add one. */

import { h, replace, uid } from "../dom.js";
import { number, t } from "../i18n.js";
import { icon } from "./icons.js";

/** @typedef {import("../types.js").ColumnInfo} ColumnInfo */

const OPERATORS = { text: ["=", "!="], list: ["=", "!="], flag: ["=", "!="], number: ["=", "<", "<=", ">", ">=", "!="], date: ["=", "<", "<=", ">", ">="] };

/**
 * @param {ColumnInfo[]} columns
 * @param {string[]} where the conditions that hold
 * @param {(where: string[]) => void} change
 * @returns {HTMLElement}
 */
export function filterBox(columns, where, change) {
  const chips = h("ul.row", {}, where.map((condition) =>
    h("li", {}, h("button.button.small", { type: "button", "aria-label": t("filter.remove", { condition }), onclick: () => change(where.filter((one) => one !== condition)) },
      h("span", { dir: "auto" }, condition), icon("cross")))));
  const details = h("details.filter", {}, h("summary.button", {}, t("filter.title")),
    columns.length ? form(columns, (condition) => change([...new Set([...where, condition])])) : h("p.note", {}, t("filter.none")));
  return h("div.row", {}, where.length > 0 && chips, details);
}

/**
 * @param {ColumnInfo[]} columns
 * @param {(condition: string) => void} add
 * @returns {HTMLElement}
 */
function form(columns, add) {
  const values = h("datalist", { id: uid("values") });
  const value = /** @type {HTMLInputElement} */ (h("input.field", { list: values.id, required: true, dir: "auto", autocomplete: "off", maxlength: 400, "aria-label": t("filter.value"), placeholder: t("filter.value") }));
  const operator = /** @type {HTMLSelectElement} */ (h("select.field", { "aria-label": t("filter.operator") }));
  const column = /** @type {HTMLSelectElement} */ (
    h("select.field", { "aria-label": t("filter.column"), onchange: offer }, columns.map(({ name }) => h("option", { value: name }, name)))
  );

  function offer() {
    const chosen = columns[column.selectedIndex];
    replace(operator, OPERATORS[chosen.kind].map((sign) => h("option", { value: sign }, { "!=": "≠", "<=": "≤", ">=": "≥" }[sign] ?? sign)));
    replace(values, chosen.values.map((one) => h("option", { value: one })));
    const range = chosen.low !== null && chosen.high !== null ? `${number(chosen.low, 0)} – ${number(chosen.high, 0)}` : "";
    value.placeholder = range || t("filter.value");
    value.inputMode = chosen.kind === "number" ? "decimal" : "text";
  }
  offer();
  return h("form.card.row", { onsubmit: (/** @type {Event} */ event) => {
    event.preventDefault();
    add(`${column.value}${operator.value}${value.value.trim()}`);
  } }, column, operator, value, values, h("button.button.primary", { type: "submit" }, t("filter.add")));
}
