// Reviewing: in a panel beside a list without leaving the page; in the review mode by single keys.
import { toggleHeatMap } from "./overlay.js";
import { send, tell } from "./requests.js";

// Beside a list: store in place. In the review mode the form is sent as usual and the next case comes back.
export function startReviewForms() {
  document.addEventListener("submit", async (event) => {
    const form = event.target;
    if (!form.matches("[data-review]") || form.matches("[data-keys]")) return;
    event.preventDefault();
    const state = form.querySelector(".review__state");
    const button = event.submitter;
    const content = { verdict: button.value, note: form.note.value, reviewer: form.reviewer.value };
    try {
      await send(`/api/v1/history/${form.dataset.review}/reviews`, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify(content),
      });
    } catch (error) {
      tell(state, `Not stored: ${error.message}`, error.status);
      state.classList.add("review__state--bad");
      return;
    }
    const words = button.firstChild.textContent.trim();
    state.classList.remove("review__state--bad");
    state.textContent = `Stored: ${words}`;
    for (const other of form.querySelectorAll(".verdict")) other.removeAttribute("aria-pressed");
    button.setAttribute("aria-pressed", "true");
    document.dispatchEvent(
      new CustomEvent("leukoscope:reviewed", { detail: { caseId: form.dataset.review, words } }),
    );
  });
}

// A note that was typed and not sent is there again when the case comes back.
function keepDraft(form) {
  const key = `note-${form.dataset.review}`;
  try {
    form.note.value = sessionStorage.getItem(key) ?? form.note.value;
  } catch { return; /* private mode: nothing is kept */ }
  form.note.addEventListener("input", () => sessionStorage.setItem(key, form.note.value));
  form.addEventListener("submit", () => sessionStorage.removeItem(key));
}

export function startReview() {
  const form = document.querySelector("[data-keys]");
  if (!form) return;
  const shortcuts = document.querySelector("[data-shortcuts]");
  try { shortcuts.checked = localStorage.getItem("shortcuts") !== "off"; } catch { /* stays on */ }
  shortcuts.addEventListener("change", () => {
    try { localStorage.setItem("shortcuts", shortcuts.checked ? "on" : "off"); } catch { /* for this page only */ }
  });
  keepDraft(form);
  const verdict = (name) => () => form.querySelector(`[value="${name}"]`).click();
  const follow = (selector) => () => document.querySelector(selector)?.click();
  const keys = {
    a: verdict("agree"),
    d: verdict("disagree"),
    u: verdict("unsure"),
    n: () => form.note.focus(),
    h: toggleHeatMap,
    j: follow("[data-next-case]"),
    k: follow("[data-previous]"),
  };
  document.addEventListener("keydown", (event) => {
    const typing = event.target.matches("textarea, select, input:not([type=range], [type=checkbox])");
    if (event.key === "Escape" && typing) event.target.blur();
    if (typing || !shortcuts.checked || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    const action = keys[event.key.toLowerCase()];
    if (!action) return;
    event.preventDefault();
    action();
  });
}
