// A volume: a slice across it and the two planes that stand on the slice, through one point.

const GAP = 0.025; // between the planes, as a share of the longest side
const PLANES = { across: [0, 1, 2], upright: [2, 1, 0], level: [1, 0, 2] }; // fixed, rows, columns

function volumeOf(map) {
  const { drawn } = data.samples[map.at[0]];
  if (drawn?.kind !== "volume") return { size: map.shape.slice(-3), pixels: null };
  drawn.pixels = drawn.pixels ?? fromBase64(drawn.bytes);
  return drawn;
}

// The index along an axis of `n` places that the point lies in.
function indexOf(axis, n) {
  return Math.min(n - 1, Math.floor(chosen.point[axis] * n));
}

function strides([, rows, columns]) {
  return [rows * columns, columns, 1];
}

// A slice of values with three axes, in the form of a map.
function sliceOf(values, size, plane) {
  const [fixed, down, right] = PLANES[plane];
  const stride = strides(size);
  const from = indexOf(fixed, size[fixed]) * stride[fixed];
  const cut = new Float64Array(size[down] * size[right]);
  for (let y = 0, at = 0; y < size[down]; y += 1) {
    for (let x = 0; x < size[right]; x += 1, at += 1) cut[at] = values[from + y * stride[down] + x * stride[right]];
  }
  return { size: [size[down], size[right]], values: cut };
}

// A slice of the volume itself, in grey or colour; null where only the map is known.
function sliceGround(sample, plane) {
  const volume = volumeOf({ at: [sample], shape: [1, 1, 1] });
  if (!volume.pixels) return null;
  const { pixels, kept, channels } = volume;
  const [fixed, down, right] = PLANES[plane];
  const stride = strides(kept);
  const from = indexOf(fixed, kept[fixed]) * stride[fixed];
  const canvas = document.createElement("canvas");
  canvas.width = kept[right];
  canvas.height = kept[down];
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  for (let y = 0, to = 0; y < kept[down]; y += 1) {
    for (let x = 0; x < kept[right]; x += 1, to += 4) {
      const at = (from + y * stride[down] + x * stride[right]) * channels;
      for (let c = 0; c < 3; c += 1) image.data[to + c] = pixels[at + (channels === 3 ? c : 0)];
      image.data[to + 3] = 255;
    }
  }
  context.putImageData(image, 0, 0);
  const inColour = (under, w, h) => under.drawImage(canvas, 0, 0, w, h);
  return groundAsChosen(volume.size[right], volume.size[down], inColour);
}

// A map over a volume as one over a plane of it.
function mapOfPlane(map, plane) {
  const [, down, right] = PLANES[plane];
  const whole = volumeOf(map).size;
  const box = map.extent.length === 6 ? map.extent : [0, 0, 0, ...whole];
  const extent = [box[down], box[right], box[down + 3], box[right + 3]];
  return { ...map, ...sliceOf(valuesOf(map), map.size, plane), kind: "image", extent, foci: undefined };
}

// Where the planes lie; a side that is much shorter than the others is stretched.
function arrangement(map) {
  const [z, y, x] = volumeOf(map).size;
  const deep = Math.max(z, 0.3 * Math.max(y, x));
  const gap = GAP * Math.max(y, x, deep);
  const places = {
    across: { x: 0, y: 0, width: x, height: y },
    upright: { x: x + gap, y: 0, width: deep, height: y },
    level: { x: 0, y: y + gap, width: x, height: deep },
  };
  return { width: x + gap + deep, height: y + gap + deep, places };
}

function showVolume(map) {
  const canvas = $("picture");
  const look = lookOf(map);
  const { width, height, places } = arrangement(map);
  const scale = 800 / Math.max(width, height);
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const context = canvas.getContext("2d");
  for (const [plane, place] of Object.entries(places)) {
    const part = document.createElement("canvas");
    drawOver(part, sliceGround(map.at[0], plane), mapOfPlane(map, plane), look, palettes[look.scale.name], 560);
    context.drawImage(part, place.x * scale, place.y * scale, place.width * scale, place.height * scale);
    drawCross(context, plane, place, scale, volumeOf(map).size);
  }
  canvas.setAttribute("aria-label", describe(map));
  fillSlices(map);
  readOut(null);
}

// Lines through the point, open around it.
function drawCross(context, plane, place, scale, size) {
  const [, down, right] = PLANES[plane];
  const middle = (axis) => (indexOf(axis, size[axis]) + 0.5) / size[axis];
  const [left, top, width, height] = [place.x, place.y, place.width, place.height].map((v) => v * scale);
  const [x, y] = [left + middle(right) * width, top + middle(down) * height];
  const open = 9;
  const path = new Path2D();
  for (const [fromX, fromY, toX, toY] of [
    [left, y, x - open, y], [x + open, y, left + width, y], [x, top, x, y - open], [x, y + open, x, top + height],
  ]) {
    if (toX < fromX || toY < fromY) continue;
    path.moveTo(fromX, fromY);
    path.lineTo(toX, toY);
  }
  strokeTwice(context, path, 1);
}

function axesOfVolume(map) {
  return map.axes.split(" ").slice(-3);
}

function fillSlices(map) {
  const [z] = volumeOf(map).size;
  const [name] = axesOfVolume(map);
  $("slices").querySelector("label").textContent = name === "t" ? "Frame" : "Slice";
  $("slice").max = String(z - 1);
  $("slice").value = String(indexOf(0, z));
  $("sliced").textContent = `${name} ${indexOf(0, z)} of ${z}`;
}

// The point of the volume under a point of the picture, in shares of each side; null beside it.
function pointInVolume(map, x, y) {
  const { width, height, places } = arrangement(map);
  for (const [plane, place] of Object.entries(places)) {
    const [, down, right] = PLANES[plane];
    const u = (x * width - place.x) / place.width;
    const v = (y * height - place.y) / place.height;
    if (u >= 0 && v >= 0 && u < 1 && v < 1) {
      const point = [...chosen.point];
      point[right] = u;
      point[down] = v;
      return point;
    }
  }
  return null;
}

// What is read at a point: the place in the volume, the map's own value.
function readVolume(map, point) {
  const volume = volumeOf(map).size;
  const index = (n, axis) => Math.min(n - 1, Math.floor(point[axis] * n));
  const box = map.extent.length === 6 ? map.extent : [0, 0, 0, ...volume];
  const stride = strides(map.size);
  let at = 0;
  for (let axis = 0; axis < 3; axis += 1) {
    const share = (point[axis] * volume[axis] - box[axis]) / (box[axis + 3] - box[axis]);
    at += share < 0 || share >= 1 ? NaN : Math.floor(share * map.size[axis]) * stride[axis];
  }
  const words = axesOfVolume(map).map((name, axis) => `${name} ${index(volume[axis], axis)}`).join(", ");
  say(words, valuesOf(map)[at] ?? NaN);
}

function movePoint(map, axis, by) {
  const n = volumeOf(map).size[axis];
  const point = [...chosen.point];
  point[axis] = (Math.min(Math.max(indexOf(axis, n) + by, 0), n - 1) + 0.5) / n;
  choose({ point });
}
