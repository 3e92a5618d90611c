// The view: everything on the page that follows the choice.

function lookOf(map) {
  const group = chosen.range === "map" ? rangeOfMap(map) : data.maps.filter((m) => m.at[3] === map.at[3]);
  const scale = scaleOf(chosen.scale, limits(group, chosen.sign));
  const { sign, smooth, fade, foci, opacity } = chosen;
  const areas = chosen.areas && Boolean(data.samples[map.at[0]].areas);
  const shapes = chosen.boxes && Boolean(data.samples[map.at[0]].shapes);
  return { sign, smooth, fade, foci, opacity, scale, areas, shapes, group, tint: map.kind === "series" };
}

function describe(map) {
  const [sample, target, site, method] = map.at;
  const range = map.range ? `values ${map.range.map((v) => short(v)).join(" to ")}` : "no number";
  return `${data.methods[method]} at ${data.sites[site]} for ${data.targets[target]}, ${data.samples[sample].name}: ${range}`;
}

function fill(select, items, value) {
  select.replaceChildren(...items.map(([key, text]) => make("option", text, { value: key })));
  select.value = String(value);
}

function fillChoices(at) {
  document.querySelectorAll(".thumb").forEach((thumb) =>
    thumb.setAttribute("aria-pressed", String(Number(thumb.dataset.sample) === at.sample)));
  fill($("target"), at.targets.map((i) => [i, data.targets[i]]), at.target);
  fill($("site"), at.sites.map((i) => [i, data.sites[i]]), at.site);
  $("layer").max = String(Math.max(0, at.sites.length - 1));
  $("layer").value = String(at.sites.indexOf(at.site));
  $("layer").setAttribute("aria-valuetext", data.sites[at.site] ?? "");
  $("layer").disabled = at.sites.length < 2;
  for (const input of $("methods").querySelectorAll("input")) {
    input.disabled = !at.methods.includes(Number(input.value));
    input.checked = Number(input.value) === at.method;
  }
}

function fillSample(at) {
  const sample = data.samples[at.sample];
  $("name").textContent = sample?.name ?? "";
  $("seen").textContent = sample?.seen ?? "";
  const { areas } = sample ?? {};
  const top = areas ? areas.classes.map(([name, i], n) => [name, i, areas.shares[n]]) : sample?.top ?? [];
  $("answers").hidden = !top.length;
  $("says").textContent = areas ? "Where the model sees what" : "What the model says";
  $("top").replaceChildren(...top.map(([label, index, probability]) => {
    const row = make("li", "", { title: `class ${index}` });
    const track = make("div", "", { class: "track", "aria-hidden": "true" });
    const bar = make("div");
    bar.style.width = `${Math.min(100, Math.max(0, probability * 100))}%`;
    track.append(bar);
    const share = probability < 0.001 ? "< 0.1 %" : `${(probability * 100).toFixed(1)} %`;
    row.append(make("span", label, { class: "label" }), make("span", share, { class: "share" }), track);
    return row;
  }));
}

function fillLegend(map) {
  const look = lookOf(map);
  const { scale, sign } = look;
  const context = $("bar").getContext("2d");
  const image = context.createImageData(LAST + 1, 1);
  for (let i = 0; i <= LAST; i += 1) {
    const [at, cover] = look.tint ? colourAndCover(i, look) : [i, 255];
    image.data.set([...palettes[scale.name].subarray(at * 3, at * 3 + 3), cover], i * 4);
  }
  context.putImageData(image, 0, 0);
  const minus = sign === "negative" ? -1 : 1;
  const ends = [scale.lo, (scale.lo + scale.hi) / 2, scale.hi].map((v) => short(v * minus || 0));
  ["low", "middle", "high"].forEach((id, i) => { $(id).textContent = ends[i]; });
  $("bar").setAttribute("aria-label", `Colours from ${ends[0]} to ${ends[2]}`);
  const whose = chosen.range === "map" ? `Range of ${partnersOf(map).length ? "these maps" : "this map"}` : `Range shared by all ${data.methods[map.at[3]]} maps`;
  const facts = [whose, `${map.shape.join(" × ") || 1} values${map.kind === "matrix" ? ` (${map.axes})` : ""}`];
  if (!map.range) facts.push("holds no number");
  else if (map.range[0] === map.range[1]) facts.push(`constant ${short(map.range[0])}`);
  else facts.push(`this map ${map.range.map((v) => short(v)).join(" to ")}`);
  if (map.bad && map.range) facts.push(`${map.bad} values are no numbers and left clear`);
  if (map.block) facts.push(`drawn as means of blocks of ${map.block.join(" × ")}`);
  if (map.foci && chosen.foci) facts.push(`outlined above ${short(map.outline)}`);
  if (map.score !== null) facts.push(`score ${short(map.score)}`);
  if (map.kept !== null) facts.push(`relevance kept ${short(map.kept)}`);
  $("facts").textContent = facts.join(" · ");
}

function colourOf(value, look) {
  const at = stepOf(SIGNS[look.sign](value), look.scale) * 3;
  return [...palettes[look.scale.name].subarray(at, at + 3)];
}

function showTokens(map) {
  const look = lookOf(map);
  const words = data.samples[map.at[0]].words;
  $("tokens").replaceChildren(...[...valuesOf(map)].map((value, i) => {
    const token = make("span", words[i] ?? String(i), { "data-at": i });
    if (Number.isNaN(value)) return token;
    const [r, g, b] = colourOf(value, look);
    token.style.backgroundColor = `rgb(${r} ${g} ${b})`;
    token.style.color = r * 0.299 + g * 0.587 + b * 0.114 > 140 ? "#16171a" : "#fff";
    return token;
  }));
}

// The element that a kind of map is drawn on, and how.
const VIEWS = {
  image: ["picture", showImage],
  matrix: ["picture", showImage],
  volume: ["picture", showVolume],
  tokens: ["tokens", showTokens],
  series: ["chart", showSeries],
  bars: ["bars", showBars],
};

function showImage(map) {
  const look = lookOf(map);
  drawOver($("picture"), groundOf(map), map, look, palettes[look.scale.name], 672);
  $("picture").setAttribute("aria-label", describe(map) + (look.shapes ? heardShapes(map) : ""));
}

function showPicture(map) {
  const [on, drawIt] = map ? VIEWS[map.kind] : ["empty"];
  for (const id of ["picture", "tokens", "chart", "bars", "empty"]) $(id).hidden = id !== on;
  $("picture").classList.toggle("crisp", map?.kind === "matrix");
  showPartners(map);
  if (map) drawIt(map);
}

// A map as it is drawn where it is small.
function drawSmall(canvas, map, side) {
  const look = lookOf(map);
  const small = { volume: () => mapOfPlane(map, "across"), series: () => shorter(map, side) };
  const flat = small[map.kind]?.() ?? map;
  drawOver(canvas, groundOf(map), flat, look, palettes[look.scale.name], side);
}

function gridCell(at, site, method) {
  const cell = make("td");
  const map = byPlace.get([at.sample, at.target, site, method].join());
  if (!map) return cell;
  const current = map === at.map;
  const button = make("button", "", { type: "button", "aria-label": describe(map), "aria-pressed": current });
  const canvas = make("canvas", "", { "aria-hidden": "true" });
  drawSmall(canvas, map, 176);
  button.append(canvas);
  for (const partner of partnersOf(map)) {
    const other = make("canvas", "", { "aria-hidden": "true" });
    drawPartner(other, map, partner, 176);
    button.append(other);
  }
  button.addEventListener("click", () => choose({ site, method, view: "picture" }));
  const range = map.range ? map.range.map((v) => short(v, 3)).join(" .. ") : "no number";
  cell.append(button, make("span", range));
  return cell;
}

function showGrid(at) {
  const sites = [...new Set(at.methods.flatMap((m) => available("site", at.sample, at.target, m)))].sort((a, b) => a - b);
  const head = make("tr");
  head.append(make("td"), ...sites.map((i) => make("th", data.sites[i], { scope: "col" })));
  const table = make("table");
  table.append(head, ...at.methods.map((method) => {
    const row = make("tr");
    row.append(make("th", data.methods[method], { scope: "row" }), ...sites.map((site) => gridCell(at, site, method)));
    return row;
  }));
  const before = $("grid").scrollLeft;
  $("grid").replaceChildren(table);
  $("grid").scrollLeft = before;
  const current = table.querySelector("[aria-pressed=true]");
  const room = $("grid").getBoundingClientRect();
  if (current && current.getBoundingClientRect().right > room.right) {
    $("grid").scrollLeft += current.getBoundingClientRect().right - room.right + 12;
  }
}

// Only the settings that do something for what is shown.
function fillSettings(at) {
  $("focal").hidden = !shown?.foci;
  $("outlines").hidden = !data.samples[at.sample]?.areas;
  $("beside").hidden = !restored[at.sample];
  $("slices").hidden = shown?.kind !== "volume";
  for (const id of ["opacity", "smooth", "fade"]) $(id).closest(".field").hidden = shown?.kind === "bars";
  for (const id of ["smooth", "fade", "foci", "areas"]) $(id).checked = chosen[id];
}

function show() {
  waiting = false;
  const at = settled();
  shown = at.map ?? null;
  const grid = chosen.view === "grid";
  fillChoices(at);
  fillSample(at);
  fillShapes(at);
  $("now").textContent = shown ? `${data.methods[at.method]} ` : "";
  if (shown) $("now").append(make("span", data.sites[at.site]), make("em", ` for ${data.targets[at.target]}`));
  $("stage").hidden = grid;
  $("grid").hidden = !grid;
  $("percent").textContent = `${Math.round(chosen.opacity * 100)} %`;
  document.querySelector(`[name=view][value=${chosen.view}]`).checked = true;
  fillSettings(at);
  cursor = null;
  readOut(null);
  if (grid) $("captions").hidden = true;
  if (grid && shown) showGrid(at);
  else showPicture(shown);
  if (shown) fillLegend(shown);
}

function choose(change) {
  if ("sample" in change) chosen.shape = null;
  Object.assign(chosen, change);
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(show);
}

function say(place, value, more = "") {
  $("readout").replaceChildren(`${place}: `, make("strong", Number.isNaN(value) ? "no number" : short(value)), more);
}

function readOut(index, more = "", map = shown) {
  if (index !== null && map) {
    const columns = map.size[1];
    const word = data.samples[map.at[0]].words[index];
    const place = map.kind === "tokens"
      ? `Token ${index}${word === undefined ? "" : ` “${word.trim()}”`}`
      : `Row ${Math.floor(index / columns)}, column ${index % columns}`;
    return say(place, valuesOf(map)[index], more);
  }
  if (chosen.view === "grid") $("readout").textContent = "Choose a map to see it large.";
  else if (shown?.kind === "volume") readVolume(shown, chosen.point);
  else $("readout").textContent = shown?.kind === "bars" ? "Strongest first." : "Point at the map to read a value.";
}
