// Before anything is drawn: light or dark, as it was chosen in this browser.
"use strict";
(() => {
  const chosen = localStorage.getItem("surgetank-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
