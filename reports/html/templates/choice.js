// The state: what is chosen and what can be.


const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const palettes = Object.fromEntries(
  Object.entries(data.scales).map(([name, text]) => [name, fromBase64(text)]));
const photos = data.samples.map(({ same }, i) =>
  document.querySelector(`[data-sample="${i}"] img, img[data-partner="${same ?? i}"]`));
const byPlace = new Map(data.maps.map((map) => [map.at.join(), map]));
const chosen = {
  sample: 0, target: 0, method: 0, site: data.sites.length - 1, view: "picture",
  opacity: 0.8, sign: "both", scale: "auto", shared: false, ground: "grey", smooth: true, fade: true,
  foci: true, areas: true, wipe: 0.5, point: [0.5, 0.5, 0.5], boxes: true, least: 0.5, shape: null,
  order: "method", ticked: [], other: null,
};
let shown = null; // the map of the picture
let waiting = false;
let touched = false; // by the reader, so that the address is to be written again

function make(name, text = "", attributes = {}) {
  const element = document.createElement(name);
  element.textContent = text;
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

function short(value, digits = 4) {
  const size = Math.abs(value);
  const plain = value === 0 || (size >= 1e-3 && size < 1e6);
  const text = plain ? String(Number(value.toPrecision(digits))) : value.toExponential(digits - 1);
  return text.replaceAll("-", "−");
}

// Values of one dimension that have a map when the dimensions before it are fixed.
function available(dimension, ...fixed) {
  const order = ["sample", "target", "method", "site"];
  const slot = { sample: 0, target: 1, site: 2, method: 3 };
  const found = new Set();
  for (const map of data.maps) {
    if (order.slice(0, fixed.length).every((name, i) => map.at[slot[name]] === fixed[i])) {
      found.add(map.at[slot[dimension]]);
    }
  }
  return [...found].sort((a, b) => a - b);
}

function nearest(known, wanted) {
  return known.reduce((best, i) => (Math.abs(i - wanted) < Math.abs(best - wanted) ? i : best), known[0]);
}

// The nearest choice for which there is a map.
function settled() {
  const at = { ...chosen };
  at.targets = available("target", at.sample);
  at.target = at.targets.includes(at.target) ? at.target : at.targets[0];
  at.methods = available("method", at.sample, at.target);
  at.method = at.methods.includes(at.method) ? at.method : at.methods[0];
  at.sites = available("site", at.sample, at.target, at.method);
  at.site = nearest(at.sites, at.site);
  at.map = byPlace.get([at.sample, at.target, at.site, at.method].join());
  return at;
}
