// The SQL editor: run and cancel, completion of names, a history in this browser, pages of a result and its chart.
// What is asked and answered is shown by the server; nothing of a result is kept here.
"use strict";
(() => {
  const { base, localize } = /** @type {any} */ (window).surgetank;
  const csrf = document.querySelector('meta[name="csrf"]')?.getAttribute("content") ?? "";
  const form = /** @type {HTMLFormElement} */ (document.getElementById("sql"));
  const text = /** @type {HTMLTextAreaElement} */ (document.getElementById("text"));
  const words = /** @type {HTMLUListElement} */ (document.getElementById("words"));
  const state = /** @type {HTMLElement} */ (form.querySelector("[data-state]"));
  const cancel = /** @type {HTMLButtonElement} */ (form.querySelector("[data-cancel]"));
  const runButton = /** @type {HTMLButtonElement} */ (form.querySelector("button.primary"));
  const uplot = /** @type {HTMLScriptElement | null} */ (document.querySelector("script[data-uplot]"))?.dataset.uplot ?? "";

  // -- run and cancel

  let running = "";
  async function run() {
    if (running) return;
    const chosen = text.value.slice(text.selectionStart, text.selectionEnd);
    const asked = chosen.trim() ? chosen : text.value;
    if (!asked.trim()) { text.focus(); return; }
    const name = running = String(crypto.getRandomValues(new Uint32Array(4)).join("-"));
    const begin = performance.now();
    const show = () => { state.textContent = `Running for ${Math.round((performance.now() - begin) / 1000)} s`; };
    const timer = setInterval(show, 1000);
    state.textContent = "Running";
    cancel.hidden = false;
    runButton.disabled = true;
    remember(asked);
    try {
      const answer = await fetch(`${base}/sql`, {
        method: "POST", headers: { "X-CSRF-Token": csrf, "HX-Request": "true" },
        body: new URLSearchParams({ text: asked, run: name }),
      });
      const to = answer.headers.get("HX-Redirect");
      if (to) { location.assign(to); return; }
      const made = new DOMParser().parseFromString(await answer.text(), "text/html");
      const results = made.getElementById("results");
      if (results) put(document.getElementById("results"), results, asked === chosen ? text.selectionStart : 0);
      state.textContent = results ? "" : made.querySelector("main")?.textContent?.trim() || `The server answers ${answer.status}.`;
    } catch {
      state.textContent = "The server can't be reached.";
    } finally {
      clearInterval(timer);
      running = "";
      cancel.hidden = true;
      runButton.disabled = false;
    }
  }

  /** @param {Element | null} there @param {Element} made @param {number} from */
  function put(there, made, from) {
    there?.replaceWith(made);
    localize(made);
    const at = made.querySelector("[data-position]")?.getAttribute("data-position");
    if (at === null || at === undefined) return;
    const start = from + [...text.value.slice(from)].slice(0, Number(at)).join("").length;
    text.focus();
    text.setSelectionRange(start, start + (/^\w+|^./.exec(text.value.slice(start))?.[0].length ?? 0));
  }

  form.addEventListener("submit", (event) => { event.preventDefault(); void run(); });
  cancel.addEventListener("click", () => {
    state.textContent = "Cancelling";
    void fetch(`${base}/sql/cancel`, { method: "POST", headers: { "X-CSRF-Token": csrf, "HX-Request": "true" }, body: new URLSearchParams({ run: running }) });
  });

  // -- history

  const key = `surgetank-sql:${form.dataset.who}`;
  const history = /** @type {HTMLElement} */ (document.getElementById("history"));
  const opener = /** @type {HTMLButtonElement} */ (form.querySelector("[data-history]"));
  /** @returns {string[]} */
  function kept() {
    try {
      const found = JSON.parse(localStorage.getItem(key) ?? "[]");
      return Array.isArray(found) ? found.map(String) : [];
    } catch {
      return [];
    }
  }
  /** @param {string} asked */
  function remember(asked) {
    if (asked.length > 10_000) return;
    localStorage.setItem(key, JSON.stringify([asked.trim(), ...kept().filter((each) => each !== asked.trim())].slice(0, 50)));
    if (!history.hidden) list();
  }
  function list() {
    const items = kept().map((each) => {
      const item = document.createElement("li");
      const button = document.createElement("button");
      button.type = "button";
      button.className = "quiet";
      button.textContent = each.length > 300 ? `${each.slice(0, 300)}…` : each;
      button.addEventListener("click", () => { text.value = each; text.focus(); });
      item.append(button);
      return item;
    });
    history.querySelector("ol")?.replaceChildren(...items);
  }
  opener.addEventListener("click", () => {
    history.hidden = !history.hidden;
    opener.setAttribute("aria-expanded", String(!history.hidden));
    list();
  });
  history.querySelector("[data-forget]")?.addEventListener("click", () => { localStorage.removeItem(key); list(); });

  // -- completion

  const KEYWORDS = "SELECT FROM WHERE GROUP BY ORDER BY LIMIT JOIN LEFT JOIN USING WITH HAVING DISTINCT COUNT SUM AVG MIN MAX AND OR NOT NULL AS DESC INSERT INTO VALUES UPDATE SET DELETE FROM CREATE TABLE CREATE NAMESPACE ALTER TABLE DROP TABLE PRIMARY KEY DESCRIBE SHOW TABLES STORAGE FLUSH TABLE EXECUTE AS USER BIGINT TEXT BOOLEAN DOUBLE TIMESTAMPTZ DECIMAL".split(" ");
  /** @type {Promise<Record<string, string[]>> | undefined} */
  let asking;
  function names() {
    asking ??= fetch(`${base}/sql/names`, { headers: { "HX-Request": "true" } }).then((answer) => answer.ok ? answer.json() : {}).catch(() => ({}));
    return asking;
  }
  text.addEventListener("focus", () => void names(), { once: true });

  /** @type {string[]} */
  let offered = [];
  let active = 0;
  let from = 0;

  /** What begins like the word at the cursor: after a point columns of that table, else all names. */
  async function offer() {
    const end = text.selectionStart;
    const before = /[\w.]*$/.exec(text.value.slice(0, end))?.[0] ?? "";
    if (before.length < 2 || text.selectionEnd !== end || /\w/.test(text.value[end] ?? "")) return close();
    const known = await names();
    if (text.selectionStart !== end) return;
    const folded = before.toLowerCase();
    const used = Object.keys(known).filter((name) => text.value.toLowerCase().includes(name.toLowerCase()));
    const columns = new Set((used.length ? used : Object.keys(known)).flatMap((name) => known[name] ?? []));
    const word = before.slice(before.lastIndexOf(".") + 1);
    const tables = Object.keys(known).filter((name) => name.toLowerCase().startsWith(folded));
    const others = before.includes(".") ? [...columns] : [...columns, ...(before === folded ? KEYWORDS.map((each) => each.toLowerCase()) : KEYWORDS)];
    const rest = word ? others.filter((each) => each.toLowerCase().startsWith(word.toLowerCase()) && each !== word) : used.length ? others : [];
    const whole = tables.length ? before.length : word.length;
    offered = [...new Set(tables.length ? tables.filter((each) => each !== before) : rest)].slice(0, 8);
    if (tables.length && !before.includes(".")) offered = [...new Set([...offered, ...rest])].slice(0, 8);
    from = end - whole;
    active = 0;
    show();
  }
  function show() {
    words.replaceChildren(...offered.map((each, number) => {
      const item = document.createElement("li");
      item.id = `word-${number}`;
      item.setAttribute("role", "option");
      item.setAttribute("aria-selected", String(number === active));
      item.textContent = each;
      item.addEventListener("pointerdown", (event) => { event.preventDefault(); active = number; take(); });
      return item;
    }));
    words.hidden = !offered.length;
    if (!offered.length) { text.removeAttribute("aria-activedescendant"); return; }
    text.setAttribute("aria-activedescendant", `word-${active}`);
    const style = getComputedStyle(text);
    const canvas = document.createElement("canvas").getContext("2d");
    if (canvas) canvas.font = `${style.fontSize} ${style.fontFamily}`;
    const line = text.value.slice(0, from).split("\n");
    const x = (canvas?.measureText("m").width ?? 8) * (line.at(-1)?.length ?? 0) - text.scrollLeft;
    words.style.left = `${Math.max(0, Math.min(x, text.clientWidth - 200))}px`;
    words.style.top = `${Math.min(text.clientHeight, parseFloat(style.lineHeight) * line.length - text.scrollTop + 10)}px`;
  }
  function close() {
    offered = [];
    show();
  }
  function take() {
    const word = offered[active] ?? "";
    text.setRangeText(word, from, text.selectionEnd, "end");
    close();
  }
  text.addEventListener("input", () => void offer());
  text.addEventListener("blur", close);
  text.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); close(); void run(); return; }
    if (event.key === " " && event.ctrlKey) { event.preventDefault(); void offer(); return; }
    if (!offered.length) return;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      active = (active + (event.key === "ArrowDown" ? 1 : offered.length - 1)) % offered.length;
      show();
    } else if (event.key === "Tab" && !event.shiftKey) take();
    else if (event.key === "Escape") close();
    else return;
    event.preventDefault();
  });

  // -- pages and charts of a result

  document.addEventListener("click", async (event) => {
    const link = event.target instanceof Element ? event.target.closest("a[data-page]") : null;
    const section = link?.closest("section.result");
    if (!link || !section) return;
    event.preventDefault();
    const answer = await fetch(/** @type {HTMLAnchorElement} */ (link).href, { headers: { "HX-Request": "true" } }).catch(() => null);
    if (!answer) { state.textContent = "The server can't be reached."; return; }
    const made = new DOMParser().parseFromString(await answer.text(), "text/html");
    const other = made.querySelector("section.result");
    if (other) { section.replaceWith(other); localize(other); other.scrollIntoView({ block: "nearest" }); return; }
    state.textContent = made.querySelector("main")?.textContent?.trim() ?? "";
  });

  /** @type {Promise<any> | undefined} */
  let loading;
  function library() {
    loading ??= new Promise((done, failed) => {
      const script = document.createElement("script");
      script.src = uplot;
      script.onload = () => done(/** @type {any} */ (window).uPlot);
      script.onerror = failed;
      document.head.append(script);
    });
    return loading;
  }
  const COLOURS = ["--accent", "--ok", "--critical", "--warning", "--muted", "--text"];
  /** @param {string} name */
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  document.addEventListener("click", async (event) => {
    const button = event.target instanceof Element ? event.target.closest("[data-draw]") : null;
    const section = /** @type {HTMLElement | null} */ (button?.closest("section.result"));
    const figure = section?.querySelector("figure");
    if (!button || !section || !figure) return;
    figure.hidden = !figure.hidden;
    button.setAttribute("aria-pressed", String(!figure.hidden));
    const caption = figure.querySelector("figcaption");
    const element = /** @type {HTMLElement | null} */ (figure.querySelector(".chart"));
    if (figure.hidden || !caption || !element || element.childElementCount) return;
    const answer = await fetch(`${base}/sql/result/chart?${new URLSearchParams({ id: section.dataset.result ?? "" })}`, { headers: { "HX-Request": "true" } }).catch(() => null);
    const chart = answer?.ok ? await answer.json() : undefined;
    if (!chart) {
      caption.textContent = chart === null ? "No column has numbers: there is nothing to draw." : "This result is no longer kept: run the statement again.";
      element.hidden = true;
      return;
    }
    draw(await library(), chart, element);
    caption.textContent = `${chart.series.map((/** @type {any} */ each) => each.name).join(", ")} by ${chart.name}${chart.more ? ", the first 5,000 rows" : ""}`;
  });

  /** @param {any} Plot @param {any} chart @param {HTMLElement} element */
  function draw(Plot, chart, element) {
    const axis = { stroke: colour("--muted"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line"), width: 1 }, font: "12px system-ui" };
    const bars = chart.along === "words";
    const along = bars
      ? { ...axis, splits: (/** @type {any} */ _, __ = 0, least = 0, most = 0) => chart.x.filter((/** @type {number} */ at) => at >= least && at <= most && at % Math.max(1, Math.ceil((most - least) / 12)) === 0), values: (/** @type {any} */ _, /** @type {number[]} */ at) => at.map((each) => chart.labels[each]?.slice(0, 14) ?? "") }
      : chart.along === "time"
        ? { ...axis, values: (/** @type {any} */ _, /** @type {number[]} */ at) => { const days = (at.at(-1) ?? 0) - (at[0] ?? 0) > 86400; return at.map((each) => new Date(1000 * each).toLocaleString(undefined, days ? { day: "numeric", month: "short" } : { hour: "2-digit", minute: "2-digit", hourCycle: "h23" })); } }
        : axis;
    new Plot({
      width: element.clientWidth, height: 240, legend: { show: true },
      scales: { x: { time: chart.along === "time", ...(bars ? { range: () => [-0.6, chart.x.length - 0.4] } : {}) }, y: { range: (/** @type {any} */ _, /** @type {number} */ least, /** @type {number} */ most) => [Math.min(0, least), Math.max(most, 0) || 1] } },
      axes: [along, { ...axis, size: 70 }],
      series: [{ label: chart.name, ...(bars ? { value: (/** @type {any} */ _, /** @type {number} */ at) => chart.labels[at] ?? "" } : {}) }, ...chart.series.map((/** @type {any} */ each, /** @type {number} */ number) => ({
        label: each.name, stroke: colour(COLOURS[number] ?? "--text"), width: 1.5,
        ...(bars ? { paths: Plot.paths.bars({ size: [0.7, 60] }), fill: colour(number ? COLOURS[number] ?? "--text" : "--soft"), points: { show: false } } : { points: { show: chart.x.length < 60 } }),
      }))],
    }, [chart.x, ...chart.series.map((/** @type {any} */ each) => each.values)], element);
  }
})();
