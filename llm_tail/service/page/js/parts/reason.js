/** The service's short reasons in the reader's language. What is not known is left as the service said it. */

import { language, t } from "../i18n.js";

/** @type {[RegExp, (found: string[]) => string][]} */
const PHRASES = [
  [/^alike in words$/, () => t("reason.similar")],
  [/^taken by the same people$/, () => t("reason.taken")],
  [/^([\d,]+) (?:person|people) took both$/, ([, n]) => t("reason.both", { n: Number(n.replaceAll(",", "")) })],
  [/^goes with (.+)$/s, ([, title]) => t("reason.with", { title })],
  [/^via (.+)$/s, ([, title]) => t("reason.via", { title })],
  [/^same ([^:]+): (.+)$/s, ([, relation, value]) => t("reason.value", { relation, value })],
  [/^same ([^:]+)$/s, ([, relation]) => t("reason.same", { relation })],
];

/** @param {string} why @returns {string} */
export function reason(why) {
  if (language === "en") return why;
  const one = (/** @type {string} */ part) => {
    for (const [pattern, say] of PHRASES) {
      const found = pattern.exec(part);
      if (found) return say(found);
    }
    return part;
  };
  return /^(goes with|via) /.test(why) ? one(why) : why.split("; ").map(one).join("；");
}
