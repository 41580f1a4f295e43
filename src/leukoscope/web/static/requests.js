// Requests to our own service: the form token goes along, problems become errors with words for people.
const token = () => document.querySelector('meta[name="csrf-token"]').content;

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
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  throw new ServiceError(
    problem.detail ?? `The service answered with status ${response.status}.`,
    response.status,
    Number(response.headers.get("Retry-After")) || 0,
  );
}

export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
