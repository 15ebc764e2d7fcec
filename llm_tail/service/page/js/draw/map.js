/** The map's picture: a camera over the points, names of places that do not overlap, the keyboard. */

import { colour, h, isDark, replace } from "../dom.js";
import { SEGMENTS } from "../types.js";
import { hues } from "./catalog.js";
import { Gestures } from "./gestures.js";
import { Grid } from "./grid.js";
import { PointCanvas } from "./points.js";

/**
 * @typedef {import("./catalog.js").Points} Points
 * @typedef {import("./points.js").Camera} Camera
 */

const REACH = 12;
const STEP = 90;
const CLOSEST = 400;
const LONGEST = 28; // letters of a name on the map

export class MapPicture {
  /**
   * @param {HTMLCanvasElement} canvas
   * @param {Points} all
   * @param {HTMLElement} labels gets the names of communities
   * @param {{ signal: AbortSignal, open: (row: number) => void, hover: (row: number, x: number, y: number) => void,
   *   rest: (rows: number[], place: Record<string, string>) => void }} what `rest` is called when the map has come to
   *   rest, with the items in the middle and the place for the address
   */
  constructor(canvas, all, labels, what) {
    this.canvas = canvas;
    this.all = all;
    this.labels = labels;
    this.what = what;
    this.grid = new Grid(all.x, all.y);
    this.picture = new PointCanvas(canvas);
    this.picture.setPoints(all.x, all.y);
    /** @type {"segment" | "community"} */ this.by = "segment";
    /** @type {Camera} */ this.camera = { x: 0, y: 0, scale: 1 };
    this.fitScale = 1;
    this.listed = 0;
    /** @type {Map<number, string>} */ this.titles = new Map();
    this.started = false;
    const { signal } = what;
    new Gestures(canvas, {
      signal,
      pan: (dx, dy) => this.#move(-dx, -dy),
      zoom: (factor, x, y) => this.zoom(factor, x, y),
      click: (x, y) => this.#open(x, y),
      hover: (x, y) => this.#hover(x, y),
      leave: () => what.hover(-1, 0, 0),
    });
    canvas.addEventListener("keydown", (event) => this.#press(event), { signal });
    document.addEventListener("repaint", () => this.colourBy(this.by), { signal });
    const watch = new ResizeObserver(() => this.#resize());
    watch.observe(canvas);
    signal.addEventListener("abort", () => {
      watch.disconnect();
      this.picture.stop();
    });
  }

  /** @returns {number} in CSS pixels */
  get width() {
    return this.picture.width;
  }

  /**
   * Draw for the first time.
   * @param {number[]} place x, y and zoom from the address; zoom 0 shows everything
   * @param {number} listed how many items of the middle are told
   */
  start([x, y, zoom], listed) {
    this.listed = listed;
    this.started = true;
    this.picture.resize();
    this.#frameAll();
    if (zoom > 0) Object.assign(this.camera, { x, y, scale: this.fitScale * Math.min(zoom, CLOSEST) });
    this.#draw(() => performance.mark("llm-tail-map"));
  }

  /** @param {"segment" | "community"} by */
  colourBy(by) {
    this.by = by;
    this.picture.ground = colour("--paper");
    this.picture.kind = by === "segment" ? this.all.segment : this.all.community;
    this.picture.palette = by === "segment" ? [...SEGMENTS.map((name) => colour(`--${name}`)), colour("--quiet")] : hues(this.all.communities.length, isDark());
    this.picture.shown = null;
    if (this.started) this.#draw();
  }

  /** @param {number} code @returns {string} the colour of a community */
  css(code) {
    return `rgb(${this.picture.palette[code].join(" ")})`;
  }

  /** @param {number} code @param {boolean} is */
  showKind(code, is) {
    this.picture.shown ??= new Uint8Array(this.picture.palette.length).fill(1);
    this.picture.shown[code] = is ? 1 : 0;
    this.#draw();
  }

  /** Go to the middle of a community, near enough to see it whole. @param {number} code */
  goTo(code) {
    const { x, y } = this.all.communities[code];
    const far = [];
    for (let row = 0; row < this.all.n; row += 1) {
      if (this.all.community[row] === code) far.push(Math.hypot(this.all.x[row] - x, this.all.y[row] - y));
    }
    far.sort((a, b) => a - b);
    const reach = far[Math.floor(far.length * 0.8)] || 1;
    Object.assign(this.camera, { x, y, scale: this.#held((Math.min(this.picture.width, this.picture.height) * 0.42) / reach) });
    this.#draw();
  }

  /**
   * @param {number} factor
   * @param {number} [x] a place that stays where it is, in pixels of the canvas
   * @param {number} [y]
   */
  zoom(factor, x = this.picture.width / 2, y = this.picture.height / 2) {
    const scale = this.#held(this.camera.scale * factor);
    const part = 1 / this.camera.scale - 1 / scale;
    this.camera.x += (x - this.picture.width / 2) * part;
    this.camera.y += (y - this.picture.height / 2) * part;
    this.camera.scale = scale;
    this.#draw();
  }

  /** See everything again. */
  fit() {
    this.#frameAll();
    this.#draw();
  }

  /** @param {number} scale */
  #held(scale) {
    return Math.max(this.fitScale * 0.6, Math.min(this.fitScale * CLOSEST, scale));
  }

  #frameAll() {
    const { box } = this.grid;
    this.fitScale = Math.min(this.picture.width / box.width, this.picture.height / box.height) * 0.92;
    Object.assign(this.camera, { x: box.left + box.width / 2, y: box.top + box.height / 2, scale: this.fitScale });
  }

  #resize() {
    if (!this.started) return;
    const zoom = this.camera.scale / this.fitScale;
    const { x, y } = this.camera;
    if (!this.picture.resize()) return;
    this.#frameAll();
    if (Math.abs(zoom - 1) > 0.01) Object.assign(this.camera, { x, y, scale: this.fitScale * zoom });
    this.#draw();
  }

  /** @param {number} dx @param {number} dy in pixels */
  #move(dx, dy) {
    this.camera.x += dx / this.camera.scale;
    this.camera.y += dy / this.camera.scale;
    this.#draw();
  }

  /** @param {number} x @param {number} y in pixels @returns {[number, number]} in data units */
  #place(x, y) {
    return [(x - this.picture.width / 2) / this.camera.scale + this.camera.x, (y - this.picture.height / 2) / this.camera.scale + this.camera.y];
  }

  /** @param {number} x @param {number} y @param {number} reach in pixels @param {number} k */
  #near(x, y, reach, k) {
    const [atX, atY] = this.#place(x, y);
    const { shown, kind } = this.picture;
    return this.grid.nearest(atX, atY, reach / this.camera.scale, k, (row) => !shown || shown[kind[row]] === 1);
  }

  /** @param {number} x @param {number} y */
  #open(x, y) {
    this.canvas.focus({ preventScroll: true });
    const [row] = this.#near(x, y, REACH, 1);
    if (row !== undefined) this.what.open(row);
  }

  /** @param {number} x @param {number} y */
  #hover(x, y) {
    const [row = -1] = this.#near(x, y, REACH, 1);
    this.canvas.classList.toggle("hit", row >= 0);
    this.what.hover(row, x, y);
  }

  /** @param {KeyboardEvent} event */
  #press(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const way = { ArrowRight: [STEP, 0], ArrowLeft: [-STEP, 0], ArrowDown: [0, STEP], ArrowUp: [0, -STEP] }[event.key];
    if (way) this.#move(way[0], way[1]);
    else if (event.key === "+" || event.key === "=") this.zoom(1.5);
    else if (event.key === "-") this.zoom(1 / 1.5);
    else if (event.key === "0") this.fit();
    else if (event.key === "Enter") {
      const [row] = this.middle(1);
      if (row !== undefined) this.what.open(row);
    } else return;
    event.preventDefault();
  }

  /** @param {number} k @returns {number[]} the items in the middle, the nearest first */
  middle(k) {
    const { width, height } = this.picture;
    for (const reach of [60, 200, Math.max(width, height)]) {
      const rows = this.#near(width / 2, height / 2, reach, k);
      if (rows.length === k) return rows;
    }
    return this.#near(width / 2, height / 2, 2 * Math.max(width, height), k);
  }

  /** @param {() => void} [done] */
  #draw(done) {
    const { left, top, width, height } = this.grid.box; // what is in the middle stays within the points
    this.camera.x = Math.max(left, Math.min(left + width, this.camera.x));
    this.camera.y = Math.max(top, Math.min(top + height, this.camera.y));
    this.#name();
    this.what.hover(-1, 0, 0);
    this.picture.draw(this.camera, this.fitScale, () => {
      done?.();
      const { x, y, scale } = this.camera;
      const zoom = scale / this.fitScale;
      const whole = Math.abs(zoom - 1) < 0.01;
      const place = { x: x.toPrecision(6), y: y.toPrecision(6), zoom: zoom.toPrecision(3) };
      this.what.rest(this.middle(this.listed), whole ? { x: "", y: "", zoom: "" } : place);
    });
  }

  /**
   * The points in sight, where they are few enough to be named one by one.
   * @param {number} most
   * @returns {number[]} none where there are more
   */
  inSight(most) {
    const [left, top] = this.#place(0, 0);
    const [right, bottom] = this.#place(this.picture.width, this.picture.height);
    /** @type {number[]} */
    const rows = [];
    const { shown, kind } = this.picture;
    this.grid.within(left, top, right, bottom, (row) => {
      if (rows.length <= most && (!shown || shown[kind[row]])) rows.push(row);
    });
    return rows.length <= most ? rows : [];
  }

  /** Write titles beside points. @param {Map<number, string>} titles by row */
  setTitles(titles) {
    this.titles = titles;
    this.#name();
  }

  /** Write titles and the names of communities where they have room: what is near first, then the largest. */
  #name() {
    const { width, height } = this.picture;
    /** @type {number[][]} */
    const taken = [];
    /** @param {string} look @param {string} name @param {number} x @param {number} y @param {number} down */
    const write = (look, name, x, y, down) => {
      const left = (x - this.camera.x) * this.camera.scale + width / 2;
      const top = (y - this.camera.y) * this.camera.scale + height / 2 + down;
      const half = Math.min(name.length, LONGEST) * 4 + 8;
      if (left < half || top < 20 || left > width - half || top > height - 20) return [];
      if (taken.some(([x0, y0, w0]) => Math.abs(x0 - left) < w0 + half && Math.abs(y0 - top) < 26)) return [];
      taken.push([left, top, half]);
      const place = `calc(${left.toFixed(1)}px - 50%) calc(${top.toFixed(1)}px - 50%)`;
      return [h(look, { dir: "auto", style: { translate: place } }, name.length > LONGEST ? `${name.slice(0, LONGEST - 1)}…` : name)];
    };
    const { x, y } = this.all;
    const titles = [...this.titles].flatMap(([row, title]) => write("span.title", title, x[row], y[row], 18));
    const communities = this.all.communities.flatMap((one) => write("span", one.name, one.x, one.y, 0));
    replace(this.labels, titles, communities);
  }
}
