// Requests to our own service: the form token goes along, problems become errors with words for people.
const token = () => document.querySelector('meta[name="csrf-token"]').content;

const FALLBACK = { 413: "This is more than the service takes at once. Send fewer or smaller files." };

export class ServiceError extends Error {
  constructor(message, status, retryAfterS) {
    super(message);
    this.status = status;
    this.retryAfterS = retryAfterS;
  }
}

export async function send(address, options = {}) {
  let response;
  try {
    response = await fetch(address, {
      ...options,
      headers: { Accept: "application/json, text/html;q=0.5", "X-CSRF-Token": token(), ...(options.headers ?? {}) },
    });
  } catch {
    throw new ServiceError("The service does not answer. Is it still running?", 0, 3);
  }
  const toSignIn = response.redirected && new URL(response.url).pathname === "/sign-in";
  if (toSignIn || response.status === 401) throw new ServiceError("Your session has ended.", 401, 0);
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  throw new ServiceError(
    problem.detail ?? FALLBACK[response.status] ?? `The service answered with status ${response.status}.`,
    response.status,
    Number(response.headers.get("Retry-After")) || 0,
  );
}

// Say a failure in its place on the page; where the session has ended, with the way back.
export function tell(place, text, status = 0) {
  place.textContent = text;
  place.hidden = !text;
  if (status !== 401) return;
  const link = document.createElement("a");
  link.href = `/sign-in?next=${encodeURIComponent(location.pathname + location.search)}`;
  link.textContent = "Sign in again";
  place.append(" ", link, ".");
}

export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
