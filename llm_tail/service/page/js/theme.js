// Runs before the first paint, so that nobody who chose dark sees a white flash. Not a module for that reason.
(() => {
  try {
    const chosen = localStorage.getItem("llm-tail-theme");
    if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
  } catch {
    // storage is switched off: the system's theme it is
  }
})();
