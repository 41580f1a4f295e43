// Results as they come: new rows, counts, filter, sorting, and the chosen case in the panel beside the list.
import { restoreOpacity } from "./overlay.js";
import { pause, send, tell } from "./requests.js";

const POLL_MS = 600;
const WIDE = window.matchMedia("(min-width: 62.01rem)");
const ORDERS = {
  number: (row) => Number(row.dataset.number),
  high: (row) => -(row.dataset.probability ?? -1),
  low: (row) => Number(row.dataset.probability ?? 2),
  unsure: doubt,
};

const logOdds = (probability) => {
  const inside = Math.min(Math.max(Number(probability), 1e-6), 1 - 1e-6);
  return Math.log(inside / (1 - inside));
};

// Uncertain cells first, then by the distance in log-odds from the row's own threshold; what was not classified comes last.
function doubt(row) {
  const { probability, threshold, decision } = row.dataset;
  if (probability === undefined) return 2000;
  return Math.abs(logOdds(probability) - logOdds(threshold)) + (decision === "uncertain" ? 0 : 1000);
}

export function startResults() {
  const root = document.querySelector("[data-job]");
  if (!root) return;
  const list = root.querySelector("[data-rows]");
  const view = { root, list, viewer: root.querySelector("[data-viewer]"), chosen: null };
  root.querySelector("[data-filter]").addEventListener("change", () => arrange(view));
  root.querySelector("[data-sort]").addEventListener("change", () => arrange(view));
  list.addEventListener("click", (event) => openBeside(view, event));
  list.addEventListener("keydown", (event) => moveByArrow(view, event));
  list.addEventListener("focusin", (event) => { if (event.target.matches(":focus-visible")) preview(view, event.target.closest(".row")); });
  root.querySelector("[data-cancel]")?.addEventListener("submit", (event) => cancel(view, event));
  document.addEventListener("leukoscope:reviewed", (event) => markReviewed(list, event.detail));
  markFirst(view);
  if (root.dataset.open === "yes") follow(view);
}

async function follow(view) {
  let next = Number(view.root.dataset.next);
  let failures = 0;
  while (view.root.isConnected) {
    try {
      const address = `/jobs/${view.root.dataset.job}/rows?after=${next}&limit=100`;
      const answer = await send(address, { headers: { Accept: "text/html" } });
      const state = answer.headers.get("X-State");
      const count = Number(answer.headers.get("X-Rows"));
      next = Number(answer.headers.get("X-Next"));
      if (count) {
        addRows(view, await answer.text());
        await showSubjects(view);
      }
      showProgress(view, state, answer.headers);
      failures = 0;
      if (!count && state !== "running" && state !== "receiving") return finish(view, state);
      if (!count) await pause(POLL_MS);
    } catch (error) {
      failures += 1;
      if (failures > 5 || error.status === 401) return fail(view, error.message, error.status);
      await pause(1000 * failures);
    }
  }
}

function addRows(view, markup) {
  const fresh = new DOMParser().parseFromString(`<ol>${markup}</ol>`, "text/html");
  view.list.append(...fresh.querySelectorAll("li.row"));
  view.root.querySelector("[data-empty]").hidden = true;
  arrange(view);
  if (!view.chosen && WIDE.matches) preview(view, view.list.querySelector(".row:not([hidden])"));
}

function arrange(view) {
  const show = view.root.querySelector("[data-filter] input:checked").value;
  const sort = view.root.querySelector("[data-sort]").value;
  const rows = [...view.list.children];
  const counts = { all: rows.length };
  for (const row of rows) {
    counts[row.dataset.decision] = (counts[row.dataset.decision] ?? 0) + 1;
    row.hidden = show !== "all" && row.dataset.decision !== show;
  }
  for (const place of view.root.querySelectorAll("[data-count]")) place.textContent = counts[place.dataset.count] ?? 0;
  const key = ORDERS[sort];
  rows.sort(key
    ? (a, b) => key(a) - key(b) || a.dataset.number - b.dataset.number
    : (a, b) => a.dataset.name.localeCompare(b.dataset.name, "en", { numeric: true }));
  if (rows.some((row, index) => row !== view.list.children[index])) {
    const focused = document.activeElement;
    view.list.append(...rows);
    if (view.list.contains(focused)) focused.focus();
  }
  const empty = view.root.querySelector("[data-empty]");
  if (rows.length) {
    empty.hidden = rows.some((row) => !row.hidden);
    empty.textContent = "No result of this kind.";
  }
}

function showProgress(view, state, headers) {
  const done = Number(headers.get("X-Done"));
  const total = Number(headers.get("X-Total"));
  if (!total) return;
  const bar = view.root.querySelector("[data-bar]");
  bar.max = total;
  bar.value = done;
  view.root.querySelector("[data-progress]").textContent =
    state === "cancelled" ? `Cancelled after ${done} of ${total}` : `${done} of ${total} images analyzed`;
}

function finish(view, state) {
  view.root.querySelector("[data-bar]").hidden = true;
  view.root.querySelector("[data-cancel]")?.remove();
  const count = view.list.children.length;
  if (state !== "cancelled") {
    view.root.querySelector("[data-progress]").textContent = count === 1 ? "1 image analyzed" : `${count} images analyzed`;
  }
  if (state === "failed") fail(view, "The analysis stopped early; the results listed here are stored. Send the other images again.");
  if (!count && state === "done") view.root.querySelector("[data-empty]").textContent = "The upload contains no image.";
}

// Without leaving the page, which may still be sending; what follows the job tells the end.
async function cancel(view, event) {
  event.preventDefault();
  try {
    await send(`/api/v1/jobs/${view.root.dataset.job}`, { method: "DELETE" });
  } catch (error) {
    fail(view, error.message, error.status);
  }
}

function fail(view, text, status) {
  tell(view.root.querySelector("[data-error]"), text, status);
}

async function showSubjects(view) {
  const answer = await send(`/jobs/${view.root.dataset.job}/subjects`, { headers: { Accept: "text/html" } });
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  view.root.querySelector("[data-subjects]").replaceChildren(...fresh.body.children);
}

function openBeside(view, event) {
  const row = event.target.closest(".row");
  const plain = event.button === 0 && !event.ctrlKey && !event.metaKey && !event.shiftKey && !event.altKey;
  if (!row || !plain || !WIDE.matches) return;
  event.preventDefault();
  preview(view, row);
}

function moveByArrow(view, event) {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  const row = event.target.closest(".row");
  if (!step || !row) return;
  event.preventDefault();
  const rows = [...view.list.children].filter((item) => !item.hidden);
  rows[rows.indexOf(row) + step]?.querySelector("a").focus();
}

function markFirst(view) {
  const first = view.list.querySelector(".row");
  if (first && view.viewer.querySelector(".panel")) mark(view, first);
}

function mark(view, row) {
  view.list.querySelector(".row--chosen")?.classList.remove("row--chosen");
  view.list.querySelector("[aria-current]")?.removeAttribute("aria-current");
  row.classList.add("row--chosen");
  row.querySelector("a").setAttribute("aria-current", "true");
  view.chosen = row.dataset.case;
}

async function preview(view, row) {
  if (!row || !WIDE.matches || view.chosen === row.dataset.case) return;
  mark(view, row);
  try {
    const answer = await send(`/cases/${row.dataset.case}/panel`, { headers: { Accept: "text/html" } });
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (view.chosen !== row.dataset.case) return; // another one was chosen meanwhile
    view.viewer.replaceChildren(...fresh.body.children);
    restoreOpacity(view.viewer);
  } catch (error) {
    fail(view, error.message, error.status);
  }
}

function markReviewed(list, { caseId, words }) {
  const place = list.querySelector(`[data-case="${CSS.escape(caseId)}"] .row__review`);
  if (place) place.textContent = words;
}
