// The editor of the console, in one file that is loaded when a page needs it: CodeMirror 6 for JSON, what is wrong
// with it, and what differs from an original. `static/editor.js` of the console calls it. It lives in a shadow root,
// whose styles are objects and no text: the pages' Content-Security-Policy allows no style that a script writes.
import { defaultKeymap, history, historyKeymap } from "@codemirror/commands";
import { json, jsonParseLinter } from "@codemirror/lang-json";
import { bracketMatching, codeFolding, foldGutter, foldKeymap, HighlightStyle, indentOnInput, syntaxHighlighting } from "@codemirror/language";
import { linter, lintGutter, lintKeymap } from "@codemirror/lint";
import { unifiedMergeView } from "@codemirror/merge";
import { EditorState } from "@codemirror/state";
import { drawSelection, EditorView, highlightActiveLine, keymap, lineNumbers } from "@codemirror/view";
import { tags } from "@lezer/highlight";

const colours = HighlightStyle.define([
  { tag: tags.propertyName, color: "var(--accent)" },
  { tag: tags.string, color: "var(--ok)" },
  { tag: [tags.number, tags.bool, tags.null], color: "var(--warning)" },
  { tag: tags.invalid, color: "var(--critical)" },
]);
const mono = "var(--mono)";
const theme = EditorView.theme({
  "&": { color: "var(--text)", backgroundColor: "var(--card)", border: "1px solid var(--muted)", borderRadius: "6px", fontSize: ".86rem" },
  "&.cm-focused": { outline: "2px solid var(--accent)", outlineOffset: "2px" },
  ".cm-scroller": { fontFamily: mono, lineHeight: "1.5", maxHeight: "32rem", overflow: "auto" },
  ".cm-content": { caretColor: "var(--text)", padding: ".4rem 0" },
  ".cm-cursor, .cm-dropCursor": { borderLeftColor: "var(--text)" },
  ".cm-gutters": { backgroundColor: "var(--card)", color: "var(--muted)", border: "none" },
  ".cm-activeLine, .cm-activeLineGutter": { backgroundColor: "transparent" },
  "&.cm-focused .cm-activeLine": { backgroundColor: "color-mix(in srgb, var(--soft) 60%, transparent)" },
  "&.cm-focused .cm-selectionBackground, .cm-selectionBackground": { backgroundColor: "color-mix(in srgb, var(--accent) 30%, transparent) !important" },
  "&.cm-focused .cm-matchingBracket": { backgroundColor: "var(--plain-soft)", outline: "1px solid var(--muted)" },
  ".cm-foldPlaceholder": { backgroundColor: "var(--plain-soft)", borderColor: "var(--line)", color: "var(--muted)" },
  ".cm-tooltip": { backgroundColor: "var(--card)", color: "var(--text)", border: "1px solid var(--line)" },
  // Not as pictures in their addresses, which the pages' rules of content forbid.
  ".cm-lint-marker": { content: "none !important", width: ".7em", height: ".7em", marginTop: ".4em", borderRadius: "50%", backgroundColor: "var(--critical-line)" },
  ".cm-lintRange": { backgroundImage: "none !important", textDecoration: "underline wavy var(--critical-line)" },
  ".cm-diagnostic-error": { borderLeftColor: "var(--critical-line)" },
  "&.cm-merge-b .cm-changedLine, .cm-inlineChangedLine": { backgroundColor: "var(--ok-soft) !important" },
  ".cm-insertedLine": { background: "none !important", textDecoration: "none" },
  "&.cm-merge-b .cm-changedText": { background: "color-mix(in srgb, var(--ok) 10%, transparent) !important" },
  ".cm-deletedChunk": { backgroundColor: "var(--critical-soft) !important", paddingLeft: "6px" },
  ".cm-deletedChunk .cm-deletedText": { background: "color-mix(in srgb, var(--critical) 10%, transparent) !important" },
  ".cm-deletedLine, .cm-deletedLine del": { textDecoration: "none" },
  "&.cm-merge-b .cm-changedLineGutter": { background: "var(--ok)" },
  ".cm-deletedLineGutter": { background: "var(--critical-line)" },
  ".cm-collapsedLines": { "&:before, &:after": { content: "none !important" }, color: "var(--muted)", background: "var(--plain-soft)", padding: "2px 12px" },
});

/**
 * An editor in `host`.
 * @param {HTMLElement} host
 * @param {{value: string, original?: string, readOnly: boolean, label: string, hint?: string, changed: (value: string) => void}} options
 *   With `original`, what differs from it is marked, and what is equal is folded.
 */
export function edit(host, { value, original, readOnly, label, hint, changed }) {
  const root = host.shadowRoot ?? host.attachShadow({ mode: "open" });
  const named = { "aria-label": label, ...(readOnly ? { "aria-readonly": "true", tabindex: "0" } : {}), ...(hint ? { "aria-description": hint } : {}) };
  const extensions = [
    lineNumbers(), codeFolding(), foldGutter(), drawSelection(), bracketMatching(), json(), syntaxHighlighting(colours), theme,
    EditorView.lineWrapping, EditorView.contentAttributes.of(named), keymap.of([...defaultKeymap, ...historyKeymap, ...foldKeymap, ...lintKeymap]),
  ];
  if (readOnly) extensions.push(EditorState.readOnly.of(true), EditorView.editable.of(false));
  else extensions.push(history(), indentOnInput(), highlightActiveLine(), linter(jsonParseLinter()), lintGutter());
  extensions.push(EditorView.updateListener.of((update) => { if (update.docChanged) changed(update.state.doc.toString()); }));
  if (original !== undefined) {
    extensions.push(unifiedMergeView({ original, mergeControls: false, gutter: true, collapseUnchanged: { margin: 3, minSize: 6 }, diffConfig: { scanLimit: 2000, timeout: 300 } }));
  }
  const view = new EditorView({ parent: root, root, state: EditorState.create({ doc: value, extensions }) });
  return {
    focus: () => view.focus(),
    /** @param {string} text */
    set: (text) => { if (text !== view.state.doc.toString()) view.dispatch({ changes: { from: 0, to: view.state.doc.length, insert: text } }); },
    remove: () => view.destroy(),
  };
}
