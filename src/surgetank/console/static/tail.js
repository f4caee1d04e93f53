// The log of one thread as it grows: lines come with the page, then with events; what an interruption left out
// is asked for by number, so that none is missing and none is there twice. Lines that were received are kept, to
// be filtered and searched; only a run of them is in the page, up to the newest, in chunks that the browser lays out
// and paints only where they are seen. A frame draws as many as a few milliseconds allow: what comes faster than
// it can be drawn is jumped over, and drawn above, from the newest to the oldest, when there is time. The log is laid
// out from its end (`column-reverse`), so that the browser itself stays at the newest line.
"use strict";
(() => {
  const DRAWN = 2000;
  const KEPT = 50_000;
  const FAR = 400; // as many lines are not drawn one after the other to reach the newest
  const CHUNK = 100;
  const BUDGET_MS = 6; // of a frame; what is drawn has to be laid out and painted in it, too
  const EACH_FRAME = 100; // at most
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
  const { base, shown } = /** @type {any} */ (window).surgetank;
  const LEVELS = ["debug", "info", "warning", "error", "critical"];
  /** @typedef {{seq: number, at: string, level: string, message: string}} Line */

  /** Lines that were received, in order. @type {Line[]} */
  let kept = [...lines.querySelectorAll("li")].map((element) => ({
    seq: Number(element.dataset.seq),
    at: element.querySelector("time")?.getAttribute("datetime") ?? "",
    level: LEVELS.find((name) => element.classList.contains(name)) ?? "info",
    message: element.querySelector("span")?.textContent ?? "",
  }));
  const known = new Set(kept.map((line) => line.seq));
  let last = Number(log.dataset.last ?? 0);
  let forgotten = 0; // lines up to this number are no longer kept
  let edge = kept[0]?.seq ?? 0; // of those that are kept, from this number on all were drawn or are not wanted
  let newest = kept.at(-1)?.seq ?? 0; // the last one that is drawn
  let drawn = kept.length;
  let isMore = !older?.hasAttribute("hidden"); // the server has older ones
  /** Those of them that are to be drawn below. @type {Line[]} */
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

  const model = document.createElement("li");
  model.append(document.createElement("time"), " ", document.createElement("b"), " ", document.createElement("span"));
  model.children[0]?.setAttribute("data-shown", "");
  let second = "";
  let clock = "";

  /** @param {Line} line */
  function made(line) {
    const element = /** @type {HTMLLIElement} */ (model.cloneNode(true));
    const [time, name, said] = element.children;
    if (line.at.slice(0, 19) !== second) {
      second = line.at.slice(0, 19);
      clock = shown(new Date(line.at));
    }
    element.className = `line ${LEVELS.includes(line.level) ? line.level : "info"}`;
    element.dataset.seq = String(line.seq);
    time.setAttribute("datetime", line.at);
    time.textContent = clock;
    name.textContent = line.level;
    said.textContent = line.message;
    return element;
  }

  /** Events come in the order in which they were written, which is that of the lines but for those of writers who
   * wrote at once. @param {Line} line */
  function add(line) {
    if (known.has(line.seq) || line.seq <= forgotten) return;
    known.add(line.seq);
    last = Math.max(last, line.seq);
    insert(kept, line);
    if (kept.length > KEPT + 5000) forget();
    if (paused) held += 1;
    if (matches(line)) {
      if (line.seq > newest) insert(waiting, line);
      else if (line.seq > edge) drawAmong(line);
    }
    if (waiting.length > 2 * DRAWN) waiting = waiting.slice(-DRAWN); // too far to go on from what is drawn
    drawSoon();
  }

  /** Into lines that are in order, near their end. @param {Line[]} among @param {Line} line */
  function insert(among, line) {
    let at = among.length;
    while (at > 0 && among[at - 1].seq > line.seq) at--;
    if (at === among.length) among.push(line);
    else among.splice(at, 0, line);
  }

  /** The line before one of the page. @param {Element} element */
  function lineBefore(element) {
    return element.previousElementSibling ?? element.parentElement?.previousElementSibling?.lastElementChild;
  }

  /** One that comes late, where it belongs among those that are drawn. @param {Line} line */
  function drawAmong(line) {
    let next = lines.lastElementChild?.lastElementChild;
    for (let at = next; at && Number(at.getAttribute("data-seq")) > line.seq; at = lineBefore(at)) next = at;
    next?.before(made(line));
    drawn += 1;
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
    if (waiting.length && !paused) drawNewer();
    else if (drawn < DRAWN) drawOlder(DRAWN - drawn);
    count();
    if (waiting.length && !paused || drawn < DRAWN && hasOlder()) drawSoon();
  }

  /** Whether lines are kept that are older than those that are drawn. */
  const hasOlder = () => kept.length > 0 && kept[0].seq < edge;

  /** Lines below those that are drawn, as many as there is time for. */
  function drawNewer() {
    if (waiting.length > FAR) {
      waiting = waiting.slice(-CHUNK);
      clear(waiting[0].seq);
    }
    const begun = performance.now();
    let chunk = lines.lastElementChild;
    let n = 0;
    while (n < Math.min(waiting.length, EACH_FRAME) && (n % 10 || performance.now() - begun < BUDGET_MS)) {
      if (!chunk || chunk.childElementCount >= CHUNK) lines.append(chunk = document.createElement("ol"));
      chunk.append(made(waiting[n]));
      newest = waiting[n].seq;
      n += 1;
    }
    waiting.splice(0, n);
    drawn += n;
    for (let first = lines.firstElementChild; first && drawn - first.childElementCount >= DRAWN; first = lines.firstElementChild) {
      drawn -= first.childElementCount;
      first.remove();
      edge = Number(lines.firstElementChild?.firstElementChild?.getAttribute("data-seq"));
    }
  }

  /** Of the lines that are kept, those before the ones that are drawn: the newest of them, at most so many, and as
   * many as there is time for. @param {number} most */
  function drawOlder(most, patience = BUDGET_MS) {
    const begun = performance.now();
    const chunk = document.createElement("ol");
    let at = kept.length;
    for (let low = 0; low < at;) { // the first that is drawn or not wanted
      const middle = (low + at) >> 1;
      if (kept[middle].seq < edge) low = middle + 1;
      else at = middle;
    }
    let looked = 0;
    while (at > 0 && chunk.childElementCount < Math.min(most, CHUNK) && (++looked % 10 || performance.now() - begun < patience)) {
      const line = kept[--at];
      edge = line.seq;
      if (!matches(line)) continue;
      chunk.prepend(made(line));
      newest = Math.max(newest, line.seq);
    }
    prepend(chunk);
  }

  /** @param {HTMLOListElement} chunk */
  function prepend(chunk) {
    if (!chunk.childElementCount) return;
    chunk.style.containIntrinsicBlockSize = `auto ${1.25 * chunk.childElementCount}rem`; // until it is seen
    drawn += chunk.childElementCount;
    lines.prepend(chunk);
  }

  /** Takes all lines out of the page; those before this number are drawn again. @param {number} before */
  function clear(before) {
    lines.replaceChildren();
    drawn = 0;
    newest = 0;
    edge = before;
  }

  function count() {
    log.dataset.lines = String(kept.length);
    older?.toggleAttribute("hidden", !isMore && !hasOlder());
    if (drawn) empty?.setAttribute("hidden", "");
    if (pauser && paused) pauser.textContent = held ? `Go on (${held.toLocaleString()} new)` : "Go on";
    if (counter) counter.textContent = kept.length < OLDER ? "" : `${kept.length.toLocaleString()} lines here`;
  }

  /** Draws what is wanted of the lines that are kept, from the newest on. */
  function again() {
    least = Number(level?.value ?? 0);
    wanted = text?.value.toLowerCase() ?? "";
    waiting = [];
    held = 0;
    clear((kept.at(-1)?.seq ?? -1) + 1);
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

  /** Puts older lines before those that are there: of those that are kept, else from the server. */
  async function before() {
    const enough = drawn + OLDER;
    while (drawn < enough && hasOlder()) drawOlder(enough - drawn, Infinity);
    if (drawn + OLDER === enough) {
      const oldest = kept[0]?.seq ?? Number.MAX_SAFE_INTEGER;
      const answer = oldest > 1 ? await ask({ before: String(oldest) }) : { lines: [] };
      if (!answer) return;
      if (!answer.problem) problem?.remove();
      const fetched = linesOf(answer).filter((line) => !known.has(line.seq));
      for (const line of fetched) known.add(line.seq);
      edge ||= oldest;
      kept = [...fetched, ...kept];
      last = Math.max(last, kept.at(-1)?.seq ?? 0);
      isMore = Boolean(answer.more);
      while (hasOlder()) drawOlder(CHUNK, Infinity);
    }
    count();
  }

  older?.addEventListener("click", () => void before());
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
