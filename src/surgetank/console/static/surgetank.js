// What every page does: times in the viewer's zone, light or dark, banners, and one live connection that comes
// back by itself and goes on where it was. State is never kept here: when an event says that something has
// changed, the server is asked for the part of the page that shows it.
"use strict";
(() => {
  const root = document.documentElement;
  const base = root.dataset.base ?? "/console";
  const csrf = document.querySelector('meta[name="csrf"]')?.getAttribute("content") ?? "";

  // -- times

  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
  const day = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
  const year = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", year: "numeric" });

  let midnight = 0;
  let tomorrow = 0;
  function newDay() {
    const now = new Date();
    midnight = new Date(now.getFullYear(), now.getMonth(), now.getDate()).getTime();
    tomorrow = new Date(now.getFullYear(), now.getMonth(), now.getDate() + 1).getTime();
  }

  /** @param {Date} at */
  function shown(at) {
    if (Date.now() >= tomorrow) newDay();
    if (at.getTime() >= midnight && at.getTime() < tomorrow) return clock.format(at);
    const date = at.getFullYear() === new Date().getFullYear() ? day : year;
    return `${date.format(at)}, ${clock.format(at)}`;
  }

  /** Shows the times of a part of the page as the viewer's clock has them. @param {ParentNode} part */
  function localize(part) {
    for (const element of part.querySelectorAll("time[datetime]:not([data-shown])")) {
      const at = new Date(element.getAttribute("datetime") ?? "");
      if (Number.isNaN(at.getTime())) continue;
      element.textContent = shown(at);
      element.setAttribute("data-shown", "");
    }
  }

  // The exact time, when somebody asks for it: written for each line of a log it would cost more than the line.
  document.addEventListener("pointerover", (event) => {
    const element = event.target instanceof Element ? event.target.closest("time[datetime]:not([title])") : null;
    const exact = element?.getAttribute("datetime");
    if (element && exact) element.setAttribute("title", `${new Date(exact).toLocaleString()} ${zone} (${exact})`);
  });

  // -- light or dark

  function isDark() {
    return root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  }
  const themeSwitch = document.querySelector("[data-theme-switch]");
  function showTheme() {
    const word = themeSwitch?.querySelector(".theme-word");
    if (word) word.textContent = isDark() ? "Light" : "Dark";
  }
  themeSwitch?.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    localStorage.setItem("surgetank-theme", root.dataset.theme);
    showTheme();
    document.body.dispatchEvent(new CustomEvent("theme"));
  });

  // -- banners: folded ones stay folded, none can be dismissed

  /** @type {Record<string, boolean>} */
  const chosen = JSON.parse(sessionStorage.getItem("surgetank-banners") ?? "{}");
  const banners = () => /** @type {NodeListOf<HTMLDetailsElement>} */ (document.querySelectorAll("details[data-banner]"));
  function foldBanners() {
    for (const banner of banners()) banner.open = chosen[banner.dataset.banner ?? ""] ?? banner.dataset.open === "yes";
  }
  document.addEventListener("click", (event) => {
    const banner = event.target instanceof Element ? event.target.closest("summary")?.parentElement : null;
    if (!(banner instanceof HTMLDetailsElement) || !banner.dataset.banner) return;
    chosen[banner.dataset.banner] = !banner.open; // it is not yet what it will be
    const there = new Set([...banners()].map((each) => each.dataset.banner));
    sessionStorage.setItem("surgetank-banners", JSON.stringify(Object.fromEntries(Object.entries(chosen).filter(([key]) => there.has(key)))));
  });

  let asking = false;
  let askAgain = false;
  async function loadBanners() {
    const there = document.getElementById("banners");
    if (!there) return;
    if (asking) { askAgain = true; return; }
    asking = true;
    try {
      const query = thread === undefined ? "" : `?${new URLSearchParams({ thread })}`;
      const answer = await fetch(`${base}/banners${query}`, { headers: { "HX-Request": "true" }, cache: "no-store" });
      if (answer.ok) {
        const made = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("banners");
        if (made && made.innerHTML !== seenBanners) {
          seenBanners = made.innerHTML;
          there.replaceChildren(...made.childNodes);
          foldBanners();
          localize(there);
        }
      }
    } catch {
      // The connection says that the server is gone.
    } finally {
      asking = false;
      if (askAgain) { askAgain = false; void loadBanners(); }
    }
  }
  let seenBanners = document.getElementById("banners")?.innerHTML ?? "";

  /** Tells the parts of the page that listen for it to load again, at most four times a second. */
  let newsDue = 0;
  function news() {
    newsDue ||= setTimeout(() => { newsDue = 0; document.body.dispatchEvent(new CustomEvent("news")); }, 250);
  }

  // -- the live connection

  const gone = document.getElementById("gone");
  const thread = root.dataset.liveThread;
  let after = root.dataset.liveAfter === undefined ? undefined : Number(root.dataset.liveAfter);
  let pause = 0;
  let failures = 0;

  /** @param {boolean} is */
  function showGone(is) {
    if (gone) gone.hidden = !is;
  }

  async function connect() {
    let answer;
    try {
      answer = await fetch(`${base}/ticket`, { method: "POST", headers: { "X-CSRF-Token": csrf, "HX-Request": "true" } });
    } catch {
      return again();
    }
    if (answer.status === 401) { location.reload(); return; }
    if (answer.status === 403) return; // another login in this browser: the page is old
    if (!answer.ok) return again(Number(answer.headers.get("Retry-After") ?? 0));
    const query = new URLSearchParams({ ticket: (await answer.json()).ticket });
    while (unheard.length) hearSome(); // before it is asked what comes next
    if (after !== undefined) query.set("after", String(after));
    const api = base.replace(/\/console$/, "");
    const path = thread === undefined ? `${api}/ws/events` : `${api}/ws/threads/${encodeURIComponent(thread)}`;
    const socket = new WebSocket(`${location.origin.replace(/^http/, "ws")}${path}?${query}`);
    socket.onmessage = (message) => {
      failures = 0;
      showGone(false);
      unheard.push(...String(message.data).split("\n"));
      if (!isHearing) hearSome();
    };
    socket.onclose = () => again();
  }

  /** @param {number} [seconds] */
  function again(seconds = 0) {
    failures += 1;
    if (failures > 2) showGone(true);
    pause = Math.max(1000 * seconds, Math.min(5000, 250 * 2 ** Math.min(failures, 5))) * (0.75 + Math.random() / 2);
    setTimeout(connect, pause);
  }

  // What comes at once, as after a break, is heard in pieces: clicks and keys come between them.
  /** @type {string[]} */
  let unheard = [];
  let isHearing = false;
  const goOn = new MessageChannel();
  goOn.port1.onmessage = () => hearSome();
  function hearSome() {
    const begun = performance.now();
    let n = 0;
    while (n < unheard.length && (n % 10 || performance.now() - begun < 8)) hear(JSON.parse(unheard[n++]));
    unheard = unheard.slice(n);
    isHearing = unheard.length > 0;
    if (isHearing) goOn.port2.postMessage(0);
  }

  /** One event. @param {Record<string, any>} event */
  function hear(event) {
    if (event.type === "subscribed") {
      after ??= event.after;
      void loadBanners();
      news();
      return;
    }
    if (event.type === "gap") after = Math.max(after ?? 0, event.missed_to);
    else if (!event.derived) after = Math.max(after ?? 0, thread === undefined ? event.id : event.seq);
    if (event.type.startsWith("checkpoint_flush")) void loadBanners();
    if (event.type === "gap" || event.type !== "log") news();
    document.dispatchEvent(new CustomEvent("surgetank-event", { detail: event }));
  }

  // -- small things

  document.addEventListener("change", (event) => {
    const box = event.target;
    if (!(box instanceof HTMLInputElement) || !box.hasAttribute("data-choose-all")) return;
    for (const each of box.form?.querySelectorAll('input[name="id"]') ?? []) {
      /** @type {HTMLInputElement} */ (each).checked = box.checked;
    }
  });
  /** Of a decision only those fields are shown that it needs; without this script all are. */
  function showFields() {
    for (const group of document.querySelectorAll("fieldset")) {
      const choice = /** @type {HTMLInputElement | null} */ (group.querySelector("[data-decision]:checked"));
      for (const part of group.querySelectorAll("[data-for]")) {
        part.toggleAttribute("hidden", !(part.getAttribute("data-for") ?? "").split(" ").includes(choice?.value ?? ""));
      }
    }
  }
  document.addEventListener("change", (event) => {
    if (event.target instanceof HTMLElement && event.target.hasAttribute("data-decision")) showFields();
  });
  showFields();
  document.addEventListener("htmx:after:swap", () => localize(document));
  document.querySelector('form[action$="/logout"]')?.addEventListener("submit", () => {
    for (const key of Object.keys(localStorage)) if (key.startsWith("surgetank-sql:")) localStorage.removeItem(key);
  });
  if (document.querySelector("[data-retry]")) setTimeout(() => location.reload(), 4000);

  document.querySelector(".bar nav [aria-current]")?.scrollIntoView({ block: "nearest", inline: "nearest" });
  localize(document);
  foldBanners();
  showTheme();
  Object.assign(window, { surgetank: { base, localize, shown } });
  if (thread !== undefined || root.hasAttribute("data-live")) void connect();
})();
