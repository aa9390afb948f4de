// Talks to the service that this page came from, and to nobody else.

import { sentence } from "./words.js";

const PATIENCE_MS = 8000;

// What went wrong, in words for people. `kind`: down (no answer), away (the answer says why it
// cannot now), locked (it wants a key), missing, refused (the request was not understood), broken.
class ServiceError extends Error {
  constructor(kind, message) {
    super(message);
    this.kind = kind;
  }
}

const KINDS = {
  400: "refused",
  401: "locked",
  404: "missing",
  413: "refused",
  422: "refused",
  429: "away",
  503: "away",
};

// The key is kept until this tab is closed, and sent nowhere but to where the page came from.
const KEY = "hindcast-api-key";
export const useKey = (key) => sessionStorage.setItem(KEY, key);

async function ask(path, { body, signal } = {}) {
  const patience = AbortSignal.timeout(PATIENCE_MS);
  const key = sessionStorage.getItem(KEY);
  let response;
  try {
    response = await fetch(path, {
      method: body ? "POST" : "GET",
      headers: {
        ...(body && { "content-type": "application/json" }),
        ...(key && { "x-api-key": key }),
      },
      body: body ? JSON.stringify(body) : undefined,
      signal: signal ? AbortSignal.any([signal, patience]) : patience,
      cache: "no-store",
    });
  } catch (error) {
    if (signal?.aborted) throw error; // the page no longer wants the answer
    const late = patience.aborted
      ? `did not answer within ${PATIENCE_MS / 1000} seconds`
      : "does not answer";
    throw new ServiceError("down", `The service ${late}.`);
  }
  let answer = null;
  try {
    answer = await response.json();
  } catch {
    // not JSON: the status alone has to do
  }
  if (response.ok && answer !== null) return answer;
  throw new ServiceError(KINDS[response.status] ?? "broken", reasonIn(answer, response.status));
}

// The reason as the service words it.
const reasonIn = (answer, status) =>
  sentence(answer?.error?.message ?? `it answered with status ${status}`);

export const board = (hours, signal) => ask(`v1/board?hours=${hours}`, { signal });
export const model = () => ask("v1/model");
export const find = (q, signal) => ask(`v1/departures?${new URLSearchParams({ q })}`, { signal });
export const departure = (id, signal) => ask(`v1/departures/${encodeURIComponent(id)}`, { signal });

const ASKED = [
  "carrier",
  "flight",
  "origin",
  "dest",
  "tailnum",
  "sched_dep_at",
  "distance_mi",
  "block_min",
];

const asked = (flight) => Object.fromEntries(ASKED.map((name) => [name, flight[name]]));

// Flights with their scores; one that has none stays as it is.
export async function scored(flights, signal) {
  if (flights.length === 0) return [];
  const { results } = await ask("v1/score", { body: { flights: flights.map(asked) }, signal });
  return flights.map((flight, i) => ({ ...flight, ...(results[i].error ? {} : results[i]) }));
}

// The score of one flight, with what the answer says of the model and of the instant it stands at.
export async function score(flight, signal) {
  const { results, ...about } = await ask("v1/score", {
    body: { flights: [asked(flight)], features: true, reasons: true },
    signal,
  });
  if (results[0].error) throw new ServiceError("refused", sentence(results[0].error.message));
  return { ...about, ...results[0] };
}
