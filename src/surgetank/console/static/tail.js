// The log of one thread as it grows: lines come with the page, then with events; what an interruption left out
// is asked for by number, so that none is missing and none is there twice. However many lines come, they are
// drawn frame by frame, and only the newest that are wanted stay in the page; those that were received are kept
// besides, to be filtered and searched. The log is laid out from its end (`column-reverse`), so that the browser
// itself stays at the newest line.
"use strict";
(() => {
  const DRAWN = 2000;
  const KEPT = 50_000;
  const EACH_FRAME = 120; // 7,000 a second; more at once would make typing and scrolling wait
  const OLDER = 200;
  const LATE = 200; // numbers that may come after greater ones
  const found = document.getElementById("log");
  if (!found) return;
  const log = found;
  const lines = /** @type {HTMLElement} */ (log.querySelector("[data-log-lines]"));
  const empty = log.querySelector("[data-log-empty]");
  const problem = document.querySelector("[data-log-problem]");
  const older = log.querySelector("[data-log-older]");
  const pauser = document.querySelector("[data-log-pause]");
  const counter = document.querySelector("[data-log-count]");
  const level = /** @type {HTMLSelectElement | null} */ (document.querySelector("[data-log-level]"));
  const text = /** @type {HTMLInputElement | null} */ (document.querySelector("[data-log-text]"));
  const { base, localize } = /** @type {any} */ (window).surgetank;
  const LEVELS = ["debug", "info", "warning", "error", "critical"];
  /** @typedef {{seq: number, at: string, level: string, message: string}} Line */

  /** Lines that were received, in order. @type {Line[]} */
  let kept = [...lines.children].map((element) => ({
    seq: Number(/** @type {HTMLElement} */ (element).dataset.seq),
    at: element.querySelector("time")?.getAttribute("datetime") ?? "",
    level: LEVELS.find((name) => element.classList.contains(name)) ?? "info",
    message: element.querySelector("span")?.textContent ?? "",
  }));
  const known = new Set(kept.map((line) => line.seq));
  let last = Number(log.dataset.last ?? 0);
  let forgotten = 0; // lines up to this number are no longer kept
  /** Those of them that are to be drawn. @type {Line[]} */
  let waiting = [];
  let held = 0; // that came while it was paused
  let paused = false;
  let drawing = false;
  let least = 0;
  let wanted = "";

  /** @param {Line} line */
  function matches(line) {
    return (least === 0 || Math.max(0, LEVELS.indexOf(line.level)) >= least) && (!wanted || line.message.toLowerCase().includes(wanted));
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
    return element;
  }

  /** Events come in the order in which they were written, which is that of the lines but for those of writers who
   * wrote at once. @param {Line} line */
  function add(line) {
    if (known.has(line.seq) || line.seq <= forgotten) return;
    known.add(line.seq);
    const isNewest = line.seq > last;
    last = Math.max(last, line.seq);
    insert(kept, line);
    if (kept.length > KEPT + 5000) forget();
    if (paused) held += 1;
    if (matches(line)) {
      const drawn = Number(lines.lastElementChild?.getAttribute("data-seq") ?? 0);
      if (isNewest || line.seq > drawn) insert(waiting, line);
      else drawAmong(line);
    }
    if (waiting.length > 2 * DRAWN) waiting = waiting.slice(-DRAWN);
    drawSoon();
  }

  /** Into lines that are in order, near their end. @param {Line[]} among @param {Line} line */
  function insert(among, line) {
    let at = among.length;
    while (at > 0 && among[at - 1].seq > line.seq) at--;
    if (at === among.length) among.push(line);
    else among.splice(at, 0, line);
  }

  /** One that comes late, where it belongs among those that are drawn. @param {Line} line */
  function drawAmong(line) {
    let next = lines.lastElementChild;
    while (next?.previousElementSibling && Number(next.previousElementSibling.getAttribute("data-seq")) > line.seq) next = next.previousElementSibling;
    const element = made(line);
    lines.insertBefore(element, next);
    localize(element);
  }

  function forget() {
    for (const line of kept.slice(0, -KEPT)) known.delete(line.seq);
    kept = kept.slice(-KEPT);
    forgotten = kept[0].seq - 1;
  }

  function drawSoon() {
    if (!drawing) { drawing = true; requestAnimationFrame(draw); }
  }

  function draw() {
    drawing = false;
    count();
    if (paused || !waiting.length) return;
    const part = document.createDocumentFragment();
    for (const line of waiting.splice(0, EACH_FRAME)) part.append(made(line));
    localize(part);
    lines.append(part);
    const many = lines.childElementCount - DRAWN;
    if (many > 0) {
      const gone = document.createRange();
      gone.setStartBefore(/** @type {Node} */ (lines.firstElementChild));
      gone.setEndBefore(/** @type {Node} */ (lines.children[many]));
      gone.deleteContents();
      older?.removeAttribute("hidden");
    }
    empty?.setAttribute("hidden", "");
    if (waiting.length) drawSoon();
  }

  function count() {
    log.dataset.lines = String(kept.length);
    if (pauser && paused) pauser.textContent = held ? `Go on (${held.toLocaleString()} new)` : "Go on";
    if (counter) counter.textContent = kept.length < OLDER ? "" : `${kept.length.toLocaleString()} lines here`;
  }

  /** Draws what is wanted of the lines that are kept: the newest of them, frame by frame. */
  function again() {
    least = Number(level?.value ?? 0);
    wanted = text?.value.toLowerCase() ?? "";
    waiting = [];
    for (let n = kept.length - 1; n >= 0 && waiting.length < DRAWN; n--) if (matches(kept[n])) waiting.push(kept[n]);
    waiting.reverse();
    lines.replaceChildren();
    drawing = false;
    draw();
  }

  /** @param {Record<string, any>} answer @returns {Line[]} */
  const linesOf = (answer) => answer.lines.map((/** @type {any} */ line) => ({ seq: line.seq, at: line.timestamp, level: line.level, message: line.message }));

  /** @param {Record<string, string>} query */
  async function ask(query) {
    const asked = new URLSearchParams({ id: log.dataset.thread ?? "", ...query });
    const answer = await fetch(`${base}/thread/lines?${asked}`, { cache: "no-store" });
    return answer.ok ? answer.json() : undefined;
  }

  async function catchUp() {
    let after = Math.max(0, last - LATE);
    for (let answer; (answer = await ask({ after: String(after) })) && answer.lines.length;) {
      for (const line of linesOf(answer)) add(line);
      after = answer.lines.at(-1).seq;
      if (!answer.more) break;
    }
  }

  document.addEventListener("surgetank-event", (given) => {
    const event = /** @type {CustomEvent} */ (given).detail;
    if (event.type === "log") add({ seq: event.log_seq, at: event.timestamp, level: event.level, message: event.message });
    else if (event.type === "gap") void catchUp();
    else if (event.type === "checkpoint_flush_recovered" && problem) void before();
  });

  /** Puts older lines before those that are there: of those that are kept, else from the server; whether there may
   * be more. @returns {Promise<boolean>} */
  async function before() {
    const first = Number(lines.firstElementChild?.getAttribute("data-seq") ?? Number.MAX_SAFE_INTEGER);
    let end = kept.findIndex((line) => line.seq >= first);
    if (end < 0) end = kept.length;
    /** @type {Line[]} */
    let part = [];
    while (end > 0 && part.length < OLDER) if (matches(kept[--end])) part.push(kept[end]);
    part.reverse();
    let more = true;
    if (!part.length) {
      const oldest = kept[0]?.seq ?? Number.MAX_SAFE_INTEGER;
      const answer = oldest > 1 ? await ask({ before: String(oldest) }) : undefined;
      if (!answer) return false;
      if (!answer.problem) problem?.remove();
      const fetched = linesOf(answer).filter((line) => !known.has(line.seq));
      for (const line of fetched) known.add(line.seq);
      kept = [...fetched, ...kept];
      last = Math.max(last, kept.at(-1)?.seq ?? 0);
      part = fetched.filter(matches);
      more = Boolean(answer.more);
    }
    const drawn = document.createDocumentFragment();
    for (const line of part) drawn.append(made(line));
    localize(drawn);
    lines.prepend(drawn);
    if (lines.childElementCount) empty?.setAttribute("hidden", "");
    count();
    return more;
  }

  older?.addEventListener("click", async () => { older.toggleAttribute("hidden", !await before()); });
  pauser?.addEventListener("click", () => {
    paused = !paused;
    held = 0;
    pauser.setAttribute("aria-pressed", String(paused));
    pauser.textContent = paused ? "Go on" : "Pause";
    if (!paused) drawSoon();
  });
  level?.addEventListener("change", again);
  text?.addEventListener("input", again);
  count();
})();
