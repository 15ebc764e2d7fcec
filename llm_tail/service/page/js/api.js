/** Questions to the service. Addresses are relative, so that the page also works below a path of a proxy. */

/** @typedef {import("./types.js").Info} Info */

const KEY = "llm-tail-key";
const PATIENCE_MS = 30_000;
const FRESH_MS = 60_000;
const KEPT = 200;

/** What went wrong with a question, in a form that a view can show kindly. */
export class Problem extends Error {
  /**
   * @param {"gone" | "unknown" | "key" | "cannot" | "busy" | "wrong"} kind
   * @param {string} message the service's own words, where it had any
   * @param {string[]} [closest]
   */
  constructor(kind, message, closest = []) {
    super(message);
    this.kind = kind;
    this.closest = closest;
  }
}

/** @type {Map<string, { at: number, answer: Promise<any> }>} */
const kept = new Map();

/** @type {(wrong: boolean) => Promise<string>} asks the reader for the key; set by the frame */
let askForKey = () => Promise.reject(new Problem("key", ""));

/** @param {(wrong: boolean) => Promise<string>} ask is told whether the key given before was wrong */
export function whenKeyIsMissing(ask) {
  askForKey = ask;
}

/** @returns {boolean} whether questions carry a key; a plain link would not */
export const hasKey = () => sessionStorage.getItem(KEY) !== null;

/** Forget answers that are kept, after something has changed on the other side. */
export const forget = () => kept.clear();

/**
 * Ask; an answer is kept for a minute, and two askers at once share one question.
 * @param {string[]} path parts of the path; each is encoded
 * @param {Record<string, string | number | string[] | undefined>} [query] a list is repeated
 * @param {{ fresh?: boolean }} [how]
 * @returns {Promise<any>}
 */
export function get(path, query = {}, { fresh = false } = {}) {
  const url = address(path, query);
  const known = kept.get(url);
  if (known && !fresh && Date.now() - known.at < FRESH_MS) return known.answer;
  const answer = ask(url, {});
  kept.set(url, { at: Date.now(), answer });
  answer.catch(() => kept.get(url)?.answer === answer && kept.delete(url));
  if (kept.size > KEPT) kept.delete(kept.keys().next().value ?? "");
  return answer;
}

/**
 * @param {string[]} path
 * @param {unknown} body
 * @returns {Promise<any>}
 */
export function post(path, body) {
  return ask(address(path, {}), {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
}

/** @returns {Promise<Info>} what is served */
export const info = () => get(["info"]);

/**
 * @param {string[]} path
 * @param {Record<string, string | number | string[] | undefined>} query
 */
function address(path, query) {
  const words = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== undefined && one !== "") words.append(name, String(one));
    }
  }
  const asked = words.toString();
  return path.map(encodeURIComponent).join("/") + (asked ? `?${asked}` : "");
}

/**
 * @param {string} url
 * @param {RequestInit} init
 * @returns {Promise<any>}
 */
async function ask(url, init) {
  const key = sessionStorage.getItem(KEY);
  const headers = { Accept: "application/json", ...init.headers, ...(key && { Authorization: `Bearer ${key}` }) };
  let response;
  try {
    response = await fetch(url, { ...init, headers, signal: AbortSignal.timeout(PATIENCE_MS) });
  } catch (error) {
    throw new Problem("gone", error instanceof Error ? error.message : "");
  }
  if (response.ok) return response.json();
  if (response.status === 401) {
    // another question may have brought a key in the meantime
    if (sessionStorage.getItem(KEY) === key) sessionStorage.setItem(KEY, await askForKey(key !== null));
    return ask(url, init);
  }
  throw await problem(response);
}

/** @param {Response} response @returns {Promise<Problem>} */
async function problem(response) {
  const told = await response.json().catch(() => ({}));
  const kind =
    { 404: "unknown", 403: "key", 409: "cannot", 429: "busy", 502: "gone", 503: "busy", 504: "gone" }[response.status] ?? "wrong";
  const message = typeof told.error === "string" ? told.error : `${response.status} ${response.statusText}`;
  return new Problem(/** @type {Problem["kind"]} */ (kind), message, Array.isArray(told.closest) ? told.closest : []);
}
