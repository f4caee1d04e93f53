// Keys for who likes them, on the list of the inbox and on the page of a question. They only choose and move:
// nothing is sent by a single key. They can be switched off, and do nothing while somebody types.
"use strict";
(() => {
  const kept = "surgetank-keys";
  const help = /** @type {HTMLDialogElement | null} */ (document.getElementById("keys"));
  const box = /** @type {HTMLInputElement | null} */ (document.querySelector("[data-keys-on]"));
  if (!help || !box) return;
  box.checked = localStorage.getItem(kept) !== "off";
  box.addEventListener("change", () => localStorage.setItem(kept, box.checked ? "on" : "off"));
  for (const button of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[data-keys-help]"))) {
    button.hidden = false;
    button.addEventListener("click", () => help.showModal());
  }

  const ways = { a: "approve", e: "edit", r: "reject" };

  /** Whether keys are typed into what has the focus. @param {EventTarget | null} target */
  function isTyping(target) {
    if (!(target instanceof HTMLElement)) return false;
    if (target.isContentEditable || target instanceof HTMLTextAreaElement || target instanceof HTMLSelectElement) return true;
    return target instanceof HTMLInputElement && !["radio", "checkbox"].includes(target.type);
  }

  /** What there is to go through: the parts of a question, or the rows of the list. @returns {HTMLElement[]} */
  function all() {
    const parts = [...document.querySelectorAll("#decide fieldset:enabled")];
    return /** @type {HTMLElement[]} */ (parts.length ? parts : [...document.querySelectorAll("a[data-row]")]);
  }

  /** The one that has the focus, or -1. @param {HTMLElement[]} found */
  function at(found) {
    return found.findIndex((each) => each.contains(document.activeElement));
  }

  /** @param {number} by */
  function move(by) {
    const found = all();
    if (!found.length) return;
    const now = at(found);
    const next = found[now < 0 ? 0 : Math.max(0, Math.min(found.length - 1, now + by))];
    if (!next) return;
    const inside = /** @type {HTMLElement | null} */ (next.querySelector("input:checked") ?? next.querySelector("input, textarea, select"));
    (next.matches("fieldset") ? inside : next)?.focus();
    next.scrollIntoView({ block: "nearest" });
  }

  /** @param {string} way */
  function choose(way) {
    const parts = [...document.querySelectorAll("#decide fieldset:enabled")];
    const here = parts.find((each) => each.contains(document.activeElement)) ?? parts.find((each) => !each.querySelector("[data-decision]:checked")) ?? parts[0];
    const radio = /** @type {HTMLInputElement | null} */ (here?.querySelector(`[data-decision][value="${way}"]`) ?? null);
    if (!here || !radio) return;
    radio.focus();
    radio.click();
    const field = /** @type {HTMLElement | null} */ (here.querySelector("[data-for]:not([hidden]) :is(input, textarea, select)"));
    if (way !== "approve") field?.focus();
  }

  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      const send = /** @type {HTMLButtonElement | null} */ (document.querySelector("[data-send]"));
      if (send && event.target instanceof Element && event.target.closest("#decide")) send.click();
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented || help.open || isTyping(event.target)) return;
    if (!box.checked) return;
    if (event.key === "?") help.showModal();
    else if (event.key === "j") move(1);
    else if (event.key === "k") move(-1);
    else if (Object.hasOwn(ways, event.key)) choose(ways[/** @type {keyof typeof ways} */ (event.key)]);
    else return;
    event.preventDefault();
  });
})();
