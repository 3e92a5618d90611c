// The view: everything on the page that follows the choice.

function lookOf(map) {
  const group = chosen.shared ? data.maps.filter((m) => m.at[3] === map.at[3]) : rangeOfMap(map);
  const scale = scaleOf(chosen.scale, limits(group, chosen.sign));
  const { sign, smooth, foci } = chosen;
  const alone = chosen.ground === "none" && map.kind !== "series";
  const [fade, opacity] = alone ? [false, 1] : [chosen.fade, chosen.opacity];
  const areas = chosen.areas && Boolean(data.samples[map.at[0]].areas);
  const shapes = chosen.boxes && Boolean(data.samples[map.at[0]].shapes);
  return { sign, smooth, fade, foci, opacity, scale, areas, shapes, group, tint: map.kind === "series" };
}

function describe(map) {
  const [sample, target, site, method] = map.at;
  const range = map.range ? `values ${map.range.map((v) => short(v)).join(" to ")}` : "no number";
  return `${data.methods[method]} at ${data.sites[site]} for ${data.targets[target]}, ${data.samples[sample].name}: ${range}`;
}

// Where a layer stands among its like: "15 of 16"; nothing where that is not known.
function depthOf(site) {
  const [place, total] = data.depths?.[data.sites[site]] ?? [];
  return total ? `${place} of ${total}` : "";
}

function fill(select, items, value) {
  select.replaceChildren(...items.map(([key, text]) => make("option", text, { value: key })));
  select.value = String(value);
}

function fillChoices(at) {
  document.querySelectorAll(".thumb").forEach((thumb) =>
    thumb.setAttribute("aria-pressed", String(Number(thumb.dataset.sample) === at.sample)));
  fill($("target"), at.targets.map((i) => [i, data.targets[i]]), at.target);
  fill($("site"), at.sites.map((i) => [i, [data.sites[i], depthOf(i)].filter(Boolean).join(" · ")]), at.site);
  $("layer").max = String(Math.max(0, at.sites.length - 1));
  $("layer").value = String(at.sites.indexOf(at.site));
  $("layer").setAttribute("aria-valuetext", [data.sites[at.site], depthOf(at.site)].filter(Boolean).join(", "));
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

// Only the settings that do something for what is shown.
function fillSettings(at) {
  $("focal").hidden = !shown?.foci;
  $("outlines").hidden = !data.samples[at.sample]?.areas;
  $("beside").hidden = !restored[at.sample];
  $("slices").hidden = shown?.kind !== "volume";
  const alone = chosen.ground === "none" && shown?.kind !== "series";
  $("grounds").hidden = !shown || !groundOf(shown);
  $("smooth").closest(".field").hidden = shown?.kind === "bars";
  for (const id of ["opacity", "fade"]) $(id).closest(".field").hidden = shown?.kind === "bars" || alone;
  for (const id of ["shared", "smooth", "fade", "foci", "areas"]) $(id).checked = chosen[id];
  for (const id of ["sign", "scale", "ground"]) $(id).value = chosen[id];
  for (const id of ["opacity", "wipe"]) $(id).value = String(Math.round(chosen[id] * 100));
}

function show() {
  waiting = false;
  const at = settled();
  shown = at.map ?? null;
  const view = shown ? chosen.view : "picture";
  fillChoices(at);
  fillSample(at);
  fillShapes(at);
  $("now").textContent = shown ? `${data.methods[at.method]} ` : "";
  if (shown) {
    const depth = depthOf(at.site);
    $("now").append(make("span", data.sites[at.site]), make("em", `${depth && ` (${depth})`} for ${data.targets[at.target]}`));
  }
  $("stage").hidden = view !== "picture";
  $("grid").hidden = $("sorting").hidden = view !== "grid";
  $("compared").hidden = view !== "compare";
  $("legend").hidden = view === "compare";
  $("percent").textContent = `${Math.round(chosen.opacity * 100)} %`;
  document.querySelector(`[name=view][value=${chosen.view}]`).checked = true;
  fillSettings(at);
  cursor = null;
  readOut(null);
  if (view !== "picture") $("captions").hidden = true;
  if (view === "grid") showGrid(at);
  else if (view === "compare") showCompared(at);
  else showPicture(shown);
  if (shown) fillLegend(shown);
  if (touched && shown) keepState();
  touched = false;
}

function choose(change, kept = true) {
  if ("sample" in change) chosen.shape = null;
  Object.assign(chosen, change);
  touched ||= kept && Object.keys(change).length > 0;
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
  if (chosen.view === "grid") $("readout").textContent = "Choose a map to see it large, or tick two to compare them.";
  else if (chosen.view === "compare") $("readout").textContent = "Point at either map to read both values.";
  else if (shown?.kind === "volume") readVolume(shown, chosen.point);
  else $("readout").textContent = shown?.kind === "bars" ? "Strongest first." : "Point at the map to read a value.";
}
