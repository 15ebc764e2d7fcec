/** Moving and zooming with a mouse, a finger or two, or a wheel; the same for the graph and the map. */

const WHEEL = 0.0016;

export class Gestures {
  /**
   * @param {HTMLElement | SVGElement} element
   * @param {{ signal: AbortSignal, pan: (dx: number, dy: number) => void,
   *   zoom: (factor: number, x: number, y: number) => void, wheel?: (event: WheelEvent) => boolean,
   *   click?: (x: number, y: number) => void, hover?: (x: number, y: number) => void, leave?: () => void }} what
   *   places are pixels of the element; `wheel` says whether a turn of the wheel is meant for it or for the page
   */
  constructor(element, what) {
    this.element = element;
    this.what = what;
    /** @type {Map<number, { x: number, y: number }>} */
    this.fingers = new Map();
    this.moved = 0;
    const { signal } = what;
    const on = (/** @type {string} */ name, /** @type {(event: any) => void} */ run, passive = true) =>
      element.addEventListener(name, run, { signal, passive });
    on("pointerdown", (event) => this.#down(event));
    on("pointermove", (event) => this.#move(event));
    on("pointerup", (event) => this.#up(event));
    on("pointercancel", (event) => this.fingers.delete(event.pointerId));
    on("pointerleave", () => what.leave?.());
    on("wheel", (event) => this.#wheel(event), false);
  }

  /** @param {{ clientX: number, clientY: number }} event */
  #at(event) {
    const box = this.element.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  }

  /** @param {PointerEvent} event */
  #down(event) {
    if (event.button !== 0) return;
    this.element.setPointerCapture(event.pointerId);
    this.fingers.set(event.pointerId, this.#at(event));
    if (this.fingers.size === 1) this.moved = 0;
    else this.moved = Infinity; // two fingers never click
  }

  /** @param {PointerEvent} event */
  #move(event) {
    const now = this.#at(event);
    const before = this.fingers.get(event.pointerId);
    if (!before) return this.what.hover?.(now.x, now.y);
    const others = [...this.fingers].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
    if (others.length) {
      const [other] = others;
      const factor = Math.hypot(now.x - other.x, now.y - other.y) / (Math.hypot(before.x - other.x, before.y - other.y) || 1);
      this.what.zoom(factor, (now.x + other.x) / 2, (now.y + other.y) / 2);
      this.what.pan((now.x - before.x) / 2, (now.y - before.y) / 2);
    } else {
      this.moved += Math.hypot(now.x - before.x, now.y - before.y);
      this.what.pan(now.x - before.x, now.y - before.y);
    }
    this.fingers.set(event.pointerId, now);
  }

  /** @param {PointerEvent} event */
  #up(event) {
    const at = this.fingers.get(event.pointerId);
    this.fingers.delete(event.pointerId);
    if (at && this.moved < 6) this.what.click?.(at.x, at.y);
  }

  /** @param {WheelEvent} event */
  #wheel(event) {
    if (this.what.wheel && !this.what.wheel(event)) return;
    event.preventDefault();
    const lines = event.deltaMode === 1 ? 16 : 1;
    const { x, y } = this.#at(event);
    this.what.zoom(Math.exp(-event.deltaY * lines * WHEEL), x, y);
  }
}
