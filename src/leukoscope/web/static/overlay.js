// The opacity slider over a heat map; one listener for every panel that comes and goes.
let opacity = null;

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
    opacity = event.target.value;
    apply(event.target);
  });
  restoreOpacity(document);
}

// A panel that is loaded later keeps the opacity that was chosen before.
export function restoreOpacity(root) {
  const slider = root.querySelector(".opacity__slider");
  if (!slider) return;
  if (opacity !== null) slider.value = opacity;
  apply(slider);
}

export function toggleHeatMap() {
  const slider = document.querySelector(".opacity__slider");
  if (!slider) return;
  if (Number(slider.value) > 0) {
    slider.dataset.before = slider.value;
    slider.value = "0";
  } else {
    slider.value = slider.dataset.before ?? "60";
  }
  opacity = slider.value;
  apply(slider);
}
