// The address keeps what is chosen, by names, so that opening it again shows the same.

const of = (known) => ({ write: (i) => known[i], read: (text) => known.indexOf(text), valid: (i) => i >= 0 });
const number = (lo, hi) => ({ write: (v) => String(Number(v.toFixed(3))), read: Number, valid: (v) => v >= lo && v <= hi });
const flag = { write: (on) => (on ? "yes" : "no"), read: (text) => ({ yes: true, no: false })[text], valid: (on) => on !== undefined };
const among = (...known) => ({ write: (v) => v, read: (v) => v, valid: (v) => known.includes(v) });
const listed = (id) => among(...[...$(id).options].map((option) => option.value));
const point = {
  write: (shares) => shares.map((v) => Number(v.toFixed(3))).join(" "),
  read: (text) => text.split(" ").map(Number),
  valid: (shares) => shares.length === 3 && shares.every((v) => v >= 0 && v < 1),
};
const other = {
  write: ([target, site, method]) => JSON.stringify([data.targets[target], data.sites[site], data.methods[method]]),
  read: (text) => [data.targets, data.sites, data.methods].map((known, i) => known.indexOf(parsed(text)[i])),
  valid: (places) => places.every((i) => i >= 0),
};

function parsed(text) {
  try {
    return JSON.parse(text) ?? [];
  } catch {
    return [];
  }
}

// What of the choice is kept: its name in the address, its name here, and how it is written.
const KEPT = {
  sample: ["sample", of(data.samples.map(({ name }) => name))],
  target: ["target", of(data.targets)],
  method: ["method", of(data.methods)],
  layer: ["site", of(data.sites)],
  view: ["view", among("picture", "grid", "compare")],
  beside: ["other", other],
  rows: ["order", listed("order")],
  sign: ["sign", listed("sign")],
  colours: ["scale", listed("scale")],
  photo: ["ground", listed("ground")],
  opacity: ["opacity", number(0, 1)],
  output: ["wipe", number(0, 1)],
  from: ["least", number(-Infinity, Infinity)],
  point: ["point", point],
  ...Object.fromEntries(["shared", "smooth", "fade", "foci", "areas", "boxes"].map((id) => [id, [id, flag]])),
};
const ALWAYS = ["sample", "target", "method", "layer", "view"];
const atFirst = { ...chosen };

function stateInWords() {
  const words = new URLSearchParams();
  const now = { ...chosen, ...settled() };
  for (const [name, [key, form]] of Object.entries(KEPT)) {
    const value = now[key];
    const same = JSON.stringify(value) === JSON.stringify(atFirst[key]);
    if (value !== null && value !== undefined && (ALWAYS.includes(name) || !same)) words.set(name, form.write(value));
  }
  return words.toString();
}

// Without a new entry in the history; where a page has no address of its own, nothing is kept.
function keepState() {
  try {
    history.replaceState(null, "", `#${stateInWords()}`);
  } catch (error) {
    if (error.name !== "SecurityError") throw error;
  }
}

// What the address asks for; what is not on this page is said and left as it is.
function restoreState() {
  const text = location.hash.slice(1);
  if (!text.includes("=")) return {};
  const change = {};
  const unknown = [];
  for (const [name, word] of new URLSearchParams(text)) {
    const [key, form] = KEPT[name] ?? [];
    const value = form?.read(word);
    if (form?.valid(value)) change[key] = value;
    else unknown.push(`${name} “${word}”`);
  }
  tell(unknown.length ? `The address asks for ${unknown.join(", ")}, which this page does not have.` : "");
  return change;
}

function tell(words) {
  $("told").textContent = words;
}
