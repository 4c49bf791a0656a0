// Opens folded parts for print, and starts the explorer.
"use strict";

addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details.reading")) part.open = true;
});

if (document.getElementById("explorer-tool")) {
  Explorer.start(JSON.parse(document.getElementById("data").textContent));
}
