// The events: pointer, keys and controls.

// Where a point lies in the picture, or in another, in shares of its sides.
function sharesOf(event, canvas = $("picture")) {
  const frame = canvas.getBoundingClientRect();
  return [(event.clientX - frame.left) / frame.width, (event.clientY - frame.top) / frame.height];
}

function pointAtPicture(event) {
  const { partner } = event.target.dataset;
  const map = partner === undefined ? shown : mapOfPartner(shown, Number(partner));
  if (!map) return readOut(null);
  const [across, down] = sharesOf(event, partner === undefined ? $("picture") : event.target);
  const index = indexAt(map, across, down);
  if (index === null) return readOut(null);
  const ground = groundOf(map);
  const { areas, shapes } = data.samples[map.at[0]];
  const area = ground && areas ? ` · ${areaAt(map.at[0], across, down)}` : "";
  const shape = ground && shapes && chosen.boxes ? shapeAt(map, across, down) : undefined;
  const more = area + (shape ? ` · ${wordsOfShape(shape)}` : "");
  return readOut(index, more, map);
}

// The place among its values of what lies under a point of the picture; null beside the map.
function indexAt(map, across, down) {
  const ground = groundOf(map);
  const [rows, columns] = map.size;
  const { width, height } = ground ?? { width: columns, height: rows };
  const box = ground ? boxOf(map, width, height) : { x: 0, y: 0, width, height };
  const x = (across * width - box.x) / box.width;
  const y = (down * height - box.y) / box.height;
  const within = x >= 0 && y >= 0 && x < 1 && y < 1;
  return within ? Math.floor(y * rows) * columns + Math.floor(x * columns) : null;
}

function pointAt(event) {
  if (!shown || shown.kind === "bars") return;
  if (shown.kind === "series") return pointAtSeries(shown, event);
  if (shown.kind === "tokens") {
    const at = event.target.dataset.at;
    return readOut(at === undefined ? null : Number(at));
  }
  if (shown.kind !== "volume") return pointAtPicture(event);
  const point = pointInVolume(shown, ...sharesOf(event));
  if (!point) return readOut(null);
  if (event.type === "pointerdown" || event.buttons) return choose({ point });
  return readVolume(shown, point);
}

function step(dimension, by) {
  const at = settled();
  const known = { site: at.sites, method: at.methods, sample: data.samples.map((_, i) => i).filter((i) => !partners.has(i)) }[dimension];
  const next = known[known.indexOf(at[dimension]) + by];
  if (next !== undefined) choose({ [dimension]: next });
}

const KEYS = {
  ArrowLeft: () => step("site", -1),
  ArrowRight: () => step("site", 1),
  ArrowUp: () => step("method", -1),
  ArrowDown: () => step("method", 1),
  p: () => step("sample", -1),
  n: () => step("sample", 1),
  g: () => choose({ view: chosen.view === "grid" ? "picture" : "grid" }),
  c: () => choose({ view: chosen.view === "compare" ? "picture" : "compare" }),
  s: () => choose({ smooth: !chosen.smooth }),
};

// Through what is shown itself: the cursor of a series, the point of a volume.
const INNER = {
  series: {
    ArrowLeft: () => moveCursor(shown, -1, 0),
    ArrowRight: () => moveCursor(shown, 1, 0),
    ArrowUp: () => moveCursor(shown, 0, -1),
    ArrowDown: () => moveCursor(shown, 0, 1),
    PageUp: () => moveCursor(shown, -Math.ceil(seriesOf(shown).steps / 20), 0),
    PageDown: () => moveCursor(shown, Math.ceil(seriesOf(shown).steps / 20), 0),
  },
  volume: {
    ArrowLeft: () => movePoint(shown, 2, -1),
    ArrowRight: () => movePoint(shown, 2, 1),
    ArrowUp: () => movePoint(shown, 1, -1),
    ArrowDown: () => movePoint(shown, 1, 1),
    PageUp: () => movePoint(shown, 0, -1),
    PageDown: () => movePoint(shown, 0, 1),
  },
};

function actOf(event) {
  const inner = event.shiftKey || event.key.startsWith("Page");
  if (inner && chosen.view === "picture" && INNER[shown?.kind]) return INNER[shown.kind][event.key];
  return KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
}

function onKey(event) {
  if (event.target.tagName === "SELECT") return;
  const act = actOf(event);
  if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  act();
  const on = { grid: "grid", compare: "compared", picture: "stage" };
  if ("gc".includes(event.key.toLowerCase())) requestAnimationFrame(() => $(on[chosen.view]).focus());
}

function listen() {
  $("methods").append(...data.methods.map((name, i) => {
    const label = make("label");
    label.append(make("input", "", { type: "radio", name: "method", value: i }), make("span", name));
    return label;
  }));
  $("methods").addEventListener("change", (event) => choose({ method: Number(event.target.value) }));
  $("view").addEventListener("change", (event) => choose({ view: event.target.value }));
  document.querySelectorAll(".thumb").forEach((thumb) =>
    thumb.addEventListener("click", () => choose({ sample: Number(thumb.dataset.sample) })));
  $("layer").addEventListener("input", (event) => choose({ site: settled().sites[Number(event.target.value)] }));
  for (const id of ["target", "site"]) {
    $(id).addEventListener("change", (event) => choose({ [id]: Number(event.target.value) }));
  }
  for (const id of ["sign", "scale", "ground", "order"]) {
    $(id).addEventListener("change", (event) => choose({ [id]: event.target.value }));
  }
  $("opacity").addEventListener("input", (event) => choose({ opacity: event.target.value / 100 }));
  $("wipe").addEventListener("input", (event) => choose({ wipe: event.target.value / 100 }));
  $("least").addEventListener("input", (event) => choose({ least: Number(event.target.value) }));
  $("slice").addEventListener("input", (event) => {
    const [z] = volumeOf(shown).size;
    choose({ point: [(Number(event.target.value) + 0.5) / z, ...chosen.point.slice(1)] });
  });
  for (const id of ["shared", "smooth", "fade", "foci", "areas", "boxes"]) {
    $(id).addEventListener("change", (event) => choose({ [id]: event.target.checked }));
  }
  $("both").addEventListener("click", compareTicked);
  for (const id of ["stage", "grid", "compared"]) $(id).addEventListener("keydown", onKey);
  $("stage").addEventListener("pointermove", pointAt);
  $("stage").addEventListener("pointerdown", pointAt);
  $("stage").addEventListener("pointerleave", () => (shown?.kind === "series" ? setCursor(shown, null) : readOut(null)));
  window.addEventListener("resize", () => {
    if (shown?.kind === "series" || (shown && data.samples[shown.at[0]].shapes)) choose({});
  });
  window.addEventListener("hashchange", () => choose(restoreState(), false));
  window.addEventListener("beforeprint", () => { if (shown) showGrid(settled()); });
}

listen();
listenToSaving();
Object.assign(chosen, restoreState());
Promise.all([...photos, ...restored].filter(Boolean).map((photo) => photo.decode().catch(() => null))).then(show);
