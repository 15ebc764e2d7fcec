/** Whoever goes back finds the page where they left it, although most of it comes later. */

const PATIENCE_MS = 3000;

/** @type {Map<string, number>} */
const depths = new Map();
/** @type {any} the Navigation API, where the browser has it; without it a view begins at its top */
const navigation = /** @type {any} */ (globalThis).navigation;
let returning = false;

/** Begin to remember. */
export function rememberDepths() {
  if (!navigation) return;
  history.scrollRestoration = "manual";
  navigation.addEventListener("navigate", (/** @type {any} */ event) => {
    returning = event.navigationType === "traverse";
    if (navigation.currentEntry) depths.set(navigation.currentEntry.key, scrollY);
  });
}

/**
 * Go to where the reader was, as soon as the view is long enough for that, or to the top of a view that is new.
 * @param {AbortSignal} signal
 */
export function restoreDepth(signal) {
  const depth = (returning && depths.get(navigation?.currentEntry?.key)) || 0;
  scrollTo(0, depth);
  if (!depth) return;
  const end = performance.now() + PATIENCE_MS;
  const stop = new AbortController();
  for (const own of ["wheel", "touchmove", "keydown"]) addEventListener(own, () => stop.abort(), { signal: stop.signal, passive: true });
  const go = () => {
    if (signal.aborted || stop.signal.aborted) return;
    scrollTo(0, depth);
    if (Math.abs(scrollY - depth) > 2 && performance.now() < end) requestAnimationFrame(go);
    else stop.abort();
  };
  requestAnimationFrame(go);
}
