// The log of one thread as it grows: lines come with the page, then with events; what an interruption left out
// is asked for by number, so that none is missing and none is there twice. However many lines come, they are
// drawn frame by frame, and only the newest stay in the page. The log is laid out from its end (`column-reverse`), so
// that the browser itself stays at the newest line.
"use strict";
(() => {
  const MOST = 2000;
  const EACH_FRAME = 250; // more would make typing and scrolling wait
  const found = document.getElementById("log");
  if (!found) return;
  const log = found;
  const lines = /** @type {HTMLElement} */ (log.querySelector("[data-log-lines]"));
  const empty = log.querySelector("[data-log-empty]");
  const problem = document.querySelector("[data-log-problem]");
  const older = log.querySelector("[data-log-older]");
  const pauser = document.querySelector("[data-log-pause]");
  const level = /** @type {HTMLSelectElement | null} */ (document.querySelector("[data-log-level]"));
  const text = /** @type {HTMLInputElement | null} */ (document.querySelector("[data-log-text]"));
  const { base, localize } = /** @type {any} */ (window).surgetank;
  const LEVELS = ["debug", "info", "warning", "error", "critical"];
  /** @typedef {{seq: number, at: string, level: string, message: string}} Line */

  let last = Number(log.dataset.last ?? 0);
  /** @type {Line[]} */
  let waiting = [];
  let paused = false;
  let drawing = false;

  /** @param {string} name */
  const rank = (name) => Math.max(0, LEVELS.indexOf(name));

  /** @param {Element} element */
  function filter(element) {
    const least = Number(level?.value ?? 0);
    const wanted = text?.value.toLowerCase() ?? "";
    const its = LEVELS.find((name) => element.classList.contains(name)) ?? "info";
    const is = rank(its) >= least && (!wanted || (element.textContent ?? "").toLowerCase().includes(wanted));
    element.toggleAttribute("hidden", !is);
  }

  /** @param {Line} line */
  function made(line) {
    const element = document.createElement("li");
    element.className = `line ${LEVELS.includes(line.level) ? line.level : "info"}`;
    element.dataset.seq = String(line.seq);
    const time = document.createElement("time");
    time.setAttribute("datetime", line.at);
    const name = document.createElement("b");
    name.textContent = line.level;
    const said = document.createElement("span");
    said.textContent = line.message;
    element.append(time, " ", name, " ", said);
    filter(element);
    return element;
  }

  /** @param {Line} line */
  function add(line) {
    if (line.seq <= last) return;
    last = line.seq;
    waiting.push(line);
    if (waiting.length > MOST) waiting = waiting.slice(-MOST);
    if (!drawing && !paused) { drawing = true; requestAnimationFrame(draw); }
  }

  function draw() {
    drawing = false;
    if (paused || !waiting.length) return;
    const part = document.createDocumentFragment();
    for (const line of waiting.splice(0, EACH_FRAME)) part.append(made(line));
    localize(part);
    lines.append(part);
    const many = lines.childElementCount - MOST;
    if (many > 0) {
      const gone = document.createRange();
      gone.setStartBefore(/** @type {Node} */ (lines.firstElementChild));
      gone.setEndBefore(/** @type {Node} */ (lines.children[many]));
      gone.deleteContents();
    }
    empty?.setAttribute("hidden", "");
    if (waiting.length) { drawing = true; requestAnimationFrame(draw); }
  }

  /** @param {Record<string, any>} answer @returns {Line[]} */
  const linesOf = (answer) => answer.lines.map((/** @type {any} */ line) => ({ seq: line.seq, at: line.timestamp, level: line.level, message: line.message }));

  /** @param {Record<string, string>} query */
  async function ask(query) {
    const wanted = new URLSearchParams({ id: log.dataset.thread ?? "", ...query });
    const answer = await fetch(`${base}/thread/lines?${wanted}`, { cache: "no-store" });
    return answer.ok ? answer.json() : undefined;
  }

  async function catchUp() {
    for (let answer; (answer = await ask({ after: String(last) })) && answer.lines.length;) {
      for (const line of linesOf(answer)) add(line);
      if (!answer.more) break;
    }
  }

  document.addEventListener("surgetank-event", (given) => {
    const event = /** @type {CustomEvent} */ (given).detail;
    if (event.type === "log") add({ seq: event.log_seq, at: event.timestamp, level: event.level, message: event.message });
    else if (event.type === "gap") void catchUp();
    else if (event.type === "checkpoint_flush_recovered" && problem) void before();
  });
  /** Puts older lines before those that are there; whether there are more. @returns {Promise<boolean>} */
  async function before() {
    const first = lines.firstElementChild?.getAttribute("data-seq") ?? String(Number.MAX_SAFE_INTEGER);
    const answer = Number(first) > 1 ? await ask({ before: first }) : undefined;
    if (!answer) return false;
    if (!answer.problem) problem?.remove();
    const part = document.createDocumentFragment();
    for (const line of linesOf(answer)) part.append(made(line));
    localize(part);
    lines.prepend(part);
    if (lines.childElementCount) empty?.setAttribute("hidden", "");
    last = Math.max(last, Number(lines.lastElementChild?.getAttribute("data-seq") ?? 0));
    return Boolean(answer.more);
  }
  older?.addEventListener("click", async () => { if (!await before()) older.remove(); });
  pauser?.addEventListener("click", () => {
    paused = !paused;
    pauser.setAttribute("aria-pressed", String(paused));
    pauser.textContent = paused ? "Go on" : "Pause";
    if (!paused) draw();
  });
  const refilter = () => { for (const line of lines.children) filter(line); };
  level?.addEventListener("change", refilter);
  text?.addEventListener("input", refilter);
})();
