// What lies under a map: a photo and what the model makes of it, or a slice of a volume.

const restored = data.samples.map((_, i) => document.querySelector(`[data-restored="${i}"]`));

// The ground of a map: its size, and how it is painted into `width` x `height`. Null for none.
function groundOf(map) {
  const sample = map.at[0];
  if (map.kind === "volume") return sliceGround(sample, "across");
  return map.kind === "image" && photos[sample] ? photoGround(photos[sample], restored[sample]) : null;
}

function photoGround(photo, made) {
  const { naturalWidth: width, naturalHeight: height } = photo;
  return groundAsChosen(width, height, (context, w, h) => {
    context.drawImage(photo, 0, 0, w, h);
    if (made) paintBeside(context, made, w, h);
  });
}

// In colour, in grey so that all colours are the map's, or not at all.
function groundAsChosen(width, height, inColour) {
  const paint = (context, w, h) => {
    if (chosen.ground === "none") return;
    inColour(context, w, h);
    if (chosen.ground === "grey") greyOut(context, w, h);
  };
  return { width, height, paint };
}

function greyOut(context, w, h) {
  context.save();
  context.globalCompositeOperation = "saturation";
  context.fillStyle = "#808080";
  context.fillRect(0, 0, w, h);
  context.restore();
}

// The restored picture to the right of a line that the reader moves.
function paintBeside(context, made, w, h) {
  const from = Math.round(chosen.wipe * w);
  if (from >= w) return;
  context.save();
  context.beginPath();
  context.rect(from, 0, w - from, h);
  context.clip();
  context.drawImage(made, 0, 0, w, h);
  context.restore();
  context.fillStyle = "#fff";
  if (from > 0) context.fillRect(from - 1, 0, 2, h);
}

// The class at each place of a photo, row by row.
function areasOf(sample) {
  const { areas } = data.samples[sample];
  if (areas && !areas.places) {
    const runs = new Uint32Array(fromBase64(areas.runs).buffer);
    areas.places = new Uint16Array(areas.size[0] * areas.size[1]);
    for (let i = 0, at = 0; i < runs.length; i += 2) {
      areas.places.fill(runs[i], at, at + runs[i + 1]);
      at += runs[i + 1];
    }
  }
  return areas;
}

// The class under a point that is given in shares of the photo.
function areaAt(sample, x, y) {
  const areas = areasOf(sample);
  const [rows, columns] = areas.size;
  const at = Math.floor(y * rows) * columns + Math.floor(x * columns);
  return areas.classes[areas.places[at]][0];
}

function drawAreas(context, sample, box) {
  const { size, places } = areasOf(sample);
  const [rows, columns] = size;
  const inside = (y, x) => y >= 0 && x >= 0 && y < rows && x < columns;
  drawEdges(context, size, box, (y, x, yy, xx) =>
    inside(yy, xx) && inside(y, x) && places[y * columns + x] !== places[yy * columns + xx]);
}
