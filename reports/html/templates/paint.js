// From bytes to colours: decoding, sign, range, interpolation.

const NO_NUMBER = 255;
const LAST = 254;

function fromBase64(text) {
  return Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));
}

function valuesOf(map) {
  if (!map.values) {
    map.values = map.numbers ? Float64Array.from(map.numbers, (v) => v ?? NaN) : Float64Array.from(fromBase64(map.bytes), (code) =>
      code === NO_NUMBER ? NaN : map.base + code * map.step);
  }
  return map.values;
}

const SIGNS = {
  both: (v) => v,
  positive: (v) => (v < 0 ? 0 : v),
  negative: (v) => (v > 0 ? 0 : -v),
  absolute: Math.abs,
};

// The range of some maps after the sign is chosen; null when no map holds a number.
function limits(maps, sign) {
  const known = maps.filter((map) => map.range);
  if (!known.length) return null;
  const lo = Math.min(...known.map((map) => map.range[0]));
  const hi = Math.max(...known.map((map) => map.range[1]));
  const least = lo <= 0 && hi >= 0 ? 0 : Math.min(Math.abs(lo), Math.abs(hi));
  return {
    both: [lo, hi],
    positive: [Math.max(lo, 0), Math.max(hi, 0)],
    negative: [Math.max(-hi, 0), Math.max(-lo, 0)],
    absolute: [least, Math.max(Math.abs(lo), Math.abs(hi))],
  }[sign];
}

// The scale and the range it spans: a diverging one has zero in its middle.
function scaleOf(asked, found) {
  const [lo, hi] = found || [0, 0];
  const name = asked === "auto" ? (lo < 0 ? "diverging" : "sequential") : asked;
  if (name !== "diverging") return { name, lo, hi };
  const most = Math.max(Math.abs(lo), Math.abs(hi));
  return { name, lo: -most, hi: most };
}

function stepOf(value, scale) {
  const width = scale.hi - scale.lo;
  if (!(width > 0)) return scale.name === "diverging" ? LAST / 2 : 0;
  return Math.round(Math.min(1, Math.max(0, (value - scale.lo) / width)) * LAST);
}

// For each of `target` pixels the two neighbours among `source` and the weight of the second.
function neighbours(source, target, smooth) {
  const first = new Int32Array(target);
  const second = new Int32Array(target);
  const weight = new Float64Array(target);
  for (let i = 0; i < target; i += 1) {
    const at = ((i + 0.5) * source) / target;
    const low = smooth ? Math.floor(at - 0.5) : Math.floor(at);
    first[i] = Math.min(Math.max(low, 0), source - 1);
    second[i] = smooth ? Math.min(Math.max(low + 1, 0), source - 1) : first[i];
    weight[i] = smooth ? at - 0.5 - low : 0;
  }
  return { first, second, weight };
}

// The step of the palette for a value's step, and how much of it to lay over the ground: over a
// photo weak values let it shine through, behind a line they leave the page as it is.
function colourAndCover(step, look) {
  if (!look.fade) return [step, 255];
  const middle = LAST / 2;
  const diverging = look.scale.name === "diverging";
  const strength = diverging ? Math.abs(step - middle) / middle : step / LAST;
  if (!look.tint) return [step, Math.round(255 * (0.22 + 0.78 * Math.sqrt(strength)))];
  const tint = diverging ? middle + Math.sign(step - middle) * 100 : 152;
  return [tint, Math.round(255 * strength ** 0.75)];
}

// A canvas of the map in colours; what is no number stays clear.
function paintMap(map, look, palette, width, height) {
  const [rows, columns] = map.size;
  const values = valuesOf(map).map(SIGNS[look.sign]);
  const across = neighbours(columns, width, look.smooth);
  const down = neighbours(rows, height, look.smooth);
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  for (let y = 0, at = 0; y < height; y += 1) {
    const upper = down.first[y] * columns;
    const lower = down.second[y] * columns;
    const v = down.weight[y];
    for (let x = 0; x < width; x += 1, at += 4) {
      const left = across.first[x];
      const right = across.second[x];
      const u = across.weight[x];
      let value =
        (values[upper + left] * (1 - u) + values[upper + right] * u) * (1 - v) +
        (values[lower + left] * (1 - u) + values[lower + right] * u) * v;
      if (Number.isNaN(value)) value = values[(v < 0.5 ? upper : lower) + (u < 0.5 ? left : right)];
      if (Number.isNaN(value)) continue;
      const [step, cover] = colourAndCover(stepOf(value, look.scale), look);
      image.data[at] = palette[step * 3];
      image.data[at + 1] = palette[step * 3 + 1];
      image.data[at + 2] = palette[step * 3 + 2];
      image.data[at + 3] = cover;
    }
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

// Where a map lies in a picture of `width` x `height`: top, left, bottom, right.
function boxOf(map, width, height) {
  const box = map.extent.length === 4 ? map.extent : [0, 0, height, width];
  return { y: box[0], x: box[1], height: box[2] - box[0], width: box[3] - box[1] };
}

// A line in the accent colour, a dark halo around it.
function strokeTwice(context, path, thin) {
  const colour = getComputedStyle(document.documentElement).getPropertyValue("--outline").trim();
  context.lineCap = "round";
  for (const [stroke, width] of [["rgb(0 0 0 / .8)", thin * 2], [colour, thin]]) {
    context.strokeStyle = stroke;
    context.lineWidth = width;
    context.stroke(path);
  }
}

// The edges between cells of `box` that differ: differs(y, x, y and x of the cell before).
function drawEdges(context, [rows, columns], box, differs) {
  const across = (x) => box.x + (x / columns) * box.width;
  const down = (y) => box.y + (y / rows) * box.height;
  const path = new Path2D();
  const edge = (x, y, toX, toY) => {
    path.moveTo(across(x), down(y));
    path.lineTo(across(toX), down(toY));
  };
  for (let y = 0; y <= rows; y += 1) {
    for (let x = 0; x <= columns; x += 1) {
      if (differs(y, x, y - 1, x)) edge(x, y, x + 1, y);
      if (differs(y, x, y, x - 1)) edge(x, y, x, y + 1);
    }
  }
  strokeTwice(context, path, Math.max(1.5, Math.max(box.width, box.height) / 280));
}

// The boundary of the foci along the edges of the map's cells, between `box` on the canvas.
function drawFoci(context, map, box) {
  const [rows, columns] = map.size;
  const bits = fromBase64(map.foci);
  const inside = (y, x) => {
    if (y < 0 || x < 0 || y >= rows || x >= columns) return false;
    const at = y * columns + x;
    return Boolean((bits[at >> 3] >> (7 - (at & 7))) & 1);
  };
  drawEdges(context, map.size, box, (y, x, yy, xx) => inside(y, x) !== inside(yy, xx));
}

// Maps of one row, and of channels, are drawn as strips where they are small.
const STRIPS = ["tokens", "series", "bars"];

// Ground and map on one canvas whose longer side has `side` pixels at least.
function drawOver(canvas, ground, map, look, palette, side) {
  const over = ground && map.kind === "image";
  const [rows, columns] = map.size;
  const bare = map.kind === "image" ? boxOf(map, columns, rows) : { width: columns, height: rows };
  const width = over ? ground.width : bare.width;
  const height = over ? ground.height : STRIPS.includes(map.kind) ? Math.max(1, columns / 4) : bare.height;
  const scale = side / Math.max(width, height, 1);
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  if (!rows || !columns) return;
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  if (over) ground.paint(context, canvas.width, canvas.height);
  const box = over ? boxOf(map, width, height) : { x: 0, y: 0, width, height };
  const w = Math.max(1, Math.round(box.width * scale));
  const h = Math.max(1, Math.round(box.height * scale));
  const how = { ...look, smooth: look.smooth && map.kind === "image", fade: look.fade && (over || look.tint) };
  context.globalAlpha = over ? look.opacity : 1;
  context.drawImage(paintMap(map, how, palette, w, h), Math.round(box.x * scale), Math.round(box.y * scale));
  context.globalAlpha = 1;
  const place = { x: Math.round(box.x * scale), y: Math.round(box.y * scale), width: w, height: h };
  if (map.foci && look.foci) drawFoci(context, map, place);
  if (over && look.areas) drawAreas(context, map.at[0], { x: 0, y: 0, width: canvas.width, height: canvas.height });
  if (over && look.shapes) drawShapes(context, map, ground.width);
}
