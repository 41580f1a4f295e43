// Select and drop files, and send them in parts, so that the first results appear while the rest is being sent.
import { ServiceError, pause, send, tell } from "./requests.js";
import { startResults } from "./results.js";

const MEBIBYTE = 1024 * 1024;
const FILES_A_PART = 40;

const words = (count) => (count === 1 ? "1 file" : `${count.toLocaleString("en")} files`);

export function startUpload() {
  const form = document.querySelector("[data-upload]");
  if (!form) return;
  const zone = form.querySelector("[data-drop]");
  const input = form.querySelector('input[type="file"]');
  const chosen = form.querySelector("[data-chosen]");
  let files = [];

  const choose = (list) => {
    files = list;
    const size = files.reduce((sum, file) => sum + file.size, 0) / 1e6;
    chosen.textContent = files.length ? `${words(files.length)} chosen, ${size.toFixed(1)} MB` : "";
    fail(form, "");
  };
  input.addEventListener("change", () => choose([...input.files]));
  for (const name of ["dragenter", "dragover"]) {
    zone.addEventListener(name, (event) => { event.preventDefault(); zone.classList.add("drop--over"); });
  }
  for (const name of ["dragleave", "drop"]) {
    zone.addEventListener(name, () => zone.classList.remove("drop--over"));
  }
  zone.addEventListener("drop", async (event) => {
    event.preventDefault();
    choose(await droppedFiles(event.dataTransfer));
    input.required = false;
    if (files.length) form.querySelector("[data-submit]").focus();
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const refusal = await whatIsTooMuch(form.dataset, files);
    if (refusal) fail(form, refusal);
    else submit(form, files);
  });
}

// Files that the service would refuse are reported before they are sent.
async function whatIsTooMuch(limits, files) {
  if (!files.length) return "Choose or drop at least one file.";
  if (files.length > limits.jobFiles) return `${words(files.length)} chosen; at most ${limits.jobFiles} are accepted in a batch.`;
  for (const file of files.filter((item) => item.size > limits.fileMb * MEBIBYTE)) {
    const isArchive = (await file.slice(0, 2).text()) === "PK";
    const mostMb = isArchive ? limits.requestMb : limits.fileMb;
    if (file.size <= mostMb * MEBIBYTE) continue;
    const remedy = isArchive ? "divide it" : "leave it out or save it smaller";
    return `${file.name} has ${(file.size / MEBIBYTE).toFixed(1)} MB; at most ${mostMb} MB are taken: ${remedy}.`;
  }
  return "";
}

async function droppedFiles(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files];
  const files = [];
  for (const entry of entries) await walk(entry, files);
  return files;
}

async function walk(entry, files) {
  if (entry.name.startsWith(".")) return;
  if (entry.isFile) {
    files.push(await new Promise((resolve, reject) => entry.file(resolve, reject)));
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    const part = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!part.length) return;
    for (const child of part) await walk(child, files);
  }
}

function* parts(files, limitBytes, limitFiles) {
  let part = [];
  let size = 0;
  for (const file of files) {
    if (part.length && (size + file.size > limitBytes || part.length >= limitFiles)) {
      yield part;
      part = [];
      size = 0;
    }
    part.push(file);
    size += file.size;
  }
  if (part.length) yield part;
}

async function submit(form, files) {
  const button = form.querySelector("[data-submit]");
  const subject = form.querySelector("#subject").value.trim();
  const limitBytes = Math.min(16, Number(form.dataset.requestMb) / 2) * MEBIBYTE;
  const all = [...parts(files, limitBytes, Math.min(FILES_A_PART, form.dataset.requestFiles))];
  button.disabled = true;
  button.textContent = "Sending …";
  const warn = (event) => event.preventDefault();
  let job = null;
  let sent = 0;
  try {
    for (const [index, part] of all.entries()) {
      const body = new FormData();
      for (const file of part) body.append("files", file, file.name);
      if (subject && index === 0) body.append("subject", subject);
      body.append("more", index < all.length - 1 ? "true" : "false");
      const answer = await sendPatiently(job ? `/api/v1/jobs/${job}/files` : "/api/v1/jobs", body);
      sent += part.length;
      if (!job) {
        job = (await answer.json()).job;
        if (all.length > 1) window.addEventListener("beforeunload", warn);
        await showResults(job);
      }
      showSending(sent < files.length ? `${sent} of ${words(files.length)} sent; keep this page open` : "");
    }
  } catch (error) {
    if (job) showFailure(`After ${sent} of ${words(files.length)}: ${error.message}`, error.status);
    else fail(form, error.message, error.status);
  } finally {
    window.removeEventListener("beforeunload", warn);
    button.disabled = false;
    button.textContent = "Analyze";
  }
}

async function sendPatiently(address, body) {
  for (let attempt = 0; ; attempt += 1) {
    try {
      return await send(address, { method: "POST", body });
    } catch (error) {
      const again = error instanceof ServiceError && error.status === 503 && attempt < 60;
      if (!again) throw error;
      await pause(1000 * Math.max(1, error.retryAfterS));
    }
  }
}

async function showResults(job) {
  const address = `/jobs/${job}`;
  const page = await (await send(address, { headers: { Accept: "text/html" } })).text();
  const fresh = new DOMParser().parseFromString(page, "text/html");
  document.querySelector("#main").replaceChildren(...fresh.querySelector("#main").children);
  document.body.className = fresh.body.className;
  document.title = fresh.title;
  history.pushState({}, "", address);
  document.querySelector("#main").focus();
  window.addEventListener("popstate", () => location.reload(), { once: true });
  startResults();
}

function showSending(text) {
  const place = document.querySelector("[data-sending]");
  if (place) place.textContent = text;
}

function showFailure(text, status) {
  const place = document.querySelector("[data-error]");
  if (place) tell(place, text, status);
}

function fail(form, text, status) {
  tell(form.querySelector("[data-error]"), text, status);
}
