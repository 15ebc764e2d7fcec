/** Asks for the service's key where it wants one. */

import { Problem } from "../api.js";
import { h } from "../dom.js";
import { t } from "../i18n.js";

/** @type {Promise<string> | null} */
let open = null;

/**
 * Ask once, however many questions wait for the answer.
 * @param {boolean} wrong whether the key given before was not accepted
 * @returns {Promise<string>}
 */
export function askKey(wrong) {
  open ??= show(wrong).finally(() => {
    open = null;
  });
  return open;
}

/** @param {boolean} wrong @returns {Promise<string>} */
function show(wrong) {
  return new Promise((resolve, reject) => {
    const input = /** @type {HTMLInputElement} */ (
      h("input.field", { id: "key", type: "password", autocomplete: "off", required: true, "aria-describedby": wrong ? "key-wrong" : null })
    );
    const dialog = /** @type {HTMLDialogElement} */ (
      h("dialog", { "aria-labelledby": "key-title" },
        h("form", { onsubmit: (/** @type {Event} */ event) => { event.preventDefault(); finish(input.value); } },
          h("h2", { id: "key-title" }, t("key.title")),
          h("p.note", {}, t("key.lead")),
          wrong && h("p.alert", { id: "key-wrong" }, t("key.wrong")),
          h("label.stack", { style: { gap: "0.3rem" } }, t("key.label"), input),
          h("div.row", {},
            h("button.button.primary", { type: "submit" }, t("key.enter")),
            h("button.button", { type: "button", onclick: () => finish("") }, t("key.cancel")))))
    );
    /** @param {string} value */
    function finish(value) {
      dialog.remove();
      if (value) resolve(value);
      else reject(new Problem("key", ""));
    }
    dialog.addEventListener("cancel", () => finish(""));
    document.body.append(dialog);
    dialog.showModal();
    input.focus();
  });
}
