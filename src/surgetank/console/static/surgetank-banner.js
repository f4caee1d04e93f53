/** Surgetank's banners in anybody's page: whether a conversation is being saved.
 *
 *     <script src="https://surgetank.example.com/console/surgetank-banner.js" defer></script>
 *     <surgetank-banner thread="chat-7" ticket-url="/surgetank-ticket"></surgetank-banner>
 *
 * The backend of your application asks Surgetank for a ticket for one user and thread (`POST /ws/ticket` with
 * `{"user": ..., "thread_id": ...}`) and gives it on as `{"ticket": ...}`; a ticket is good for one connection, so that
 * it is asked for again whenever the connection breaks. In the stead of `ticket-url` set a function:
 * `element.ticket = async (thread) => "..."`. `server` is where Surgetank is; by itself where this file came from.
 *
 * A banner is there as long as the incident lasts: it can be folded, not sent away. The event `surgetank-banner` tells the
 * page of each change (`detail`: `severity` or null, `message`, `connected`). One file, no dependencies.
 */
"use strict";
(() => {
  const from = document.currentScript instanceof HTMLScriptElement ? document.currentScript.src : "";
  const home = from.replace(/\/console\/surgetank-banner\.js.*$/, "");
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(`
    :host { display: block; font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
    :host([hidden]), details[hidden] { display: none; }
    details { border: 1px solid; border-radius: 8px; padding: .55rem .9rem; margin: .4rem 0; overflow-wrap: anywhere; }
    details.warning { background: #fff3cf; color: #6b4a00; border-color: #e0b73c; }
    details.critical { background: #fde8e7; color: #8f1616; border-color: #d65450; }
    summary { cursor: pointer; } summary time { margin-left: .6rem; opacity: .85; }
    p { margin: .3rem 0; white-space: pre-wrap; } code { font-weight: 600; }
    a { color: inherit; font-weight: 600; margin-right: .8rem; }
    @media (prefers-color-scheme: dark) {
      details.warning { background: #352b10; color: #ffd977; border-color: #8a6d1d; }
      details.critical { background: #421b1d; color: #ffb9b6; border-color: #b34a48; }
    }`);

  /** @typedef {{type: string, message?: string, timestamp?: string, incidents?: Incident[], error_details?: {error?: string, reference?: string, support_url?: string, parked_id?: unknown}}} Incident */

  /** A thread in an address: as it is, or, for any other text, `~` and base64url. @param {string} thread */
  function named(thread) {
    if (/^[A-Za-z0-9_-]+$/.test(thread) && !["search", "count", "prune"].includes(thread)) return thread;
    const bytes = String.fromCharCode(...new TextEncoder().encode(thread));
    return `~${btoa(bytes).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "")}`;
  }

  /** Only what is safe as a link. @param {unknown} address */
  function safe(address) {
    try {
      const url = new URL(String(address));
      return url.protocol === "https:" || url.protocol === "mailto:" ? url.href : "";
    } catch {
      return "";
    }
  }

  class SurgetankBanner extends HTMLElement {
    static observedAttributes = ["thread", "server", "ticket-url"];
    /** Gives a ticket for one connection. @type {((thread: string) => Promise<string>) | null} */
    ticket = null;
    /** @type {Incident | null} */
    #incident = null;
    /** @type {WebSocket | null} */
    #socket = null;
    #turn = 0;
    #failures = 0;
    #timer = 0;
    #connected = false;
    #root = this.attachShadow({ mode: "open" });
    #box = document.createElement("details");

    constructor() {
      super();
      this.#root.adoptedStyleSheets = [sheet];
      this.#box.hidden = true;
      this.#box.setAttribute("part", "banner");
      this.#root.append(this.#box);
      this.#root.addEventListener("click", (event) => {
        if (event.target instanceof Element && event.target.closest("summary")) this.#keepFolded(this.#box.open);
      });
    }

    connectedCallback() { this.#restart(); }
    disconnectedCallback() { this.#stop(); }
    attributeChangedCallback() { if (this.isConnected) { this.#incident = null; this.#show(); this.#restart(); } }

    #restart() {
      this.#stop();
      this.#failures = 0;
      void this.#connect(this.#turn);
    }

    #stop() {
      this.#turn += 1; // what is under way ends without effect
      clearTimeout(this.#timer);
      this.#socket?.close();
      this.#socket = null;
    }

    /** @param {number} turn */
    async #connect(turn) {
      const thread = this.getAttribute("thread");
      const server = (this.getAttribute("server") || home).replace(/\/$/, "");
      if (!thread || !server) return;
      let ticket;
      try {
        ticket = await this.#ask(thread);
      } catch {
        this.#again(turn);
        return;
      }
      if (turn !== this.#turn) return;
      const socket = this.#socket = new WebSocket(`${server.replace(/^http/, "ws")}/ws/threads/${named(thread)}?${new URLSearchParams({ ticket })}`);
      socket.onmessage = (message) => {
        if (turn !== this.#turn) return;
        for (const line of String(message.data).split("\n")) this.#hear(JSON.parse(line), turn);
      };
      socket.onclose = () => this.#again(turn);
    }

    /** @param {string} thread @returns {Promise<string>} */
    async #ask(thread) {
      if (this.ticket) return this.ticket(thread);
      const address = new URL(this.getAttribute("ticket-url") ?? "", document.baseURI);
      address.searchParams.set("thread", thread);
      const answer = await fetch(address, { method: "POST", credentials: "same-origin" });
      if (!answer.ok) throw new Error(`no ticket: ${answer.status}`);
      return String((await answer.json()).ticket);
    }

    /** @param {number} turn */
    #again(turn) {
      if (turn !== this.#turn) return;
      this.#failures += 1;
      if (this.#connected) { this.#connected = false; this.#tell(); }
      const pause = Math.min(10_000, 250 * 2 ** Math.min(this.#failures, 6)) * (0.75 + Math.random() / 2);
      this.#timer = setTimeout(() => void this.#connect(turn), pause);
    }

    /** @param {Incident} event @param {number} turn */
    #hear(event, turn) {
      if (event.type === "subscribed") {
        this.#failures = 0;
        this.#connected = true;
        const all = event.incidents ?? [];
        this.#incident = all.find((each) => each.type === "checkpoint_flush_critical_error") ?? all[0] ?? null;
        this.#show();
        this.#tell();
      } else if (event.type === "checkpoint_flush_critical_error" || (event.type === "checkpoint_flush_error" && this.#incident?.type !== "checkpoint_flush_critical_error")) {
        this.#incident = event;
        this.#show();
        this.#tell();
      } else if (event.type === "checkpoint_flush_recovered" && this.#incident) {
        if (turn === this.#turn) this.#restart(); // what is left, if anything, the server knows
      }
    }

    #tell() {
      const is = this.#incident;
      const severity = is ? (is.type === "checkpoint_flush_critical_error" ? "critical" : "warning") : null;
      this.dispatchEvent(new CustomEvent("surgetank-banner", { bubbles: true, composed: true, detail: { severity, message: is?.message ?? "", connected: this.#connected } }));
    }

    #show() {
      const is = this.#incident;
      const box = this.#box;
      box.hidden = !is;
      if (!is) { box.replaceChildren(); return; }
      const critical = is.type === "checkpoint_flush_critical_error";
      const details = is.error_details ?? {};
      box.className = critical ? "critical" : "warning";
      box.setAttribute("role", critical ? "alert" : "status");
      const summary = document.createElement("summary");
      const title = document.createElement("strong");
      title.textContent = details.parked_id !== undefined && details.parked_id !== null ? "Something was set aside" : critical ? "Saving fails" : "Saving is delayed";
      const at = new Date(is.timestamp ?? "");
      summary.append(title);
      if (!Number.isNaN(at.getTime())) {
        const time = document.createElement("time");
        time.dateTime = at.toISOString();
        time.textContent = `since ${at.toLocaleTimeString()}`;
        summary.append(time);
      }
      const parts = [summary, said(is.message ?? "")];
      if (details.error) parts.push(said(details.error));
      const support = safe(details.support_url);
      if (critical && (support || details.reference)) {
        const line = document.createElement("p");
        if (support) {
          const link = document.createElement("a");
          link.href = support;
          link.rel = "noreferrer";
          link.target = "_blank";
          link.textContent = "Contact support";
          line.append(link);
        }
        if (details.reference) {
          const reference = document.createElement("code");
          reference.textContent = String(details.reference);
          line.append("Quote the reference ", reference, ".");
        }
        parts.push(line);
      }
      box.replaceChildren(...parts);
      box.open = !this.#isFolded();
    }

    get #key() { return `surgetank-banner:${this.getAttribute("thread")}:${this.#incident?.type}`; }
    #isFolded() { try { return sessionStorage.getItem(this.#key) === "folded"; } catch { return false; } }
    /** @param {boolean} folded */
    #keepFolded(folded) {
      try {
        if (folded) sessionStorage.setItem(this.#key, "folded");
        else sessionStorage.removeItem(this.#key);
      } catch { /* a page without storage */ }
    }
  }

  /** A sentence, with what stands between backticks as code. @param {string} text */
  function said(text) {
    const line = document.createElement("p");
    const parts = String(text).split("`");
    if (parts.length % 2 === 0) { line.textContent = String(text); return line; }
    parts.forEach((part, number) => {
      if (number % 2 === 0) { line.append(part); return; }
      const code = document.createElement("code");
      code.textContent = part;
      line.append(code);
    });
    return line;
  }

  if (!customElements.get("surgetank-banner")) customElements.define("surgetank-banner", SurgetankBanner);
})();
