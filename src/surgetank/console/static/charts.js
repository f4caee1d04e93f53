// Charts: what the server counted over time, asked for again every few seconds. A page says where its series are
// (data-series, data-every), and each of its charts which one it shows (data-chart); the server says how.
"use strict";
(() => {
  /** `at` is when its values were, if not when those of the others were; null where there is none. `most` is the end of its scale.
   * @typedef {{label: string, colour?: string, bars?: boolean, at?: number[], most?: number, values: (number | null)[]}} Line */
  const { base } = /** @type {any} */ (window).surgetank;
  const Plot = /** @type {any} */ (window).uPlot;
  /** @type {Map<HTMLElement, any>} */
  const plots = new Map();
  const source = /** @type {HTMLElement | null} */ (document.querySelector("[data-series]"));

  /** @param {string} name */
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  /** How a moment is written below a chart of so many seconds. @param {number} seconds @param {number} range */
  function moment(seconds, range) {
    const at = new Date(1000 * seconds);
    if (range > 2 * 86400) return at.toLocaleDateString(undefined, { day: "numeric", month: "short" });
    return at.toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23", ...(range < 300 ? { second: "2-digit" } : {}) });
  }

  /** Whether days stand below a chart. @param {number[]} at */
  const isLong = (at) => (at.at(-1) ?? 0) - (at[0] ?? 0) > 2 * 86400;

  /** The first and the last bar are drawn whole, too. @param {any} plot @param {number} from @param {number} to @returns {[number, number]} */
  function withRoom(plot, from, to) {
    const half = ((plot.data[0][1] ?? to) - (plot.data[0][0] ?? from)) / 2;
    return [from - half, to + half];
  }

  /** Bars stand on each other: each line has those below it added, and the tallest is drawn first. @param {Line[]} lines */
  function stacked(lines) {
    /** @type {number[]} */
    let below = [];
    return lines.map((line) => below = line.values.map((value, n) => (value ?? 0) + (below[n] ?? 0))).reverse();
  }

  /** @param {number[]} at @param {Line[]} lines */
  function dataOf(at, lines) {
    return [at, ...(lines[0]?.bars ? stacked(lines) : lines.map((line) => line.values))];
  }

  /** @param {HTMLElement} element @param {Line[]} lines @param {(number | null)[][]} data */
  function make(element, lines, data) {
    const axis = { stroke: colour("--muted"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line"), width: 1 }, font: "12px system-ui" };
    const isBars = Boolean(lines[0]?.bars);
    const drawn = isBars ? [...lines].reverse() : lines;
    return new Plot({
      width: element.clientWidth, height: element.clientHeight, cursor: { show: false }, legend: { show: false },
      scales: { ...(isBars ? { x: { range: withRoom } } : {}), y: { range: (/** @type {any} */ _, /** @type {number} */ __, /** @type {number} */ most) => [0, lines[0]?.most ?? Math.max(1, most * 1.1)] } },
      axes: [{ ...axis, size: 30, ...(isLong(/** @type {number[]} */ (data[0] ?? [])) ? { incrs: [86400, 2 * 86400, 7 * 86400] } : {}), values: (/** @type {any} */ _, /** @type {number[]} */ at) => at.map((s) => moment(s, (at.at(-1) ?? 0) - (at[0] ?? 0))) },
        { ...axis, size: 56, ...(isBars ? { incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 100000] } : {}) }],
      series: [{}, ...drawn.map((line) => ({
        stroke: colour(line.colour ?? "--accent"), width: isBars ? 0 : 1.5, fill: colour(isBars ? line.colour ?? "--accent" : "--soft"),
        points: { show: line.at !== undefined, size: 5, width: 1 }, spanGaps: true, ...(isBars ? { paths: Plot.paths.bars({ size: [0.8, 40] }) } : {}),
      }))],
    }, data, element);
  }

  /** What a chart says to who doesn't see it. @param {HTMLElement} element @param {Line[]} lines */
  function label(element, lines) {
    const caption = element.closest("figure")?.querySelector("figcaption")?.textContent?.trim() ?? "";
    const said = lines.map(({ label, values, bars }) => bars
      ? `${label} ${values.reduce((/** @type {number} */ sum, value) => sum + (value ?? 0), 0)}`
      : `${label} now ${values.filter((value) => value !== null).at(-1) ?? 0}, at most ${Math.max(0, ...values.map((value) => value ?? 0))}`);
    element.setAttribute("aria-label", `${caption}: ${said.join("; ")}`);
  }

  function forget() {
    for (const plot of plots.values()) plot.destroy();
    plots.clear();
  }

  async function load() {
    if (!source) return;
    let series;
    try {
      const answer = await fetch(source.dataset.series ?? base, { cache: "no-store" });
      if (!answer.ok) return;
      series = await answer.json();
    } catch {
      return; // the connection says that the server is gone
    }
    for (const element of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[data-chart]"))) {
      const lines = series.charts[element.dataset.chart ?? ""];
      if (!lines) continue;
      const data = dataOf(lines[0]?.at ?? series.at, lines);
      const plot = plots.get(element);
      if (plot) plot.setData(data);
      else plots.set(element, make(element, lines, data));
      label(element, lines);
    }
  }

  document.body.addEventListener("theme", () => { forget(); void load(); });
  addEventListener("resize", () => { for (const [element, plot] of plots) plot.setSize({ width: element.clientWidth, height: element.clientHeight }); });
  void load();
  setInterval(load, 1000 * Number(source?.dataset.every ?? 5));
})();
