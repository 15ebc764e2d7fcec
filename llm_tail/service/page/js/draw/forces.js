/**
 * A small force layout: ties pull, items push each other off, everything leans to the middle, the first one most.
 * Every pair is looked at, which is right for the hundred or so items around one.
 */

/**
 * @typedef {{ x: number, y: number, vx: number, vy: number, radius: number, held: boolean }} Body
 * @typedef {{ source: number, target: number, strength: number }} Spring
 */

const PUSH = 2600;
const LEAN = 0.02;
const LEAN_FIRST = 0.3;
const FRICTION = 0.62;
const COOLING = 0.975;
const STILL = 0.012;

/**
 * Lay bodies out on rings around the first one, so that the same data starts from the same picture.
 * @param {number} n
 * @param {number[]} rings the steps of each body away from the first
 * @param {number[]} radii
 * @returns {Body[]}
 */
export function place(n, rings, radii) {
  const turn = Math.PI * (3 - Math.sqrt(5)); // the golden angle leaves no two behind each other
  return Array.from({ length: n }, (_, i) => {
    const far = rings[i] * 110 + (i % 5) * 8;
    return { x: Math.cos(i * turn) * far, y: Math.sin(i * turn) * far, vx: 0, vy: 0, radius: radii[i], held: false };
  });
}

export class Layout {
  /** @param {Body[]} bodies @param {Spring[]} springs */
  constructor(bodies, springs) {
    this.bodies = bodies;
    this.springs = springs;
    this.heat = 1;
    this.aspect = 1.7; // width by height of the picture that is to be filled
  }

  /** @returns {boolean} whether anything still moves */
  get moving() {
    return this.heat > STILL;
  }

  /** Start to move again, after something was dragged or hidden. */
  warm(heat = 0.4) {
    this.heat = Math.max(this.heat, heat);
  }

  /** Go one step; costs the square of the number of bodies. */
  step() {
    const across = LEAN / this.aspect;
    const along = LEAN * this.aspect;
    this.#push();
    this.#pull();
    this.bodies.forEach((body, i) => {
      if (body.held) {
        body.vx = body.vy = 0;
        return;
      }
      body.vx = (body.vx - body.x * (i ? across : LEAN_FIRST) * this.heat) * FRICTION;
      body.vy = (body.vy - body.y * (i ? along : LEAN_FIRST) * this.heat) * FRICTION;
      body.x += body.vx;
      body.y += body.vy;
    });
    this.heat *= COOLING;
  }

  /** Go on until everything is at rest: for readers who want no motion, and for a first picture that is calm. */
  settle(most = 400) {
    for (let i = 0; i < most && this.moving; i += 1) this.step();
  }

  #push() {
    const { bodies, heat } = this;
    for (let i = 0; i < bodies.length; i += 1) {
      const a = bodies[i];
      for (let j = i + 1; j < bodies.length; j += 1) {
        const b = bodies[j];
        const dx = a.x - b.x || 0.01 * (i - j);
        const dy = a.y - b.y || 0.01;
        const square = dx * dx + dy * dy;
        const distance = Math.sqrt(square);
        const overlap = a.radius + b.radius + 14 - distance;
        const force = Math.min((PUSH * heat) / square, 12) + (overlap > 0 ? overlap * 0.25 : 0);
        const fx = (dx / distance) * force;
        const fy = (dy / distance) * force;
        a.vx += fx;
        a.vy += fy;
        b.vx -= fx;
        b.vy -= fy;
      }
    }
  }

  #pull() {
    for (const { source, target, strength } of this.springs) {
      const a = this.bodies[source];
      const b = this.bodies[target];
      const dx = b.x - a.x;
      const dy = b.y - a.y;
      const distance = Math.hypot(dx, dy) || 1;
      const rest = 70 + 90 * (1 - strength);
      const force = ((distance - rest) / distance) * (0.03 + 0.09 * strength) * this.heat;
      a.vx += dx * force;
      a.vy += dy * force;
      b.vx -= dx * force;
      b.vy -= dy * force;
    }
  }
}
