// The events: pointer, keys and controls.

function pointAt(event) {
  if (!shown) return;
  if (shown.kind === "tokens") {
    const at = event.target.dataset.at;
    return readOut(at === undefined ? null : Number(at));
  }
  const canvas = $("picture");
  const frame = canvas.getBoundingClientRect();
  const photo = shown.kind === "image" ? photos[shown.at[0]] : null;
  const [rows, columns] = shown.size;
  const width = photo ? photo.naturalWidth : columns;
  const height = photo ? photo.naturalHeight : rows;
  const box = photo ? boxOf(shown, width, height) : { x: 0, y: 0, width, height };
  const x = (((event.clientX - frame.left) / frame.width) * width - box.x) / box.width;
  const y = (((event.clientY - frame.top) / frame.height) * height - box.y) / box.height;
  const inside = x >= 0 && y >= 0 && x < 1 && y < 1;
  return readOut(inside ? Math.floor(y * rows) * columns + Math.floor(x * columns) : null);
}

function step(dimension, by) {
  const at = settled();
  const known = { site: at.sites, method: at.methods, sample: data.samples.map((_, i) => i) }[dimension];
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
  s: () => choose({ smooth: !chosen.smooth }),
};

function onKey(event) {
  const act = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  act();
  if (event.key.toLowerCase() === "g") requestAnimationFrame(() => $(chosen.view === "grid" ? "grid" : "stage").focus());
}

function listen() {
  $("methods").append(...data.methods.map((name, i) => {
    const label = make("label");
    label.append(make("input", "", { type: "radio", name: "method", value: i }), make("span", name));
    return label;
  }));
  $("methods").addEventListener("change", (event) => choose({ method: Number(event.target.value) }));
  $("view").addEventListener("change", (event) => choose({ view: event.target.value }));
  document.querySelectorAll(".thumb").forEach((thumb, i) =>
    thumb.addEventListener("click", () => choose({ sample: i })));
  $("layer").addEventListener("input", (event) => choose({ site: settled().sites[Number(event.target.value)] }));
  for (const id of ["target", "site"]) {
    $(id).addEventListener("change", (event) => choose({ [id]: Number(event.target.value) }));
  }
  for (const id of ["sign", "scale", "range"]) {
    $(id).addEventListener("change", (event) => choose({ [id]: event.target.value }));
  }
  $("opacity").addEventListener("input", (event) => choose({ opacity: event.target.value / 100 }));
  for (const id of ["smooth", "fade", "foci"]) {
    $(id).addEventListener("change", (event) => choose({ [id]: event.target.checked }));
  }
  for (const id of ["stage", "grid"]) $(id).addEventListener("keydown", onKey);
  $("stage").addEventListener("pointermove", pointAt);
  $("stage").addEventListener("pointerdown", pointAt);
  $("stage").addEventListener("pointerleave", () => readOut(null));
  window.addEventListener("beforeprint", () => { if (shown) showGrid(settled()); });
}

listen();
Promise.all(photos.filter(Boolean).map((photo) => photo.decode().catch(() => null))).then(show);
