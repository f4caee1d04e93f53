// The charts of the overview: what the server sampled in the last hour, asked for again every five seconds.
"use strict";
(() => {
  const { base } = /** @type {any} */ (window).surgetank;
  const Plot = /** @type {any} */ (window).uPlot;
  /** @type {Map<HTMLElement, any>} */
  const plots = new Map();

  /** @param {string} name */
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  /** @param {HTMLElement} element @param {number[][]} data */
  function make(element, data) {
    const axis = { stroke: colour("--muted"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line"), width: 1 }, font: "12px system-ui" };
    return new Plot({
      width: element.clientWidth, height: element.clientHeight, cursor: { show: false }, legend: { show: false },
      scales: { y: { range: (/** @type {any} */ _, /** @type {number} */ __, /** @type {number} */ most) => [0, Math.max(1, most * 1.1)] } },
      axes: [{ ...axis, size: 30, values: (/** @type {any} */ _, /** @type {number[]} */ at) => at.map((s) => new Date(1000 * s).toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23", ...((at.at(-1) ?? 0) - (at[0] ?? 0) < 300 ? { second: "2-digit" } : {}) })) }, { ...axis, size: 56 }],
      series: [{}, { stroke: colour("--accent"), width: 1.5, fill: colour("--soft"), points: { show: false } }],
    }, data, element);
  }

  function forget() {
    for (const plot of plots.values()) plot.destroy();
    plots.clear();
  }

  async function load() {
    let series;
    try {
      const answer = await fetch(`${base}/overview/series`, { cache: "no-store" });
      if (!answer.ok) return;
      series = await answer.json();
    } catch {
      return; // the connection says that the server is gone
    }
    for (const element of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[data-chart]"))) {
      const values = series[element.dataset.chart ?? ""];
      const data = [series.at, values];
      const plot = plots.get(element);
      if (plot) plot.setData(data);
      else plots.set(element, make(element, data));
      if (values.length) element.setAttribute("aria-label", `${element.parentElement?.querySelector("figcaption")?.textContent}: now ${values.at(-1)}, at most ${Math.max(...values)}`);
    }
  }

  document.body.addEventListener("theme", () => { forget(); void load(); });
  addEventListener("resize", () => { for (const [element, plot] of plots) plot.setSize({ width: element.clientWidth, height: element.clientHeight }); });
  void load();
  setInterval(load, 5000);
})();
