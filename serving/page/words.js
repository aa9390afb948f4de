// Turns numbers and instants into what people read. Knows nothing of the page.

const NARROW = "\u202f"; // a space that does not break, between a number and its unit
const zones = new Map();

function inZone(zone, options) {
  const key = zone + JSON.stringify(options);
  if (!zones.has(key)) {
    zones.set(key, new Intl.DateTimeFormat("en-GB", { timeZone: zone, ...options }));
  }
  return zones.get(key);
}

// Flights leave New York, so that is whose clock everything is told in.
const ZONE = "America/New_York";

// "12:15"
export const clock = (at) =>
  inZone(ZONE, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" }).format(new Date(at));

// "EST" or "EDT", whichever holds at that instant
export function zoneName(at) {
  const parts = new Intl.DateTimeFormat("en-US", {
    timeZone: ZONE,
    timeZoneName: "short",
  }).formatToParts(new Date(at));
  return parts.find((part) => part.type === "timeZoneName").value;
}

// "Mon 30 Dec" or, with the year, "Mon 30 Dec 2013"
export function day(at, year = false) {
  const options = {
    weekday: "short",
    day: "numeric",
    month: "short",
    ...(year && { year: "numeric" }),
  };
  return inZone(ZONE, options).format(new Date(at)).replace(",", "");
}

// "2013-12-30 17:15 UTC", for titles
export const utc = (at) => `${new Date(at).toISOString().slice(0, 16).replace("T", " ")} UTC`;

// "99 %"; never 0 or 100, which no model may say
export function percent(p) {
  if (p > 0.99 && p < 1) return `>${NARROW}99${NARROW}%`;
  if (p < 0.01 && p > 0) return `<${NARROW}1${NARROW}%`;
  return `${Math.round(p * 100)}${NARROW}%`;
}

export function percentSpoken(p) {
  if (p > 0.99 && p < 1) return "more than 99 percent";
  if (p < 0.01 && p > 0) return "less than 1 percent";
  return `${Math.round(p * 100)} percent`;
}

// "12 min", "3 h 05", "2 days"
export function span(minutes) {
  const whole = Math.round(Math.abs(minutes));
  if (whole < 1) return "under 1\u202fmin";
  if (whole < 120) return `${whole}${NARROW}min`;
  const hours = Math.floor(whole / 60);
  const rest = whole % 60 ? `${NARROW}${String(whole % 60).padStart(2, "0")}` : "";
  if (hours < 48) return `${hours}${NARROW}h${rest}`;
  return `${Math.round(hours / 24)} days`;
}

export const count = (n, one, many = `${one}s`) =>
  `${n.toLocaleString("en-US")} ${n === 1 ? one : many}`;

const UNITS = {
  min: "min",
  mi: "mi",
  mph: "mph",
  f: "\u00b0F",
  in: "in",
  mb: "mb",
  pct: "%",
  years: "years",
};
const DAYS = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

// A feature's value as its name means it: features are named for their measure and unit.
export function value(name, raw) {
  if (raw === null || raw === undefined) return "unknown";
  if (typeof raw === "boolean") return raw ? "yes" : "no";
  if (typeof raw === "string" || /_year(_|$)/.test(name)) return String(raw);
  if (/_rate(_\d+[hd])?$/.test(name)) return `${Math.round(raw * 100)}${NARROW}%`;
  if (name === "weekday") return DAYS[raw] ?? String(raw);
  if (name === "local_hour") {
    const minutes = Math.round(raw * 60);
    return [Math.floor(minutes / 60), minutes % 60]
      .map((part) => String(part).padStart(2, "0"))
      .join(":");
  }
  const unit = UNITS[name.slice(name.lastIndexOf("_") + 1)];
  const digits = Math.abs(raw) >= 100 ? 0 : unit === "in" ? 2 : 1;
  const text = raw
    .toLocaleString("en-US", { maximumFractionDigits: digits })
    .replace("-", "\u2212");
  return unit ? `${text}${NARROW}${unit}` : text;
}

// What the service says begins small, to stand within a sentence; here it is one. A number stays
// on the line of its unit.
export function sentence(text) {
  const kept = text.replace(/(\d) (?=(?:°F|%|min|h|mi|mph|in|seats)\b|°F|%)/g, "$1\u00a0");
  return `${kept.charAt(0).toUpperCase()}${kept.slice(1)}${/[.!?]$/.test(kept) ? "" : "."}`;
}

// "airport_state" -> "Airport state"
export const title = (name) => name.charAt(0).toUpperCase() + name.slice(1).replaceAll("_", " ");
