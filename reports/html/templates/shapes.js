// Boxes, points and lines that the model's output draws over a photo, and the list of them.

const MOST_ROWS = 60;
const MOST_TAGS = 20;
const [leastScore, mostScore] = endsOfScores();
if (leastScore < 0 || mostScore > 1) chosen.least = leastScore;

// From where to where scores go: 0 to 1 where all lie there.
function endsOfScores() {
  const found = data.samples.flatMap(({ shapes }) => (shapes?.drawn ?? []).map((shape) => shape.score));
  let [lo, hi] = [0, 1];
  for (const score of found.filter((v) => v !== null)) [lo, hi] = [Math.min(lo, score), Math.max(hi, score)];
  return [lo, hi];
}

// The shapes of a sample that are shown, those that the target reads and the chosen one among them.
function shapesOf(sample, target) {
  const { drawn, read } = data.samples[sample].shapes;
  const explained = new Set(read[target] ?? []);
  const heads = drawn.map((_, i) => i).filter((i) => drawn[i].of === undefined);
  const picked = sample === chosen.sample ? chosen.shape : null;
  const shown = heads.filter((i) =>
    i === picked || explained.has(i) || drawn[i].score === null || drawn[i].score >= chosen.least);
  return { drawn, explained, heads, picked, shown };
}

function wordsOfShape({ label, score, kind }) {
  return [label || kind, score === null ? "" : short(score, 3)].filter(Boolean).join(" ");
}

function spanOfShape({ points }) {
  const [xs, ys] = [0, 1].map((axis) => points.map((point) => point[axis]));
  return { left: Math.min(...xs), top: Math.min(...ys), right: Math.max(...xs), bottom: Math.max(...ys) };
}

// Where a shape lies, in pixels of the file if that is known, else of the picture.
function placeOfShape(sample, shape) {
  const { crop } = data.samples[sample].shapes;
  const { naturalWidth, naturalHeight } = photos[sample];
  const [top, left, bottom, right] = crop.length ? crop : [0, 0, naturalHeight, naturalWidth];
  const across = (x) => Math.round(left + (x / naturalWidth) * (right - left));
  const down = (y) => Math.round(top + (y / naturalHeight) * (bottom - top));
  const span = spanOfShape(shape);
  const where = `columns ${across(span.left)} to ${across(span.right)}, rows ${down(span.top)} to ${down(span.bottom)}`;
  return crop.length ? `${where} of the file` : where;
}

function pathOfShape({ kind, points }, scale, radius) {
  const path = new Path2D();
  const placed = points.map(([x, y]) => [x * scale, y * scale]);
  if (kind === "box") {
    const [[x, y], [toX, toY]] = placed;
    path.rect(Math.min(x, toX), Math.min(y, toY), Math.abs(toX - x), Math.abs(toY - y));
  } else if (kind === "line") {
    placed.forEach(([x, y], i) => (i ? path.lineTo(x, y) : path.moveTo(x, y)));
  } else {
    for (const [x, y] of placed) {
      path.moveTo(x + radius, y);
      path.arc(x, y, radius, 0, 2 * Math.PI);
    }
  }
  return path;
}

// The label of a shape on a patch, above it or within; left out where another one stands already.
function drawTag(context, shape, look, taken) {
  const { scale, unit, colour } = look;
  const text = wordsOfShape(shape);
  const height = 18 * unit;
  context.font = `600 ${12 * unit}px system-ui, "Liberation Sans", sans-serif`;
  const width = context.measureText(text).width + 10 * unit;
  const span = spanOfShape(shape);
  const x = Math.max(0, Math.min(span.left * scale, context.canvas.width - width));
  const free = [span.top * scale - height, span.top * scale, span.bottom * scale - height].find((y) =>
    y >= 0 && y + height <= context.canvas.height && taken.every((t) =>
      x + width <= t.x || t.x + t.width <= x || y + height <= t.y || t.y + height <= y));
  if (free === undefined) return;
  taken.push({ x, y: free, width });
  context.fillStyle = colour ?? "rgb(20 21 24 / .82)";
  context.fillRect(x, free, width, height);
  context.fillStyle = colour ? "#14170c" : "#fff";
  context.textBaseline = "middle";
  context.fillText(text, x + 5 * unit, free + height / 2);
}

function drawShape(context, shape, { scale, unit, colour, strong }) {
  const thin = (strong ? 3 : 1.5) * unit;
  const path = pathOfShape(shape, scale, 3 * unit);
  context.lineJoin = "round";
  for (const [stroke, width] of [["rgb(0 0 0 / .75)", thin + 2 * unit], [colour ?? "#fff", thin]]) {
    context.strokeStyle = stroke;
    context.lineWidth = width;
    context.stroke(path);
  }
  if (shape.kind !== "points") return;
  context.fillStyle = colour ?? "#fff";
  context.fill(path);
}

// All that are shown of a sample: the explained and the chosen one last and strong, with their parts.
function drawShapes(context, map, width) {
  const { drawn, explained, picked, shown } = shapesOf(map.at[0], map.at[1]);
  const { canvas } = context;
  const small = canvas.width < 400;
  const scale = canvas.width / width;
  const unit = small ? 1 : canvas.width / (canvas.getBoundingClientRect().width || canvas.width);
  const accent = getComputedStyle(document.documentElement).getPropertyValue("--outline").trim();
  const strong = (i) => i === picked || explained.has(i);
  const look = (i) => ({ scale, unit, strong: strong(i), colour: explained.has(i) ? accent : null });
  const ordered = [...shown].sort((a, b) => strong(a) - strong(b));
  const some = ordered.some(strong);
  for (const i of ordered) {
    drawShape(context, drawn[i], look(i));
    if (some && !strong(i)) continue;
    drawn.forEach((part) => { if (part.of === i) drawShape(context, part, { ...look(i), strong: false }); });
  }
  if (small) return;
  const taken = [];
  const tagged = ordered.reverse().filter((i, n) => strong(i) || n < MOST_TAGS);
  for (const i of tagged) drawTag(context, drawn[i], look(i), taken);
}

// The smallest of the boxes shown that hold a point, given in shares of the photo.
function shapeAt(map, across, down) {
  const { drawn, shown } = shapesOf(map.at[0], map.at[1]);
  const { naturalWidth, naturalHeight } = photos[map.at[0]];
  const [x, y] = [across * naturalWidth, down * naturalHeight];
  const area = ({ left, top, right, bottom }) => (right - left) * (bottom - top);
  const found = shown.map((i) => drawn[i]).filter((shape) => {
    const { left, top, right, bottom } = spanOfShape(shape);
    return shape.kind === "box" && left <= x && x < right && top <= y && y < bottom;
  });
  return found.sort((a, b) => area(spanOfShape(a)) - area(spanOfShape(b)))[0];
}

// What is shown in words, for those who hear the page.
function heardShapes(map) {
  const { drawn, explained, shown } = shapesOf(map.at[0], map.at[1]);
  const first = [...shown].sort((a, b) => explained.has(b) - explained.has(a)).slice(0, 5);
  const words = first.map((i) => wordsOfShape(drawn[i]) + (explained.has(i) ? " (explained)" : ""));
  const more = shown.length > first.length ? ` and ${shown.length - first.length} more` : "";
  return words.length ? `; found: ${words.join(", ")}${more}` : "; nothing found";
}

function rowOfShape(sample, i, { drawn, explained, picked }) {
  const row = make("li");
  const button = make("button", "", { type: "button", "aria-pressed": i === picked, "data-shape": i });
  const { label, score, kind } = drawn[i];
  button.append(make("span", label || kind, { class: "label" }));
  button.append(make("span", score === null ? "" : short(score, 3), { class: "share" }));
  button.append(make("span", placeOfShape(sample, drawn[i]), { class: "where" }));
  if (explained.has(i)) button.append(make("span", "explained", { class: "mark" }));
  button.addEventListener("click", () => choose({ shape: i === chosen.shape ? null : i }));
  row.append(button);
  return row;
}

// The list beside the picture: the explained ones first, then by score.
function fillShapes(at) {
  const { shapes } = data.samples[at.sample] ?? {};
  $("finds").hidden = !shapes || !photos[at.sample];
  if ($("finds").hidden) return;
  const found = shapesOf(at.sample, at.target);
  const { drawn, explained, heads, shown } = found;
  const listed = [...shown].sort((a, b) => explained.has(b) - explained.has(a) || a - b);
  const rows = listed.slice(0, MOST_ROWS).map((i) => rowOfShape(at.sample, i, found));
  const held = document.activeElement?.dataset?.shape;
  $("shapes").replaceChildren(...rows);
  if (held !== undefined) $("shapes").querySelector(`[data-shape="${held}"]`)?.focus();
  const counted = [`${shown.length} of ${heads.length} shown`];
  if (listed.length > MOST_ROWS) counted.push(`the first ${MOST_ROWS} listed`);
  if (shapes.left_out) counted.push(`${shapes.left_out} weaker ones are not on this page`);
  $("counted").textContent = counted.join(", ");
  const scored = heads.some((i) => drawn[i].score !== null);
  $("threshold").hidden = !scored;
  $("least").min = String(leastScore);
  $("least").max = String(mostScore);
  $("least").step = String((mostScore - leastScore) / 100);
  $("least").value = String(chosen.least);
  $("from").textContent = short(chosen.least, 3);
  $("boxes").checked = chosen.boxes;
}
