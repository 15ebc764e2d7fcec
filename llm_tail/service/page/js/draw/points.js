/**
 * Many thousand points on a canvas. Each point is a soft disc blended into a pixel buffer: 60,000 take a few
 * milliseconds, need no graphics card, and look the same everywhere. A long picture is drawn over several frames.
 */

/**
 * @typedef {{ x: number, y: number, scale: number }} Camera the data point in the middle, and CSS pixels a data unit
 * @typedef {[number, number, number]} Colour
 */

const FRAME_MS = 9;
const BLOCK = 4096;

/**
 * @param {number} radius in device pixels
 * @returns {{ size: number, half: number, alpha: Float32Array }} how much of a disc covers each pixel
 */
function disc(radius) {
  const half = Math.ceil(radius);
  const size = 2 * half + 1;
  const alpha = new Float32Array(size * size);
  for (let row = 0; row < size; row += 1) {
    for (let column = 0; column < size; column += 1) {
      const distance = Math.hypot(row - half, column - half);
      alpha[row * size + column] = Math.max(0, Math.min(1, radius + 0.5 - distance));
    }
  }
  return { size, half, alpha };
}

/**
 * An order in which any first part is an even sample of the whole.
 * @param {number} n
 * @returns {Uint32Array<ArrayBuffer>}
 */
export function evenOrder(n) {
  const order = new Uint32Array(n);
  let step = Math.max(1, Math.floor(n * 0.618034));
  while (gcd(step, n) !== 1) step += 1;
  for (let i = 0, at = 0; i < n; i += 1, at = (at + step) % n) order[i] = at;
  return order;
}

/** @param {number} a @param {number} b @returns {number} */
const gcd = (a, b) => (b ? gcd(b, a % b) : a);

export class PointCanvas {
  /** @param {HTMLCanvasElement} canvas */
  constructor(canvas) {
    this.canvas = canvas;
    const context = canvas.getContext("2d");
    if (!context) throw new Error("no 2d canvas");
    this.context = context;
    this.ratio = 1;
    this.frame = 0;
    this.width = this.height = 0;
    /** @type {Float32Array} */ this.x = new Float32Array(0);
    /** @type {Float32Array} */ this.y = new Float32Array(0);
    /** @type {Uint16Array} */ this.kind = new Uint16Array(0);
    /** @type {Uint8Array | null} kinds that are shown; all where null */ this.shown = null;
    /** @type {Colour[]} */ this.palette = [];
    /** @type {Colour} */ this.ground = [255, 255, 255];
    this.order = new Uint32Array(0);
    this.pixels = new ImageData(1, 1);
  }

  /** @param {Float32Array} x @param {Float32Array} y */
  setPoints(x, y) {
    this.x = x;
    this.y = y;
    this.order = evenOrder(x.length);
  }

  /**
   * Take the size of the element; costs one reading of the layout.
   * @returns {boolean} whether it has another size than before
   */
  resize() {
    const box = this.canvas.getBoundingClientRect();
    const [width, height] = [Math.max(1, Math.round(box.width)), Math.max(1, Math.round(box.height))];
    const ratio = Math.min(globalThis.devicePixelRatio || 1, 2);
    if (width === this.width && height === this.height && ratio === this.ratio) return false;
    Object.assign(this, { width, height, ratio });
    this.canvas.width = Math.round(this.width * this.ratio);
    this.canvas.height = Math.round(this.height * this.ratio);
    this.pixels = this.context.createImageData(this.canvas.width, this.canvas.height);
    return true;
  }

  /**
   * The radius of a point in CSS pixels: small where there are many in sight, larger when looked at closely.
   * @param {Camera} camera
   * @param {number} fit the scale at which everything is in sight
   */
  radius(camera, fit) {
    const room = Math.sqrt((this.width * this.height) / Math.max(this.x.length, 1));
    return Math.min(8, Math.max(1.1, Math.min(4.2, room * 0.26) * Math.sqrt(camera.scale / fit)));
  }

  /**
   * Draw, over as many frames as it takes; a new call stops the one before.
   * @param {Camera} camera
   * @param {number} fit
   * @param {() => void} [done]
   */
  draw(camera, fit, done) {
    cancelAnimationFrame(this.frame);
    const radius = this.radius(camera, fit) * this.ratio;
    const stamp = disc(radius);
    const opacity = radius < 2.2 * this.ratio ? 0.72 : 0.88;
    const [red, green, blue] = this.ground;
    new Uint32Array(this.pixels.data.buffer).fill(((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0);
    let from = 0;
    const go = () => {
      const end = performance.now() + FRAME_MS;
      do {
        const to = Math.min(from + BLOCK, this.order.length);
        this.#blend(camera, stamp, opacity, from, to);
        from = to;
      } while (from < this.order.length && performance.now() < end);
      this.context.putImageData(this.pixels, 0, 0);
      if (from < this.order.length) this.frame = requestAnimationFrame(go);
      else done?.();
    };
    this.frame = requestAnimationFrame(go);
  }

  /**
   * @param {Camera} camera
   * @param {{ size: number, half: number, alpha: Float32Array }} stamp
   * @param {number} opacity
   * @param {number} from
   * @param {number} to
   */
  #blend(camera, stamp, opacity, from, to) {
    const { order, x, y, kind, palette, shown } = this;
    const { width, height, data } = this.pixels;
    const { size, half, alpha } = stamp;
    const scale = camera.scale * this.ratio;
    const left = width / 2 - camera.x * scale;
    const top = height / 2 - camera.y * scale;
    for (let n = from; n < to; n += 1) {
      const i = order[n];
      const k = kind[i];
      if (shown && !shown[k]) continue;
      const column = Math.round(x[i] * scale + left) - half;
      const row = Math.round(y[i] * scale + top) - half;
      if (column < 0 || row < 0 || column + size > width || row + size > height) continue;
      const [red, green, blue] = palette[k % palette.length];
      for (let a = 0, line = row; line < row + size; line += 1) {
        let at = (line * width + column) * 4;
        for (let c = 0; c < size; c += 1, a += 1, at += 4) {
          const part = alpha[a] * opacity;
          if (part === 0) continue;
          data[at] += (red - data[at]) * part;
          data[at + 1] += (green - data[at + 1]) * part;
          data[at + 2] += (blue - data[at + 2]) * part;
        }
      }
    }
  }

  /** Stop drawing. */
  stop() {
    cancelAnimationFrame(this.frame);
  }
}
