// The button that switches between light and dark and remembers it.
export function startThemeButton() {
  const button = document.getElementById("theme");
  if (!button) return;
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const present = () => document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light");
  button.hidden = false;
  button.addEventListener("click", () => {
    const next = present() === "dark" ? "light" : "dark";
    document.documentElement.dataset.theme = next;
    try { localStorage.setItem("theme", next); } catch { /* private mode: the choice lasts for this page */ }
  });
}
