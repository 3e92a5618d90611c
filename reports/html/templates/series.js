// A series: a line for each channel, and behind it a band in the colours of the map.

const GUTTER = 70;
const HEAD = 18;
const FOOT = 34;
const NO_CODE = 65535;
const SVG = document.querySelector("svg").namespaceURI;
let cursor = null; // the step and the channel that are pointed at
let charted = null; // the series that is drawn, and where

// The numbers of a series; without them the map is its own series.
function seriesOf(map) {
  const { drawn } = data.samples[map.at[0]];
  if (drawn?.kind !== "series") {
    const [channels, steps] = map.size;
    const values = valuesOf(map);
    const rows = Array.from({ length: channels }, (_, c) => values.subarray(c * steps, (c + 1) * steps));
    return { rows, names: [], steps: map.extent.at(-1) ?? steps, every: (map.extent.at(-1) ?? steps) / steps, bare: true };
  }
  if (!drawn.rows) {
    const codes = new Uint16Array(fromBase64(drawn.bytes).buffer);
    const kept = codes.length / drawn.size[0];
    drawn.rows = drawn.base.map((base, c) => Float64Array.from(codes.subarray(c * kept, (c + 1) * kept),
      (code) => (code === NO_CODE ? NaN : base + code * drawn.step[c])));
  }
  return { rows: drawn.rows, names: drawn.names, steps: drawn.size[1], every: drawn.every, bare: false };
}

function channelName(series, c) {
  if (series.names[c]) return series.names[c];
  return series.rows.length > 1 ? `channel ${c}` : "";
}

function draw(name, attributes = {}, text = "") {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.textContent = text;
  return element;
}

function ends(row) {
  let [lo, hi] = [Infinity, -Infinity];
  for (const v of row) {
    if (v < lo) lo = v;
    if (v > hi) hi = v;
  }
  return lo <= hi ? [lo, hi] : null;
}

// A path through the values; where there are many to a pixel, from the least to the greatest.
function pathOf(row, series, place, [lo, hi], height) {
  const up = (v) => (hi > lo ? ((hi - v) / (hi - lo)) * height : height / 2).toFixed(1);
  const every = series.every;
  const last = place.left + place.width;
  const across = (i) => Math.min(last, place.left + ((i + 0.5) * every * place.width) / series.steps);
  const columns = Math.round(place.width);
  const parts = [];
  let pen = "M";
  if (row.length <= 2 * columns) {
    row.forEach((v, i) => {
      if (Number.isNaN(v)) pen = "M";
      else {
        parts.push(`${pen}${across(i).toFixed(1)} ${up(v)}`);
        pen = "L";
      }
    });
    return parts.join("");
  }
  for (let x = 0; x < columns; x += 1) {
    const found = ends(row.subarray(Math.floor((x * row.length) / columns), Math.ceil(((x + 1) * row.length) / columns)));
    if (found) parts.push(`${pen}${(place.left + x + 0.5).toFixed(1)} ${up(found[0])}V${up(found[1])}`);
    pen = found ? "L" : "M";
  }
  return parts.join("");
}

function roundSteps(count, most) {
  const rough = count / most;
  const unit = 10 ** Math.floor(Math.log10(Math.max(rough, 1)));
  const step = [1, 2, 5, 10].map((m) => m * unit).find((s) => s >= rough);
  return Array.from({ length: Math.floor((count - 1) / step) + 1 }, (_, i) => i * step);
}

// From where to where a map lies along the steps.
function spanOf(map, series) {
  const [start, end] = map.extent.length === 2 ? map.extent : [0, series.steps];
  return { start, length: end - start };
}

// Values in fewer places, in each the strongest.
function strongest(values, count) {
  if (values.length <= count) return values;
  const kept = new Float64Array(count).fill(NaN);
  values.forEach((v, i) => {
    const at = Math.floor((i * count) / values.length);
    if (!(Math.abs(v) <= Math.abs(kept[at])) && !Number.isNaN(v)) kept[at] = v;
  });
  return kept;
}

// A map over a series with at most so many places, in each the strongest value.
function shorter(map, count) {
  const [rows, columns] = map.size;
  if (columns <= count) return map;
  const values = new Float64Array(rows * count);
  for (let c = 0; c < rows; c += 1) {
    values.set(strongest(valuesOf(map).subarray(c * columns, (c + 1) * columns), count), c * count);
  }
  return { ...map, size: [rows, count], values };
}

// The band of a channel: its own row of the map, or the only one.
function band(map, c, look, series, place) {
  const [rows, columns] = map.size;
  const row = rows > 1 ? c : 0;
  const { start, length } = spanOf(map, series);
  const wide = Math.round(place.width);
  const signed = valuesOf(map).subarray(row * columns, (row + 1) * columns).map(SIGNS[look.sign]);
  const values = strongest(signed, wide);
  const part = { size: [1, values.length], values };
  const how = { ...look, sign: "both" };
  const strip = paintMap(part, how, palettes[look.scale.name], look.smooth ? wide : values.length, 1);
  return draw("image", {
    href: strip.toDataURL("image/png"), preserveAspectRatio: "none", opacity: look.opacity,
    x: place.left + (start / series.steps) * place.width, width: (length / series.steps) * place.width,
    y: 0, height: place.height, class: look.smooth ? "" : "crisp",
  });
}

function placeOfSeries(count) {
  const width = Math.max(260, Math.round($("chart").clientWidth) || 800);
  const height = Math.max(46, Math.min(260, Math.round(440 / count) - HEAD));
  return { left: GUTTER, width: width - GUTTER - 14, height, whole: width };
}

function drawChannel(map, c, look, series, place) {
  const row = series.rows[c];
  const range = ends(row);
  const group = draw("g", { transform: `translate(0 ${c * (place.height + HEAD) + HEAD})` });
  const name = channelName(series, c);
  if (name) group.append(draw("text", { x: place.left, y: -5, class: "channel" }, name));
  group.append(band(map, c, look, series, place));
  group.append(draw("rect", { x: place.left, width: place.width, y: 0, height: place.height, class: "frame" }));
  if (!range) return group;
  const inset = draw("g", { transform: "translate(0 5)" });
  const path = pathOf(row, series, place, range, place.height - 10);
  inset.append(draw("path", { d: path, class: "halo-line" }), draw("path", { d: path, class: "signal" }));
  group.append(inset);
  const lines = range[0] === range[1] ? [[range[0], place.height / 2 + 4]] : [[range[1], 11], [range[0], place.height - 2]];
  const tidy = (v) => (Math.abs(v) < 1e-6 * (range[1] - range[0]) ? 0 : v);
  for (const [v, y] of lines) group.append(draw("text", { x: place.left - 8, y, class: "value" }, short(tidy(v), 3)));
  return group;
}

function showSeries(map) {
  const series = seriesOf(map);
  const look = lookOf(map);
  const count = series.rows.length;
  const place = placeOfSeries(count);
  const bottom = count * (place.height + HEAD);
  charted = { series, place };
  const svg = draw("svg", { viewBox: `0 0 ${place.whole} ${bottom + FOOT}`, role: "img", "aria-label": describe(map) });
  for (let c = 0; c < count; c += 1) svg.append(drawChannel(map, c, look, series, place));
  const at = (step) => place.left + ((step + 0.5) / series.steps) * place.width;
  for (const step of roundSteps(series.steps, Math.max(2, Math.floor(place.width / 90)))) {
    svg.append(draw("line", { x1: at(step), x2: at(step), y1: bottom, y2: bottom + 5, class: "tick" }));
    svg.append(draw("text", { x: at(step), y: bottom + 20, class: "step" }, String(step)));
  }
  svg.append(draw("text", { x: place.left - 8, y: bottom + 20, class: "value" }, "step"));
  svg.append(draw("line", { y1: HEAD, y2: bottom, class: "cursor", visibility: "hidden" }));
  $("chart").replaceChildren(svg);
}

// Read the step and the channel under a point of the chart.
function pointAtSeries(map, event) {
  const { series, place } = charted;
  const count = series.rows.length;
  const frame = $("chart").firstElementChild.getBoundingClientRect();
  const scale = place.whole / frame.width;
  const x = ((event.clientX - frame.left) * scale - place.left) / place.width;
  const y = ((event.clientY - frame.top) * scale) / (place.height + HEAD);
  if (x < 0 || x >= 1 || y < 0 || y >= count) return setCursor(map, null);
  return setCursor(map, { step: Math.floor(x * series.steps), channel: Math.floor(y) });
}

function moveCursor(map, steps, channels) {
  const { series } = charted;
  const from = cursor ?? { step: steps > 0 ? -1 : series.steps, channel: 0 };
  const clip = (v, most) => Math.min(Math.max(v, 0), most - 1);
  setCursor(map, {
    step: clip(cursor || steps ? from.step + steps : 0, series.steps),
    channel: clip(from.channel + channels, series.rows.length),
  });
}

function setCursor(map, to) {
  cursor = to;
  const line = $("chart").querySelector(".cursor");
  line.setAttribute("visibility", to ? "visible" : "hidden");
  if (!to) return readOut(null);
  const { series, place } = charted;
  const x = place.left + ((to.step + 0.5) / series.steps) * place.width;
  line.setAttribute("x1", x);
  line.setAttribute("x2", x);
  return say(wordsOfStep(series, to), valueAtStep(map, series, to));
}

function valueAtStep(map, series, { step, channel }) {
  const [rows, columns] = map.size;
  const { start, length } = spanOf(map, series);
  const at = Math.floor(((step + 0.5 - start) / length) * columns);
  return at < 0 || at >= columns ? NaN : valuesOf(map)[(rows > 1 ? channel : 0) * columns + at];
}

// Where the cursor is, and what the series is there: of a long one the range of the steps around.
function wordsOfStep(series, { step, channel }) {
  const name = channelName(series, channel);
  if (series.bare) return `Step ${step}${name ? `, ${name}` : ""}`;
  const row = series.rows[channel];
  const known = (v) => (Number.isNaN(v) ? "no number" : short(v));
  const of = name || "value";
  if (series.every === 1) return `Step ${step}, ${of} ${known(row[step])}`;
  const run = Math.floor(step / (2 * series.every));
  const to = Math.min((run + 1) * 2 * series.every, series.steps) - 1;
  const [lo, hi] = [row[2 * run], row[2 * run + 1]];
  return `Steps ${run * 2 * series.every} to ${to}, ${of} ${known(lo)} to ${known(hi)}`;
}
