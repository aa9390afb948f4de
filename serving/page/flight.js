// One flight: its probability against the base rate and the threshold, the decision, the reasons
// in words, and the features behind them with their ages.

import { h, unseen } from "./dom.js";
import { named, route, when } from "./board.js";
import { count, day, percent, percentSpoken, sentence, span, title, value } from "./words.js";

const LEAST_TOLD = 0.005; // log-odds: a hundredth of what a reason that counts adds
const THE_KEYS = "keys"; // the model's own name for features that are keys of the flight

export function frame(flight, close, ...body) {
  return h(
    "article",
    { class: "flight", "aria-labelledby": "flight-title" },
    h(
      "header",
      {},
      h(
        "a",
        { class: "close", href: "#/", onclick: close },
        h("span", { class: "narrow" }, "\u2190 All flights"),
        h("span", { class: "wide" }, "Close ", h("kbd", {}, "Esc")),
      ),
      h(
        "h2",
        { id: "flight-title", tabindex: "-1" },
        h("span", { class: "name" }, flight ? named(flight) : "Flight"),
        " ",
        flight && route(flight),
      ),
      flight && facts(flight),
    ),
    ...body,
  );
}

function facts(flight) {
  const fact = (term, ...what) => h("div", {}, h("dt", {}, term), h("dd", {}, ...what));
  return h(
    "dl",
    { class: "facts" },
    fact(
      "Departs",
      when(flight.sched_dep_at, { zone: true }),
      h("small", {}, day(flight.sched_dep_at, true)),
    ),
    fact(
      "Lands",
      when(flight.sched_arr_at, { zone: true }),
      h("small", {}, `${span(flight.block_min)} later, ${value("_mi", flight.distance_mi)}`),
    ),
    fact("Aircraft", flight.tailnum ?? h("span", { class: "soft" }, "not known yet")),
    fact(
      "Prediction due",
      when(flight.due_at, { zone: true }),
      h("small", {}, `${span(minutes(flight.due_at, flight.sched_dep_at))} before`),
    ),
  );
}

const minutes = (from, to) => (new Date(to) - new Date(from)) / 60_000;

export const waiting = () =>
  h("div", { class: "waiting", "aria-hidden": "true" }, h("span"), h("span"), h("span"));

export function verdict(flight, scored) {
  const { probability: p, flag, threshold, base_rate: base } = scored;
  return [
    h(
      "section",
      { class: `verdict ${flag ? "flag" : ""}`, "aria-label": "Probability and decision" },
      h(
        "p",
        { class: "big" },
        h("b", {}, percent(p)),
        h("span", {}, "likely to arrive 15 or more minutes late"),
      ),
      scale(p, base, threshold),
      h(
        "p",
        { class: "decision" },
        h("b", {}, flag ? "Flag it: " : "Let it be: "),
        `${flag ? "above" : "below"} the ${percent(threshold)} from which acting on a flight pays.`,
      ),
      h(
        "p",
        { class: "soft" },
        `${against(p, base)} Of 100 flights given this probability, about ${Math.round(p * 100)} are late.`,
      ),
      look(flight, scored),
    ),
  ];
}

// A prediction made much before, or after, the instant that the model is meant for.
function look(flight, scored) {
  const known = ["what is known at ", when(scored.as_of, { zone: true })];
  const due = when(flight.due_at, { zone: true });
  if (flight.early)
    return h(
      "p",
      { class: "note" },
      "An early look, with ",
      ...known,
      ". Its prediction is due at ",
      due,
      ", when more will be known.",
    );
  if (minutes(flight.due_at, scored.predict_at) >= 1)
    return h(
      "p",
      { class: "note" },
      "A late look, with ",
      ...known,
      ". Its prediction was due at ",
      due,
      ", with less known.",
    );
  return null;
}

function against(p, base) {
  const ratio = p / base;
  if (ratio > 0.87 && ratio < 1.15) return `About the base rate of ${percent(base)}.`;
  if (ratio >= 1.15) return `${ratio.toFixed(1)} times the base rate of ${percent(base)}.`;
  return `Below the base rate of ${percent(base)}.`;
}

function scale(p, base, threshold) {
  return h(
    "div",
    {
      class: "scale",
      role: "img",
      "aria-label":
        `On a scale from 0 to 100 percent: this flight ${percentSpoken(p)}, ` +
        `base rate ${percentSpoken(base)}, decision threshold ${percentSpoken(threshold)}.`,
    },
    h("span", { class: "tick above", style: { "--at": base } }, `base rate ${percent(base)}`),
    h(
      "div",
      { class: "track" },
      h("i", { class: "fill", style: { "--at": p } }),
      h("i", { class: "base", style: { "--at": base } }),
      h("i", { class: "cut", style: { "--at": threshold } }),
      h("i", { class: "dot", style: { "--at": p } }),
    ),
    h(
      "span",
      { class: "tick below", style: { "--at": threshold } },
      `flag from ${percent(threshold)}`,
    ),
    h("span", { class: "tick end" }, "100\u202f%"),
  );
}

export function reasons({ reasons: why }) {
  const found = [
    ...why.top,
    { text: "everything else together", contribution: why.rest, rest: true },
  ].filter((reason) => Math.abs(reason.contribution) >= LEAST_TOLD);
  const strongest = Math.max(...found.map((reason) => Math.abs(reason.contribution)));
  return h(
    "section",
    { class: "reasons", "aria-labelledby": "why" },
    h(
      "div",
      { class: "head" },
      h("h3", { id: "why" }, "Why"),
      h(
        "div",
        { class: "ends", "aria-hidden": "true" },
        h("span", {}, "\u2190 less"),
        h("span", {}, "more risk \u2192"),
      ),
    ),
    h(
      "ol",
      {},
      ...found.map((reason) => {
        const up = reason.contribution > 0;
        return h(
          "li",
          { class: [up ? "up" : "down", reason.rest && "rest"].filter(Boolean).join(" ") },
          h(
            "p",
            {},
            reason.title && h("span", { class: "what" }, reason.title),
            sentence(reason.text),
          ),
          h(
            "span",
            { class: "pull", "aria-hidden": "true" },
            h("i", { style: { "--w": Math.abs(reason.contribution) / strongest } }),
          ),
          h(
            "span",
            { class: "odds", title: `${signed(reason.contribution)} log-odds` },
            unseen(up ? "raises the risk, odds times " : "lowers the risk, odds divided by "),
            `${up ? "\u00d7" : "\u00f7"}${odds(Math.abs(reason.contribution))}`,
          ),
        );
      }),
    ),
    h(
      "p",
      { class: "help" },
      "Each number multiplies (\u00d7) or divides (\u00f7) the odds of being late; " +
        `from ${percent(probability(why.base))}, all together lead to ${percent(probability(why.log_odds))}. ` +
        "They tell what moved the model, not what causes a delay.",
    ),
  );
}

const probability = (logOdds) => 1 / (1 + Math.exp(-logOdds));
const signed = (number) => `${number < 0 ? "\u2212" : "+"}${Math.abs(number).toFixed(3)}`;

function odds(logOdds) {
  const ratio = Math.exp(logOdds);
  return ratio >= 9.95 ? ratio.toFixed(0) : ratio.toFixed(ratio < 1.095 ? 2 : 1);
}

// `known` is what /v1/model says of the features the model reads: view and description of each.
export function features(scored, known) {
  const groups = new Map();
  for (const { name, view, description } of known?.features ?? []) {
    if (!groups.has(view)) groups.set(view, []);
    groups.get(view).push({ name, description, value: scored.features[name] ?? null });
  }
  if (groups.size === 0) return null;
  const boxes = [...groups].map(([view, members]) => group(view, members, scored, known));
  const all = h(
    "button",
    {
      type: "button",
      class: "quiet",
      onclick: () => {
        const open = boxes.some((box) => !box.open);
        for (const box of boxes) box.open = open;
        all.textContent = open ? "Close all" : "Open all";
      },
    },
    "Open all",
  );
  return h(
    "section",
    { class: "features", "aria-labelledby": "told" },
    h(
      "div",
      { class: "head" },
      h("h3", { id: "told" }, `The ${count(known.features.length, "feature")} it was told`),
      all,
    ),
    ...boxes,
  );
}

function group(view, members, scored, known) {
  const missing = members.filter((feature) => feature.value === null).length;
  const ttl = known.ttl_min?.[view];
  const meaning = known.views[view]?.replace(/^One row per [^.]*\.\s*/, ""); // its grain, for modellers
  const about = [meaning, ttl && `Not used when older than ${span(ttl)}.`]
    .filter(Boolean)
    .join(" ");
  return h(
    "details",
    {},
    h(
      "summary",
      {},
      h(
        "span",
        { class: "view" },
        view === THE_KEYS ? "The flight itself" : title(view),
        " ",
        h("small", {}, missing ? `${members.length}, ${missing} unknown` : String(members.length)),
      ),
      h("span", { class: "age" }, age(view, scored.ages_min)),
    ),
    about && h("p", { class: "soft" }, about),
    h(
      "dl",
      {},
      ...members.map((feature) =>
        h(
          "div",
          {},
          h(
            "dt",
            {},
            h("code", {}, feature.name),
            feature.description && h("span", {}, feature.description),
          ),
          h(
            "dd",
            { class: feature.value === null ? "soft" : null },
            value(feature.name, feature.value),
          ),
        ),
      ),
    ),
  );
}

// How old the row of a view is. A view without rows is computed from the others and the request.
function age(view, ages) {
  if (view === THE_KEYS) return "";
  if (!(view in ages)) return "computed just now";
  return ages[view] === null ? "nothing recent" : `${span(ages[view])} old`;
}
