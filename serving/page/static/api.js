// What is asked of the service: by relative addresses, with the key of this tab, and slower where it is over its rate.

const KEPT = "outcome-router key";
const MOST_TRIES = 4;
let pausedUntil = 0;

export const told = new EventTarget(); // "key" where one is needed, "pause" with {seconds}, "resume"

export const key = {
  get: () => sessionStorage.getItem(KEPT),
  set: (secret) => sessionStorage.setItem(KEPT, secret),
  forget: () => sessionStorage.removeItem(KEPT),
};

export class Problem extends Error {
  constructor(status, detail, document = {}, wait = null) {
    super(detail);
    Object.assign(this, { status, document, wait });
  }
}

const sleep = (milliseconds, signal) =>
  new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)), { once: true });
  });

async function refusal(response) {
  const document = await response.json().catch(() => ({}));
  const fields = (document.errors ?? []).map((one) => `${one.field || "body"}: ${one.message}`).join("; ");
  const detail = fields || document.detail || `The service answered ${response.status} ${response.statusText}.`;
  return new Problem(response.status, detail, document, Number(response.headers.get("Retry-After")) || null);
}

export async function open(path, { method = "GET", body, signal } = {}) {
  for (let tried = 1; ; tried += 1) {
    const pause = pausedUntil - Date.now();
    if (pause > 0) await sleep(pause, signal);
    const headers = {};
    if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
    if (body !== undefined) headers["Content-Type"] = "application/json";
    let response;
    try {
      response = await fetch(path, { method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body), cache: "no-store" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Problem(0, "The service cannot be reached.");
    }
    if (response.ok) {
      told.dispatchEvent(new Event("resume"));
      return response;
    }
    const problem = await refusal(response);
    if (problem.status === 429 && tried < MOST_TRIES) {
      const seconds = (problem.wait ?? 1) * 2 ** (tried - 1);
      pausedUntil = Date.now() + seconds * 1000;
      told.dispatchEvent(new CustomEvent("pause", { detail: { seconds, why: problem.message } }));
      continue;
    }
    if (problem.status === 401) told.dispatchEvent(new CustomEvent("key", { detail: problem.message }));
    throw problem;
  }
}

export const read = async (path, options) => (await open(path, options)).json();
export { sleep };
