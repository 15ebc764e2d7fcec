/** Which point is under the pointer: points sorted into square cells by a counting sort. */

export class Grid {
  /**
   * Costs two passes over the points.
   * @param {Float32Array} x
   * @param {Float32Array} y
   */
  constructor(x, y) {
    this.x = x;
    this.y = y;
    this.box = bounds(x, y);
    this.side = Math.max(1, Math.ceil(Math.sqrt(x.length / 4)));
    this.cell = Math.max(this.box.width, this.box.height) / this.side || 1;
    this.starts = new Uint32Array(this.side * this.side + 1);
    const cells = new Uint32Array(x.length);
    for (let i = 0; i < x.length; i += 1) {
      cells[i] = this.#clip(y[i] - this.box.top) * this.side + this.#clip(x[i] - this.box.left);
      this.starts[cells[i] + 1] += 1;
    }
    for (let c = 0; c < this.side * this.side; c += 1) this.starts[c + 1] += this.starts[c];
    const next = this.starts.slice();
    this.rows = new Uint32Array(x.length);
    for (let i = 0; i < x.length; i += 1) this.rows[next[cells[i]]++] = i;
  }

  /** @param {number} offset in data units @returns {number} the column or line of a cell */
  #clip(offset) {
    return Math.max(0, Math.min(this.side - 1, Math.floor(offset / this.cell)));
  }

  /**
   * The points of a rectangle, in data units.
   * @param {number} left @param {number} top @param {number} right @param {number} bottom
   * @param {(row: number) => void} visit
   */
  within(left, top, right, bottom, visit) {
    const { box } = this;
    if (right < box.left || left > box.left + box.width || bottom < box.top || top > box.top + box.height) return;
    const [first, last] = [this.#clip(left - box.left), this.#clip(right - box.left)];
    for (let line = this.#clip(top - box.top); line <= this.#clip(bottom - box.top); line += 1) {
      const end = this.starts[line * this.side + last + 1];
      for (let at = this.starts[line * this.side + first]; at < end; at += 1) {
        const row = this.rows[at];
        if (this.x[row] >= left && this.x[row] <= right && this.y[row] >= top && this.y[row] <= bottom) visit(row);
      }
    }
  }

  /**
   * The `k` points nearest to a place and not farther than `reach`, nearest first.
   * @param {number} x @param {number} y @param {number} reach @param {number} [k]
   * @param {(row: number) => boolean} [shown]
   * @returns {number[]}
   */
  nearest(x, y, reach, k = 1, shown = () => true) {
    /** @type {[number, number][]} */
    let found = [];
    this.within(x - reach, y - reach, x + reach, y + reach, (row) => {
      const square = (this.x[row] - x) ** 2 + (this.y[row] - y) ** 2;
      if (square > reach * reach || !shown(row)) return;
      if (found.length === k && square >= found[k - 1][0]) return;
      found.push([square, row]);
      found.sort((a, b) => a[0] - b[0]);
      found = found.slice(0, k);
    });
    return found.map(([, row]) => row);
  }
}

/**
 * @param {Float32Array} x
 * @param {Float32Array} y
 * @returns {{ left: number, top: number, width: number, height: number }}
 */
export function bounds(x, y) {
  let [left, right, top, bottom] = [Infinity, -Infinity, Infinity, -Infinity];
  for (let i = 0; i < x.length; i += 1) {
    if (x[i] < left) left = x[i];
    if (x[i] > right) right = x[i];
    if (y[i] < top) top = y[i];
    if (y[i] > bottom) bottom = y[i];
  }
  if (left > right) return { left: 0, top: 0, width: 1, height: 1 };
  return { left, top, width: right - left || 1, height: bottom - top || 1 };
}
