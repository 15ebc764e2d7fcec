/** The whole catalogue as typed arrays: decoded once and shared by the views that draw it. */

import { get } from "../api.js";
import { SEGMENTS } from "../types.js";

/**
 * @typedef {import("../types.js").Column} Column
 * @typedef {import("../types.js").MapAnswer} MapAnswer
 * @typedef {{ code: number, name: string, n: number, x: number, y: number }} Community its middle in data units
 * @typedef {{ n: number, kind: string, x: Float32Array, y: Float32Array, segment: Uint16Array,
 *   community: Uint16Array, communities: Community[], counts: number[] }} Points `segment` holds places in SEGMENTS,
 *   or one more where there is none; `community` places in `communities`, or one more for none; `communities` are the
 *   largest first
 */

/** @type {{ answer: MapAnswer, decoded: Points } | null} */
let last = null;

/** @returns {Promise<Points>} asked for again after a while, since a newer run has another map */
export async function points() {
  const answer = await get(["map"]);
  if (last && last.answer === answer) return last.decoded;
  const decoded = decodeMap(answer);
  last = { answer, decoded };
  return decoded;
}

/**
 * @param {string} text base64
 * @returns {Uint8Array<ArrayBuffer>}
 */
export function bytes(text) {
  const packed = atob(text);
  const found = new Uint8Array(packed.length);
  for (let i = 0; i < packed.length; i += 1) found[i] = packed.charCodeAt(i);
  return found;
}

/** @param {Column} column @returns {Uint8Array | Uint16Array} */
function codes(column) {
  const raw = bytes(column.data);
  if (column.dtype === "uint8") return raw;
  const wide = new Uint16Array(raw.length / 2); // put together by hand: little-endian, whatever the reader's machine is
  for (let i = 0; i < wide.length; i += 1) wide[i] = raw[2 * i] | (raw[2 * i + 1] << 8);
  return wide;
}

/** @param {Column} column @param {number} sign @returns {Float32Array} */
function places(column, sign) {
  const raw = codes(column);
  const step = (column.high - column.low) / (column.dtype === "uint8" ? 255 : 65535);
  const found = new Float32Array(raw.length);
  for (let i = 0; i < raw.length; i += 1) found[i] = sign * (column.low + raw[i] * step);
  return found;
}

/** @param {Uint8Array | Uint16Array} raw @param {Uint16Array} by @returns {Uint16Array} each code as the table has it */
function renamed(raw, by) {
  const found = new Uint16Array(raw.length);
  for (let i = 0; i < raw.length; i += 1) found[i] = by[raw[i]];
  return found;
}

/**
 * @param {MapAnswer} answer
 * @returns {Points}
 */
export function decodeMap(answer) {
  const n = answer.n_items;
  const [x, y] = [places(answer.x, 1), places(answer.y, -1)]; // up on paper is down on a screen
  const known = new Uint16Array(65536).fill(SEGMENTS.length);
  answer.segment.names.forEach((name, code) => {
    const place = SEGMENTS.indexOf(/** @type {import("../types.js").Segment} */ (name));
    if (place >= 0) known[code] = place;
  });
  const segment = renamed(codes(answer.segment), known);
  const counts = new Array(SEGMENTS.length + 1).fill(0);
  for (const code of segment) counts[code] += 1;
  const { communities, community } = gather(codes(answer.community), answer.community.names, x, y);
  return { n, kind: answer.kind, x, y, segment, community, communities, counts };
}

/**
 * Count communities, find their middles, and number them by size.
 * @param {Uint8Array | Uint16Array} raw
 * @param {string[]} names
 * @param {Float32Array} x
 * @param {Float32Array} y
 */
function gather(raw, names, x, y) {
  /** @type {Community[]} */
  const all = names.map((name, code) => ({ code, name, n: 0, x: 0, y: 0 }));
  for (let i = 0; i < raw.length; i += 1) {
    const one = all[raw[i]];
    if (!one) continue;
    one.n += 1;
    one.x += x[i];
    one.y += y[i];
  }
  const communities = all.filter(({ n }) => n > 0).sort((a, b) => b.n - a.n);
  const place = new Uint16Array(65536).fill(communities.length);
  communities.forEach((one, at) => {
    one.x /= one.n;
    one.y /= one.n;
    place[one.code] = at;
  });
  return { communities, community: renamed(raw, place) };
}

/**
 * Colours that stay apart on paper and in the dark: hues a golden turn from each other.
 * @param {number} n
 * @param {boolean} dark
 * @returns {import("./points.js").Colour[]} one more than asked for: grey, for none
 */
export function hues(n, dark) {
  const colours = Array.from({ length: n }, (_, i) => rgb((205 + i * 137.508) % 360, dark ? 0.62 : 0.6, (dark ? 0.66 : 0.42) + ((i >> 3) % 3) * 0.06));
  return [...colours, dark ? [120, 126, 135] : [150, 148, 142]];
}

/** @param {number} hue @param {number} saturation @param {number} light @returns {import("./points.js").Colour} */
function rgb(hue, saturation, light) {
  const reach = saturation * Math.min(light, 1 - light);
  /** @param {number} n */
  const channel = (n) => {
    const k = (n + hue / 30) % 12;
    return Math.round(255 * (light - reach * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
  };
  return [channel(0), channel(8), channel(4)];
}
