// Text areas that hold JSON become an editor, which is loaded when the first of them is seen:
//   <textarea data-editor="json">         with colours, folding, and what is wrong with the JSON as it is typed;
//   ... data-merge="what it was">         what differs from that is marked, and what is equal is folded;
//   ... readonly (or in a fieldset that is disabled)  can be read only: with data-merge, the difference of two texts.
// The page includes this script with data-bundle="the editor's address". What is typed is written back into the text
// area, with its `input` event, so that forms are sent as they are; who changes the text area's value dispatches
// `change` on it. Without scripts, or as long as the editor can't be loaded, the text area is there as it is.
"use strict";
(() => {
  /** @typedef {{focus: () => void, set: (text: string) => void, remove: () => void}} View */
  const bundle = document.currentScript?.dataset.bundle ?? "";
  /** @type {Promise<any> | undefined} */
  let loading;
  function load() {
    return loading ??= new Promise((done, failed) => {
      const script = document.createElement("script");
      script.src = bundle;
      script.onload = () => done(/** @type {any} */ (window).surgetankEditor);
      script.onerror = () => { loading = undefined; script.remove(); failed(new Error("the editor can't be loaded")); };
      document.head.append(script);
    });
  }

  /** @param {HTMLTextAreaElement} area */
  async function replace(area) {
    let editor;
    try {
      editor = await load();
    } catch {
      delete area.dataset.edited; // the next one that is seen tries again
      return;
    }
    if (!area.isConnected) return;
    if (document.activeElement === area && !area.readOnly) { // nobody's caret is taken away while they type
      area.addEventListener("blur", () => void replace(area), { once: true });
      return;
    }
    const label = area.labels?.[0];
    const host = document.createElement("div");
    host.className = "editor";
    area.after(host);
    /** @type {View} */
    const view = editor.edit(host, {
      value: area.value, original: area.dataset.merge, readOnly: area.readOnly || area.matches(":disabled"),
      label: label?.textContent?.trim() || area.getAttribute("aria-label") || "JSON",
      hint: document.getElementById(area.getAttribute("aria-describedby") ?? "")?.textContent?.trim(),
      changed: (/** @type {string} */ text) => {
        if (text === area.value) return;
        area.value = text;
        area.dispatchEvent(new Event("input", { bubbles: true }));
      },
    });
    area.hidden = true;
    label?.addEventListener("click", (event) => { event.preventDefault(); view.focus(); });
    area.addEventListener("change", () => view.set(area.value));
    area.form?.addEventListener("reset", () => setTimeout(() => view.set(area.value)));
  }

  const seen = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting || !(target instanceof HTMLTextAreaElement) || target.dataset.edited) continue;
      seen.unobserve(target);
      target.dataset.edited = "yes";
      void replace(target);
    }
  }, { rootMargin: "200px" });
  function find() {
    for (const area of document.querySelectorAll('textarea[data-editor="json"]:not([data-edited])')) seen.observe(area);
  }
  document.addEventListener("htmx:after:swap", find);
  find();
})();
