// The page: what is shown, where the focus is, and what each key does. The address says which
// flight is open (#/flight/<id>), so that a link opens it and the back button closes it.

import * as api from "./api.js";
import * as list from "./board.js";
import * as detail from "./flight.js";
import { byId, h } from "./dom.js";
import { clock, count, day, title, zoneName } from "./words.js";

const REFRESH_MS = 60_000;
const RETRY_MS = 10_000;
const TYPING_MS = 200;

const q = byId("q");
const hours = byId("hours");
const rows = byId("rows");
const aside = byId("aside");
const split = byId("split");
const narrow = window.matchMedia("(max-width: 900px)"); // as in style.css: one thing at a time

let board = null; // the last board that the service gave
let found = null; // the last search's answer, null while the board is shown
let model = null; // what the service says of its model, once a flight was opened
let opened = null; // the id of the flight that is open
let asking = null; // stops the request of the list that is under way
let opening = null; // the same for the flight
let timer = null;
let cameFrom = false; // whether a row led to the open flight: then it is one step of history

const say = (text) => {
  byId("say").textContent = text;
};

// ---- the list ----------------------------------------------------------------------------------

function notice(text) {
  byId("notice").hidden = !text;
  byId("notice").replaceChildren(...(text ? [text] : []));
}

function show(flights, scale) {
  const at = document.activeElement?.dataset?.id;
  rows.replaceChildren(...list.rows(flights, scale));
  rows.removeAttribute("aria-busy");
  byId("axis").replaceChildren(...list.axis(scale));
  byId("axis").hidden = flights.length === 0;
  byId("state").hidden = true;
  markOpen();
  if (at) rowOf(at)?.focus();
}

function showState(heading, text, ...actions) {
  byId("summary").replaceChildren();
  rows.replaceChildren();
  rows.removeAttribute("aria-busy");
  byId("axis").hidden = true;
  byId("state").replaceChildren(list.state(heading, text, ...actions));
  byId("state").hidden = false;
}

const button = (text, onclick) => h("button", { type: "button", onclick }, text);

function leaveSearch() {
  found = null;
  byId("flights-title").textContent = "Departures by risk";
  byId("choose").hidden = false;
}

function showBoard() {
  leaveSearch();
  byId("summary").replaceChildren(...(board.flights.length ? list.summary(board) : []));
  show(board.flights, board);
  if (board.flights.length === 0) {
    const next = board.next_due_at;
    const text = next
      ? `The next is due at ${clock(next)} ${zoneName(next)} on ${day(next)}.`
      : "The schedule has none after that. Once more of it is landed and built (dbt build), it shows here.";
    showState(
      `No flight is due for its prediction from ${clock(board.from)} to ${clock(board.until)} ${zoneName(board.until)}`,
      text,
      ...(next && hours.value !== "12"
        ? [
            button("Look 12 hours ahead", () => {
              hours.value = "12";
              loadBoard();
            }),
          ]
        : []),
    );
  }
  byId("known").replaceChildren(
    h("span", {}, "As known at"),
    list.when(board.as_of, { zone: true, date: true, year: true }),
  );
  byId("foot").replaceChildren(...footer());
  if (!opened) showOverview();
}

function showOverview() {
  const width = Math.min(600, aside.clientWidth - 60);
  aside.replaceChildren(...(board?.flights.length ? [list.overview(board, width)] : []));
}

function footer() {
  return [
    h("p", {}, "Times are New York's; hover over one for UTC."),
    h(
      "p",
      {},
      "Model ",
      h("code", {}, board.model),
      board.snapshot && ", snapshot ",
      board.snapshot && h("code", {}, board.snapshot),
    ),
  ];
}

async function loadBoard({ quietly = false } = {}) {
  clearTimeout(timer);
  asking?.abort();
  asking = new AbortController();
  const { signal } = asking;
  const asked = quietly && board ? board.hours : hours.value;
  if (!quietly) {
    rows.setAttribute("aria-busy", "true");
    if (!board) {
      rows.replaceChildren(...list.skeleton());
      byId("state").hidden = true;
    }
  }
  try {
    const fresh = await api.board(asked, signal);
    const same =
      !board ||
      ["as_of", "snapshot", "model", "from", "until"].every((name) => board[name] === fresh[name]);
    const recovered = !byId("notice").hidden || !board;
    board = { ...fresh, hours: asked };
    notice(
      fresh.stale.length
        ? `Some features are too old to be used: ${fresh.stale.map(title).join(", ")}. The scores do without them.`
        : "",
    );
    split.classList.remove("old");
    if (!found && (!same || !quietly || recovered)) {
      showBoard();
      say(list.say(board));
    }
    if (opened && (!same || (recovered && aside.querySelector(".state"))))
      openFlight(opened, { again: true });
    timer = setTimeout(() => loadBoard({ quietly: true }), REFRESH_MS);
  } catch (error) {
    if (signal.aborted) return;
    boardFailed(error);
    timer = setTimeout(() => loadBoard({ quietly: true }), RETRY_MS);
  }
}

function askForKey(error) {
  const key = h("input", { type: "password", id: "key", autocomplete: "off", required: true });
  const form = h(
    "form",
    {
      class: "key",
      onsubmit: (event) => {
        event.preventDefault();
        api.useKey(key.value);
        loadBoard();
        if (opened) openFlight(opened);
      },
    },
    h("label", { for: "key" }, "Key"),
    key,
    h("button", { type: "submit" }, "Use it"),
  );
  showState(
    "This service asks for a key",
    `${error.message} It is kept until this tab is closed.`,
    form,
  );
  if (!opened) put();
}

const HEADINGS = {
  down: "The service does not answer",
  away: "The service cannot score just now",
  missing: "There is no such flight",
  refused: "That was not understood",
};
const headingOf = (error) => HEADINGS[error.kind] ?? "Something went wrong in the service";
const whyOf = (error) =>
  error.kind === "down" ? "It may be stopped, or the way to it is cut." : error.message;

function boardFailed(error) {
  if (error.kind === "locked") return askForKey(error);
  const heading = headingOf(error);
  if (board) {
    hours.value = board.hours;
    notice(
      `${heading}. ${whyOf(error)} What you see is its last answer, as known at ${clock(board.as_of)} ${zoneName(board.as_of)}. Trying again.`,
    );
    split.classList.add("old");
    rows.removeAttribute("aria-busy");
  } else {
    const now = new Date();
    showState(
      heading,
      `${whyOf(error)} No score is shown rather than a guess. Tried at ${clock(now)} ${zoneName(now)}, ` +
        `trying again every ${RETRY_MS / 1000} seconds.`,
      button("Try now", () => loadBoard()),
    );
    if (!opened) put();
  }
  say(`${heading}.`);
}

async function search() {
  const text = q.value.trim();
  asking?.abort();
  if (!text) {
    leaveSearch();
    if (board) {
      showBoard();
      say(list.say(board));
    }
    loadBoard({ quietly: Boolean(board) });
    return;
  }
  clearTimeout(timer);
  asking = new AbortController();
  const { signal } = asking;
  rows.setAttribute("aria-busy", "true");
  try {
    found = await api.find(text, signal);
    const flights = await api.scored(found.departures, signal).catch((error) => {
      if (signal.aborted) throw error;
      return found.departures; // without scores; a flight that is opened says why
    });
    byId("flights-title").textContent = "Departures found";
    byId("choose").hidden = true;
    const shown = flights.length < found.total ? `The first ${flights.length} of ` : "";
    byId("summary").replaceChildren(
      `${shown}${count(found.total, "departure")} for \u201c${text}\u201d from `,
      list.when(found.from, { date: true }),
      " to ",
      list.when(found.until, { date: true, zone: true }),
      ", by time.",
    );
    show(flights, {
      base_rate: board?.base_rate ?? 0,
      threshold: board?.threshold ?? 0,
      as_of: found.as_of,
    });
    if (!flights.some((flight) => flight.probability !== undefined)) byId("axis").hidden = true;
    if (flights.length === 0) {
      showState(
        `No departure fits \u201c${text}\u201d`,
        `Searched from ${day(found.from)} ${clock(found.from)} to ${day(found.until)} ${clock(found.until)} ${zoneName(found.until)}. ` +
          "Try a flight (B6 1318), an airport (BOS), a route (JFK BOS) or a time (17:45).",
        button("Back to the board", () => {
          q.value = "";
          search();
          q.focus();
        }),
      );
    }
    say(`${count(found.total, "departure")} found.`);
  } catch (error) {
    if (signal.aborted) return;
    found = { departures: [] };
    byId("flights-title").textContent = "Search";
    byId("choose").hidden = true;
    showState(
      headingOf(error),
      whyOf(error),
      ...(error.kind === "refused" ? [] : [button("Search again", search)]),
    );
    say(headingOf(error));
  }
}

// ---- a flight ----------------------------------------------------------------------------------

const rowOf = (id) => rows.querySelector(`[data-id="${CSS.escape(id)}"]`);

function markOpen() {
  const links = [...rows.querySelectorAll(".row")];
  for (const row of links) row.toggleAttribute("aria-current", false);
  const current = opened && rowOf(opened);
  current?.setAttribute("aria-current", "true");
  const stop = current || links.find((row) => row === document.activeElement) || links[0];
  for (const row of links) row.tabIndex = row === stop ? 0 : -1;
}

// What had the focus in the old content is gone: its heading has it then, in the new.
function put(...content) {
  const inside = aside.contains(document.activeElement);
  aside.replaceChildren(...content);
  if (inside) focusFlight();
}

const focusFlight = () => byId("flight-title")?.focus({ preventScroll: true });

async function openFlight(id, { again = false } = {}) {
  opening?.abort();
  opening = new AbortController();
  const { signal } = opening;
  opened = id;
  split.classList.add("open");
  markOpen();
  let flight = [...(board?.flights ?? []), ...(found?.departures ?? [])].find(
    (one) => one.flight_id === id,
  );
  if (!again) {
    put(detail.frame(flight, close, detail.waiting()));
    if (cameFrom) focusFlight();
    aside.scrollTop = 0;
    window.scrollTo({ top: narrow.matches ? 0 : window.scrollY });
  }
  const retry = button("Try again", () => openFlight(id));
  try {
    flight ??= await api.departure(id, signal);
    document.title = `${list.named(flight)} ${flight.origin}\u2013${flight.dest} \u00b7 Late arrivals`;
    const scored = await api.score(flight, signal);
    const known = await learn(scored.model);
    if (signal.aborted) return;
    put(
      detail.frame(
        flight,
        close,
        ...detail.verdict(flight, scored),
        detail.reasons(scored),
        detail.features(scored, known),
      ),
    );
    say(
      `${list.named(flight)}: ${Math.round(scored.probability * 100)} percent likely to be late, ${scored.flag ? "flagged" : "not flagged"}.`,
    );
  } catch (error) {
    if (signal.aborted) return;
    const heading = error.kind === "refused" ? "This flight has no score" : headingOf(error);
    put(
      detail.frame(
        flight,
        close,
        list.state(
          heading,
          whyOf(error),
          ...(["missing", "refused"].includes(error.kind) ? [] : [retry]),
        ),
      ),
    );
    say(heading);
  }
}

// What is known of a model's features; null if that cannot be had: then they are not shown.
async function learn(id) {
  if (model?.model !== id) model = await api.model().catch(() => null);
  return model;
}

function closeFlight() {
  opening?.abort();
  const was = opened;
  opened = null;
  split.classList.remove("open");
  document.title = "Late arrivals from New York";
  if (board) showOverview();
  else put();
  markOpen();
  if (was) (rowOf(was) ?? byId("flights-title")).focus();
}

// Close by going back where the list led here, so that the history does not fill with closings.
function close(event) {
  if (!cameFrom) return;
  event?.preventDefault();
  history.back();
}

function idIn(hash) {
  const written = /^#\/flight\/(.+)$/.exec(hash)?.[1];
  try {
    return written && decodeURIComponent(written);
  } catch {
    return written; // a link that was cut in the middle of a character: no flight has this id
  }
}

function route() {
  const id = idIn(location.hash);
  if (id) openFlight(id);
  else if (opened) closeFlight();
  if (!id) cameFrom = false;
}

// ---- keys --------------------------------------------------------------------------------------

function step(to) {
  const links = [...rows.querySelectorAll(".row")];
  if (links.length === 0) return;
  const at = links.indexOf(document.activeElement);
  const next = { first: 0, last: links.length - 1, down: at + 1, up: at - 1 }[to];
  if (next < 0) return void q.focus();
  const row = links[Math.min(next, links.length - 1)];
  for (const one of links) one.tabIndex = one === row ? 0 : -1;
  row.focus();
  row.scrollIntoView({ block: "nearest" });
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target === q;
  const inList = event.target.classList?.contains("row");
  const moves = { ArrowDown: "down", ArrowUp: "up", Home: "first", End: "last" };
  if (inList && moves[event.key]) {
    event.preventDefault();
    step(moves[event.key]);
  } else if (typing && event.key === "ArrowDown") {
    event.preventDefault();
    step("first");
  } else if (event.key === "/" && !event.target.matches("input, select")) {
    event.preventDefault();
    q.focus();
    q.select();
  } else if (event.key === "Escape" && opened) {
    event.preventDefault();
    if (cameFrom) history.back();
    else location.hash = "#/";
  } else if (event.key === "Escape" && typing && q.value) {
    event.preventDefault();
    q.value = "";
    search();
  }
});

// One step of history for however many flights are looked at: back leads to the list.
rows.addEventListener("click", (event) => {
  const row = event.target.closest(".row");
  if (!row || event.ctrlKey || event.metaKey || event.shiftKey) return;
  if (opened) {
    event.preventDefault();
    location.replace(row.href);
  } else {
    cameFrom = true;
  }
});

let pause = null;
q.addEventListener("input", () => {
  clearTimeout(pause);
  pause = setTimeout(search, TYPING_MS);
});
byId("search").addEventListener("submit", (event) => {
  event.preventDefault();
  clearTimeout(pause);
  search();
});
byId("skip").addEventListener("click", (event) => {
  event.preventDefault();
  (rows.querySelector(".row[tabindex='0']") ?? byId("flights-title")).focus();
});
hours.addEventListener("change", () => loadBoard());
window.addEventListener("hashchange", route);
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && !found) loadBoard({ quietly: true });
});

// ---- start -------------------------------------------------------------------------------------

put(detail.waiting());
loadBoard();
route();
