/**
 * Items and their ties as a picture to travel in (SVG): drag an item, move and zoom the whole, follow a link.
 * Items are real links, one of them in the tab order; arrow keys go from one to the next in that direction.
 */

import { calm, s } from "../dom.js";
import { itemLink, link } from "../router.js";
import { Layout, place } from "./forces.js";
import { Gestures } from "./gestures.js";

/**
 * @typedef {import("../types.js").Graph} Graph
 * @typedef {import("../types.js").GraphNode} GraphNode
 * @typedef {{ path: SVGElement, source: number, target: number, relation: string, strength: number, bend: number }} Tie
 * @typedef {{ colour: string, dash: string }} Look
 */

const LABEL = 24;
const FIRST_STEPS = 70;
const DRAG = 5;
const NEAREST = 3; // others that an item is drawn tied to
/** @type {Map<string, { x: number, y: number }>} where items lay in the last picture, so that travelling goes on from there */
let last = new Map();

export class GraphPicture {
  /**
   * @param {Graph} graph
   * @param {Map<string, Look>} looks of the relations
   * @param {string} label
   * @param {AbortSignal} signal
   */
  constructor(graph, looks, label, signal) {
    this.nodes = graph.nodes;
    this.row = new Map(graph.nodes.map((node, row) => [node.item_id, row]));
    this.scene = s("g");
    this.element = s("svg.graph", { role: "group", "aria-label": label, "aria-describedby": "graph-help" }, this.scene);
    this.ties = this.#makeTies(graph, looks);
    this.stars = graph.nodes.map((node, row) => this.#makeStar(node, row));
    this.scene.append(s("g", {}, this.ties.map(({ path }) => path)), ...this.stars.map(({ link }) => link));
    const radii = this.nodes.map((node) => (node.hops ? 8 + 4 * node.weight : 15));
    const bodies = place(this.nodes.length, this.nodes.map(({ hops }) => hops), radii);
    this.#remember(bodies);
    this.layout = new Layout(bodies, []);
    this.#choose(new Set(graph.edges.map(({ relation }) => relation)));
    this.signal = signal;
    this.touched = false;
    this.frame = 0;
    this.camera = { x: 0, y: 0, scale: 1 };
    this.size = { width: 800, height: 520 };
    this.gestures = new Gestures(this.element, {
      signal,
      pan: (dx, dy) => this.#see({ x: this.camera.x - dx / this.camera.scale, y: this.camera.y - dy / this.camera.scale }),
      zoom: (factor, x, y) => this.zoom(factor, x, y),
      wheel: (event) => event.ctrlKey || event.metaKey || this.element.contains(document.activeElement),
    });
    this.element.addEventListener("keydown", (event) => this.#press(/** @type {KeyboardEvent} */ (event)), { signal });
    signal.addEventListener("abort", () => this.#leave());
  }

  /** Begin, once the element is on the page. */
  start() {
    this.#measure();
    const watch = new ResizeObserver(() => this.#measure());
    watch.observe(this.element);
    this.signal.addEventListener("abort", () => watch.disconnect());
    if (calm()) this.layout.settle();
    else for (let i = 0; i < FIRST_STEPS; i += 1) this.layout.step();
    this.#run();
  }

  /**
   * Show the ties of some relations only; items that are left without a tie step back.
   * @param {Set<string>} relations
   */
  show(relations) {
    this.#choose(relations);
    this.layout.warm();
    if (calm()) this.layout.settle();
    this.#run();
  }

  /** @param {Set<string>} relations */
  #choose(relations) {
    const wanted = this.ties.filter(({ relation }) => relations.has(relation));
    const kept = backbone(wanted, this.nodes.length);
    for (const tie of this.ties) tie.path.toggleAttribute("hidden", !kept.has(tie));
    const tied = new Set([0, ...[...kept].flatMap(({ source, target }) => [source, target])]);
    this.stars.forEach(({ link }, row) => link.classList.toggle("faint", !tied.has(row)));
    this.layout.springs = [...kept];
  }

  /**
   * @param {number} factor
   * @param {number} [x] a place that stays where it is, in pixels of the element
   * @param {number} [y]
   */
  zoom(factor, x = this.size.width / 2, y = this.size.height / 2) {
    const scale = Math.max(0.2, Math.min(5, this.camera.scale * factor));
    const part = 1 / this.camera.scale - 1 / scale;
    this.#see({ x: this.camera.x + (x - this.size.width / 2) * part, y: this.camera.y + (y - this.size.height / 2) * part, scale });
  }

  /** See everything again. */
  fit() {
    this.touched = false;
    this.#frameAll();
    this.#draw();
  }

  /** Put the focus on the item in the middle. */
  focus() {
    this.stars[0]?.link.focus({ preventScroll: true });
  }

  /** @param {Partial<{ x: number, y: number, scale: number }>} change */
  #see(change) {
    this.touched = true;
    Object.assign(this.camera, change);
    this.#draw();
  }

  /** @param {Graph} graph @param {Map<string, Look>} looks @returns {Tie[]} */
  #makeTies(graph, looks) {
    /** @type {Map<string, number>} */
    const beside = new Map();
    return graph.edges.flatMap(({ source, target, relation, weight }) => {
      const [a, b] = [this.row.get(source), this.row.get(target)];
      if (a === undefined || b === undefined) return [];
      const pair = a < b ? `${a} ${b}` : `${b} ${a}`;
      const n = beside.get(pair) ?? 0;
      beside.set(pair, n + 1);
      const look = looks.get(relation) ?? { colour: "--line", dash: "" };
      const path = s("path.tie", { "stroke-dasharray": look.dash || null, "stroke-width": 1 + 2.4 * weight, style: { stroke: `var(${look.colour})` } });
      const bend = n === 0 ? 0 : Math.ceil(n / 2) * 0.14 * (n % 2 ? 1 : -1) * (a < b ? 1 : -1);
      return [{ path, source: a, target: b, relation, strength: Math.min(1, weight), bend }];
    });
  }

  /** @param {GraphNode} node @param {number} row */
  #makeStar(node, row) {
    const short = node.title.length > LABEL ? `${node.title.slice(0, LABEL - 1)}…` : node.title;
    const label = s("text", { "text-anchor": "middle", "aria-hidden": "true" }, short);
    const circle = s("circle", { r: node.hops ? 8 + 4 * node.weight : 15, style: { fill: `var(--${node.segment ?? "quiet"})` } });
    const one = s("a.star", {
      href: node.hops ? link("item", node.item_id, { at: "graph" }) : itemLink(node.item_id), draggable: "false", tabindex: row === 0 ? 0 : -1,
      onpointerdown: (/** @type {PointerEvent} */ event) => this.#grab(event, row),
      onfocus: () => this.#rove(row),
      ondragstart: (/** @type {Event} */ event) => event.preventDefault(),
    }, s("title", {}, node.title), circle, label);
    if (!node.hops) one.classList.add("centre");
    return { link: one, label, wide: width(short) };
  }

  /**
   * Drag an item; a press that hardly moves stays a click.
   * @param {PointerEvent} event
   * @param {number} row
   */
  #grab(event, row) {
    if (event.button !== 0) return;
    event.stopPropagation();
    const { link } = this.stars[row];
    const body = this.layout.bodies[row];
    const from = { x: event.clientX, y: event.clientY, bodyX: body.x, bodyY: body.y };
    let dragged = false;
    const move = (/** @type {PointerEvent} */ at) => {
      dragged ||= Math.hypot(at.clientX - from.x, at.clientY - from.y) > DRAG;
      if (!dragged) return;
      this.touched = true;
      body.held = true;
      body.x = from.bodyX + (at.clientX - from.x) / this.camera.scale;
      body.y = from.bodyY + (at.clientY - from.y) / this.camera.scale;
      this.layout.warm(0.25);
      this.#run();
    };
    const drop = () => {
      body.held = false;
      removeEventListener("pointermove", move);
      removeEventListener("pointerup", drop);
      removeEventListener("pointercancel", drop);
      if (dragged) link.addEventListener("click", (click) => click.preventDefault(), { once: true });
    };
    addEventListener("pointermove", move);
    addEventListener("pointerup", drop);
    addEventListener("pointercancel", drop);
  }

  /** @param {KeyboardEvent} event */
  #press(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const way = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
    if (way) this.#step(way[0], way[1]);
    else if (event.key === "+" || event.key === "=") this.zoom(1.3);
    else if (event.key === "-") this.zoom(1 / 1.3);
    else if (event.key === "0") this.fit();
    else return;
    event.preventDefault();
  }

  /** Go to the nearest item within a quarter turn of a direction. @param {number} dx @param {number} dy */
  #step(dx, dy) {
    const here = this.stars.findIndex(({ link }) => link === document.activeElement);
    const from = this.layout.bodies[Math.max(here, 0)];
    let best = -1;
    let least = Infinity;
    this.layout.bodies.forEach((to, row) => {
      const ahead = (to.x - from.x) * dx + (to.y - from.y) * dy;
      const aside = Math.abs((to.x - from.x) * dy - (to.y - from.y) * dx);
      if (row === here || ahead <= 0 || aside > ahead) return;
      if (ahead + aside < least) [best, least] = [row, ahead + aside];
    });
    if (best >= 0) this.stars[best].link.focus({ preventScroll: true });
  }

  /** @param {number} row takes the one place in the tab order, and the top */
  #rove(row) {
    this.stars.forEach(({ link }, i) => link.setAttribute("tabindex", i === row ? "0" : "-1"));
  }

  #run() {
    cancelAnimationFrame(this.frame);
    const go = () => {
      if (this.signal.aborted) return;
      this.layout.step();
      if (!this.touched) this.#frameAll();
      this.#draw();
      if (this.layout.moving) this.frame = requestAnimationFrame(go);
    };
    this.frame = requestAnimationFrame(go);
  }

  #measure() {
    const { width, height } = this.element.getBoundingClientRect();
    if (!width || !height) return;
    this.size = { width, height };
    this.layout.aspect = Math.max(0.5, Math.min(2, width / height));
    this.element.setAttribute("viewBox", `0 0 ${width} ${height}`);
    if (!this.touched) this.#frameAll();
    this.#draw();
  }

  #frameAll() {
    const { bodies } = this.layout;
    const [xs, ys] = [bodies.map(({ x }) => x), bodies.map(({ y }) => y)];
    const [left, right, top, bottom] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    const scale = Math.min((this.size.width - (this.size.width < 500 ? 70 : 130)) / (right - left || 1), (this.size.height - 90) / (bottom - top || 1), 2.2);
    Object.assign(this.camera, { x: (left + right) / 2, y: (top + bottom) / 2, scale: Math.max(0.2, scale) });
  }

  #draw() {
    const { bodies } = this.layout;
    const { x, y, scale } = this.camera;
    const at = bodies.map((body) => ({ x: (body.x - x) * scale + this.size.width / 2, y: (body.y - y) * scale + this.size.height / 2 }));
    for (const { path, source, target, bend } of this.ties) {
      const [a, b] = [at[source], at[target]];
      const middle = { x: (a.x + b.x) / 2 - (b.y - a.y) * bend, y: (a.y + b.y) / 2 + (b.x - a.x) * bend };
      path.setAttribute("d", `M${a.x.toFixed(1)} ${a.y.toFixed(1)}Q${middle.x.toFixed(1)} ${middle.y.toFixed(1)} ${b.x.toFixed(1)} ${b.y.toFixed(1)}`);
    }
    /** @type {[number, number, number, number][]} */
    const taken = at.map((place, row) => [place.x - bodies[row].radius, place.y - bodies[row].radius, place.x + bodies[row].radius, place.y + bodies[row].radius]);
    this.stars.forEach(({ link, label, wide }, row) => {
      link.setAttribute("transform", `translate(${at[row].x.toFixed(1)} ${at[row].y.toFixed(1)})`);
      const below = bodies[row].radius + 15;
      label.setAttribute("y", String(below));
      /** @type {[number, number, number, number]} */
      const box = [at[row].x - wide / 2, at[row].y + below - 12, at[row].x + wide / 2, at[row].y + below + 4];
      const free = taken.every((other) => box[0] > other[2] || box[2] < other[0] || box[1] > other[3] || box[3] < other[1]);
      if (free) taken.push(box);
      link.classList.toggle("mute", !free);
    });
  }

  /** @param {import("./forces.js").Body[]} bodies start where the same items lay before, seen from the new middle */
  #remember(bodies) {
    const middle = last.get(this.nodes[0]?.item_id);
    if (!middle) return;
    this.nodes.forEach((node, row) => {
      const old = last.get(node.item_id);
      if (old) Object.assign(bodies[row], { x: old.x - middle.x, y: old.y - middle.y });
    });
  }

  #leave() {
    cancelAnimationFrame(this.frame);
    last = new Map(this.nodes.map((node, row) => [node.item_id, { x: this.layout.bodies[row].x, y: this.layout.bodies[row].y }]));
  }
}

/**
 * The ties worth drawing where nearly everything is tied to everything: all those of the first item, and of every
 * other one the strongest with its nearest few.
 * @param {Tie[]} ties
 * @param {number} n
 * @returns {Set<Tie>}
 */
function backbone(ties, n) {
  /** @type {Map<string, { ties: Tie[], apart: number }>} */
  const pairs = new Map();
  for (const tie of ties) {
    const key = [tie.source, tie.target].sort((a, b) => a - b).join(" ");
    const pair = pairs.get(key) ?? { ties: [], apart: 1 };
    pair.ties.push(tie);
    pair.apart *= 1 - Math.min(tie.strength, 0.999);
    pairs.set(key, pair);
  }
  const drawn = new Array(n).fill(0);
  /** @type {Set<Tie>} */
  const kept = new Set();
  for (const { ties: some } of [...pairs.values()].sort((a, b) => a.apart - b.apart)) {
    const { source, target } = some[0];
    const own = source === 0 || target === 0;
    const least = Math.min(drawn[source], drawn[target]);
    const most = Math.max(drawn[source], drawn[target]);
    if (!own && least > 0 && most >= NEAREST) continue;
    drawn[source] += 1;
    drawn[target] += 1;
    if (own) some.forEach((tie) => kept.add(tie));
    else kept.add(some.reduce((best, tie) => (tie.strength > best.strength ? tie : best)));
  }
  return kept;
}

/** @param {string} words @returns {number} about how wide they are at 12 pixels */
function width(words) {
  let sum = 0;
  for (const letter of words) sum += letter > "\u2e7f" ? 12 : 6.6;
  return sum;
}
