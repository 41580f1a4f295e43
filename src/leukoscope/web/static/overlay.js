// The opacity slider over a heat map; one listener for every panel that comes and goes.
// What was chosen last, and last above zero, holds for all cases of this tab.
const chosen = read();

function read() {
  try { return JSON.parse(sessionStorage.getItem("opacity")) ?? {}; } catch { return {}; }
}

function choose(value) {
  chosen.now = value;
  if (Number(value) > 0) chosen.shown = value;
  try { sessionStorage.setItem("opacity", JSON.stringify(chosen)); } catch { /* for this page only */ }
}

const heatOf = (element) => element.closest(".overlay")?.querySelector(".overlay__heat");

function apply(slider) {
  const heat = heatOf(slider);
  if (heat) heat.style.opacity = String(slider.value / 100);
  const words = slider.parentElement.querySelector("output");
  words.textContent = `${slider.value} %`;
  slider.setAttribute("aria-valuetext", words.textContent);
}

export function startOverlay() {
  document.addEventListener("input", (event) => {
    if (!event.target.matches(".opacity__slider")) return;
    choose(event.target.value);
    apply(event.target);
  });
  restoreOpacity(document);
}

// A panel that comes later keeps the opacity that was chosen before.
export function restoreOpacity(root) {
  const slider = root.querySelector(".opacity__slider");
  if (!slider) return;
  slider.value = chosen.now ?? slider.value;
  apply(slider);
}

export function toggleHeatMap() {
  const slider = document.querySelector(".opacity__slider");
  if (!slider) return;
  slider.value = Number(slider.value) > 0 ? "0" : chosen.shown ?? slider.defaultValue;
  choose(slider.value);
  apply(slider);
}
