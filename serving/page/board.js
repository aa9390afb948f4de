// The list: the board of the next hours by risk, or what a search found, and their states.

import { h, s, unseen } from "./dom.js";
import { clock, count, day, percent, percentSpoken, utc, zoneName } from "./words.js";

export const link = (id) => `#/flight/${encodeURIComponent(id)}`;
export const named = (flight) => `${flight.carrier} ${flight.flight}`;

// An instant as New York's clock shows it, UTC on hover.
export const when = (at, { zone = false, date = false, year = false } = {}) =>
  h(
    "time",
    { datetime: at, title: utc(at) },
    [date && day(at, year), clock(at), zone && zoneName(at)].filter(Boolean).join(" "),
  );

// The scale from 0 to 100 % that everything on this page is drawn on.
function marks(scale) {
  return [
    h("i", { class: "base", style: { "--at": scale.base_rate } }),
    h("i", { class: "cut", style: { "--at": scale.threshold } }),
  ];
}

function lane(flight, scale) {
  const [low, high] = [flight.probability, scale.base_rate].sort((a, b) => a - b);
  return h(
    "span",
    { class: "lane", "aria-hidden": "true" },
    ...marks(scale),
    h("i", { class: "stem", style: { "--from": low, "--to": high } }),
    h("i", { class: "dot", style: { "--at": flight.probability } }),
  );
}

export const route = (flight) =>
  h("span", { class: "route" }, flight.origin, h("span", { class: "to" }, "\u2192"), flight.dest);

function row(flight, scale, today) {
  const scored = flight.probability !== undefined && flight.probability !== null;
  const departs = day(flight.sched_dep_at) === today ? "" : day(flight.sched_dep_at);
  const label = [
    `${named(flight)}, ${flight.origin} to ${flight.dest}`,
    `departs ${departs} ${clock(flight.sched_dep_at)}`.replace("  ", " "),
    scored ? `${percentSpoken(flight.probability)} likely to be late` : "no score",
    scored && (flight.flag ? "flagged" : "not flagged"),
    flight.early && "an early look",
  ]
    .filter(Boolean)
    .join(", ");
  return h(
    "li",
    {},
    h(
      "a",
      {
        class: ["row", flight.flag && "flag", flight.early && "early", !scored && "plain"]
          .filter(Boolean)
          .join(" "),
        href: link(flight.flight_id),
        "data-id": flight.flight_id,
        tabindex: "-1",
        "aria-label": label,
      },
      h("b", { class: "name" }, named(flight)),
      route(flight),
      h("span", { class: "dep" }, departs && h("small", {}, departs), when(flight.sched_dep_at)),
      scored ? lane(flight, scale) : h("span", { class: "lane none" }, "no score"),
      h("span", { class: "p" }, scored ? percent(flight.probability) : ""),
      h("span", { class: "mark" }, flight.flag && "flag"),
    ),
  );
}

export function rows(flights, scale) {
  const today = day(scale.as_of);
  return flights.map((flight) => row(flight, scale, today));
}

// What stands over the lanes: where the base rate and the threshold are.
export function axis(scale) {
  return [
    h(
      "span",
      { class: "lane" },
      h(
        "span",
        { class: "tick", style: { "--at": scale.threshold } },
        `flag from ${percent(scale.threshold)}`,
      ),
      h("span", { class: "tick edge1", style: { "--at": 1 } }, "100\u202f%"),
    ),
  ];
}

export function summary(board) {
  const flagged = board.flights.filter((flight) => flight.flag).length;
  return [
    h("b", {}, count(board.flights.length, "flight")),
    " predicted from ",
    when(board.from),
    " to ",
    when(board.until, { zone: true }),
    ", ",
    h("b", { class: "flagged" }, `${flagged} flagged`),
    ".",
  ];
}

export const skeleton = () =>
  Array.from({ length: 16 }, () =>
    h("li", { class: "bone", "aria-hidden": "true" }, h("span"), h("span"), h("span")),
  );

// A state of the list that has no rows: what is so, why, and what can be done.
export function state(heading, text, ...actions) {
  return h(
    "div",
    { class: "state" },
    h("h3", {}, heading),
    h("p", {}, text),
    actions.length > 0 && h("div", { class: "actions" }, ...actions),
  );
}

// What the other side shows while no flight is open: all flights on one scale, and how to read it.
export function overview(board, width) {
  const flights = board.flights;
  const late = (some) => some.reduce((sum, flight) => sum + flight.probability, 0);
  const airports = [...new Set(flights.map((flight) => flight.origin))].sort().map((origin) => {
    const of = flights.filter((flight) => flight.origin === origin);
    return h(
      "tr",
      {},
      h("th", { scope: "row" }, origin),
      h("td", {}, String(of.length)),
      h("td", {}, String(of.filter((flight) => flight.flag).length)),
      h("td", {}, late(of).toFixed(1)),
      h(
        "td",
        { class: "bar" },
        h(
          "div",
          {},
          h("i", { style: { "--at": late(of) / of.length } }),
          h("span", {}, percent(late(of) / of.length)),
        ),
      ),
    );
  });
  return h(
    "section",
    { class: "overview", "aria-labelledby": "all" },
    h(
      "h2",
      { id: "all" },
      `About ${Math.round(late(flights))} of ${count(flights.length, "flight")} are expected to be late`,
    ),
    h("p", {}, "The sum of their probabilities. Each dot is a flight."),
    swarm(flights, board, width),
    h(
      "div",
      { class: "scroll" },
      h(
        "table",
        {},
        h("caption", {}, unseen("The board by airport")),
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            h("th", { scope: "col" }, "Airport"),
            h("th", { scope: "col" }, "Flights"),
            h("th", { scope: "col" }, "Flagged"),
            h("th", { scope: "col" }, "Late, expected"),
            h("th", { scope: "col", class: "bar" }, "Mean risk"),
          ),
        ),
        h("tbody", {}, ...airports),
      ),
    ),
    h("h3", {}, "How to read the board"),
    h(
      "dl",
      { class: "legend" },
      sign("Dot", "lane", "dot"),
      h(
        "dd",
        {},
        "The probability of arriving 15 or more minutes late, if the flight is not cancelled or diverted.",
      ),
      sign("Hollow dot", "lane early", "dot"),
      h(
        "dd",
        {},
        "The same, as an early look: it is due for its prediction in more than an hour, when more will be known.",
      ),
      sign("Line", "lane", "base"),
      h(
        "dd",
        {},
        `The base rate: ${percent(board.base_rate)} of the flights the model learned from were late.`,
      ),
      sign("Dashed line", "lane", "cut"),
      h(
        "dd",
        {},
        `The decision: from ${percent(board.threshold)} on, acting on a flight costs less than it saves.`,
      ),
    ),
  );
}

const sign = (text, lane, mark) =>
  h(
    "dt",
    {},
    unseen(text),
    h(
      "span",
      { class: lane, "aria-hidden": "true" },
      h("i", { class: mark, style: { "--at": 0.5 } }),
    ),
  );

// Flights stacked by risk in columns. How many columns: so that the dots come out largest.
function stacked(flights, width, height) {
  const columns = [40, 60, 80, 100, 120, 150].map((bins) => {
    const stacks = Array.from({ length: bins }, () => []);
    for (const flight of [...flights].reverse()) {
      stacks[Math.min(bins - 1, Math.floor(flight.probability * bins))].push(flight);
    }
    const tallest = Math.max(...stacks.map((stack) => stack.length));
    return { bins, stacks, tallest, step: Math.min(width / bins, height / tallest, 11) };
  });
  return columns.reduce((best, one) => (one.step > best.step ? one : best));
}

function swarm(flights, scale, width) {
  const { bins, stacks, tallest, step } = stacked(flights, width, 190);
  const floor = Math.max(70, tallest * step) + 22;
  const x = (p) => p * width;
  const line = (p, kind) => s("line", { x1: x(p), x2: x(p), y1: 18, y2: floor, class: kind });
  const beside = (p, right, text) =>
    s("text", { x: x(p) + (right ? 6 : -6), y: 12, "text-anchor": right ? "start" : "end" }, text);
  const dots = stacks.flatMap((stack, bin) =>
    stack.map((flight, at) =>
      s(
        "circle",
        {
          cx: x((bin + 0.5) / bins),
          cy: floor - (at + 0.5) * step - 1,
          r: Math.max(1, step / 2 - 0.7),
          class: flight.flag ? "flag" : "",
        },
        s(
          "title",
          {},
          `${named(flight)} ${flight.origin} to ${flight.dest}: ${percent(flight.probability)}`,
        ),
      ),
    ),
  );
  const flagged = flights.filter((flight) => flight.flag).length;
  return s(
    "svg",
    {
      class: "swarm",
      viewBox: `-8 0 ${width + 16} ${floor + 24}`,
      role: "img",
      "aria-label":
        `Risks of ${flights.length} flights: ${flagged} at or above the threshold of ` +
        `${percentSpoken(scale.threshold)}, ${flights.length - flagged} below.`,
    },
    line(scale.base_rate, "base"),
    line(scale.threshold, "cut"),
    beside(
      scale.threshold,
      scale.threshold >= scale.base_rate,
      `flag from ${percent(scale.threshold)}`,
    ),
    beside(
      scale.base_rate,
      scale.threshold < scale.base_rate,
      `${x(scale.base_rate) < 95 ? "base" : "base rate"} ${percent(scale.base_rate)}`,
    ),
    s("line", { x1: 0, x2: width, y1: floor, y2: floor, class: "floor" }),
    ...dots,
    ...[0, 0.5, 1].map((p) =>
      s(
        "text",
        {
          x: x(p),
          y: floor + 17,
          "text-anchor": p === 0 ? "start" : p === 1 ? "end" : "middle",
        },
        `${p * 100}\u202f%`,
      ),
    ),
  );
}

export const say = (board) => {
  const flagged = board.flights.filter((flight) => flight.flag).length;
  return `${count(board.flights.length, "flight")}, ${flagged} flagged.`;
};
