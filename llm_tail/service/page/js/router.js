/** Addresses live behind the hash: `#/item/B00X`, `#/search?q=tea&how=both`. */

/**
 * @typedef {{ view: string, id: string, query: URLSearchParams }} Place
 */

/**
 * Read a hash.
 * @param {string} hash
 * @returns {Place} the home view where nothing is named
 */
export function parse(hash) {
  const [path, query = ""] = split(hash.replace(/^#\/?/, ""), "?");
  const [view, id = ""] = split(path, "/");
  return { view: view || "home", id: decode(id), query: new URLSearchParams(query) };
}

/** @typedef {Record<string, string | number | string[] | undefined>} Query a list is repeated, what is empty left out */

/**
 * Write a hash.
 * @param {string} view
 * @param {string} [id]
 * @param {Query} [query]
 * @returns {string}
 */
export function link(view, id = "", query = {}) {
  const pairs = Object.entries(query).flatMap(([key, value]) => [value].flat().map((one) => [key, String(one ?? "")]));
  const words = new URLSearchParams(pairs.filter(([, value]) => value)).toString();
  const path = view === "home" ? "" : id ? `${view}/${encodeURIComponent(id)}` : view;
  return `#/${path}${words ? `?${words}` : ""}`;
}

/** @param {string} id @returns {string} the address of an item's page */
export const itemLink = (id) => link("item", id);

/**
 * Change what the address says about the present view without a step in the history.
 * @param {Query} changes
 */
export function amend(changes) {
  const { view, id, query } = parse(location.hash);
  const all = { ...Object.fromEntries([...query.keys()].map((key) => [key, query.getAll(key)])), ...changes };
  history.replaceState(history.state, "", link(view, id, all));
}

/** @param {string} text @param {string} mark @returns {string[]} */
function split(text, mark) {
  const at = text.indexOf(mark);
  return at < 0 ? [text] : [text.slice(0, at), text.slice(at + 1)];
}

/** @param {string} text */
function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // a lone percent sign in a hand-written address
  }
}
