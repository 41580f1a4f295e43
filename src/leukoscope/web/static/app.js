// Entry: each part starts where the page has it. Everything works without this file, only less swiftly.
import { startOverlay } from "./overlay.js";
import { startResults } from "./results.js";
import { startReview, startReviewForms } from "./review.js";
import { startThemeButton } from "./theme_button.js";
import { startUpload } from "./upload.js";

startThemeButton();
startOverlay();
startReviewForms();
startReview();
startUpload();
startResults();

const printer = document.querySelector("[data-print]");
if (printer) {
  printer.hidden = false;
  printer.addEventListener("click", () => window.print());
}
