// Two maps of a sample side by side at full size: the chosen one, and one that the reader sets beside it.

// Every map of the sample that is shown, and what it is called in a list.
function mapsOfSample(at) {
  return data.maps.filter((map) => map.at[0] === at.sample);
}

function wordsOfMap({ at: [, target, site, method] }) {
  const many = data.targets.length > 1 ? ` for ${data.targets[target]}` : "";
  return `${data.methods[method]} at ${data.sites[site]}${many}`;
}

// The map beside the chosen one: as asked, else by another method at the same layer, else any other.
function otherOf(at) {
  if (!at.map) return null;
  const asked = chosen.other && byPlace.get([at.sample, ...chosen.other].join());
  if (asked) return asked;
  const [, target, site] = at.map.at;
  const others = mapsOfSample(at).filter((map) => map !== at.map);
  return others.find((map) => map.at[1] === target && map.at[2] === site)
    ?? others.find((map) => map.at[1] === target) ?? others[0] ?? at.map;
}

function sideOf(at, map, name, onChange) {
  const side = make("figure", "", { class: "side" });
  const select = make("select", "", { "aria-label": `Map on the ${name}` });
  fill(select, mapsOfSample(at).map((one) => [one.at.slice(1).join(), wordsOfMap(one)]), map.at.slice(1).join());
  select.addEventListener("change", () => onChange(select.value.split(",").map(Number)));
  const canvas = make("canvas", "", { role: "img", "aria-label": describe(map) });
  drawSmall(canvas, map, 672);
  canvas.addEventListener("pointermove", (event) => pointAtBoth(at, sharesOf(event, canvas)));
  canvas.addEventListener("pointerleave", () => readOut(null));
  const title = make("figcaption", wordsOfMap(map));
  side.append(select, title, canvas, legendOf(map));
  return side;
}

function showCompared(at) {
  const held = [...$("compared").querySelectorAll("select")].indexOf(document.activeElement);
  $("compared").replaceChildren(
    sideOf(at, at.map, "left", ([target, site, method]) => choose({ target, site, method })),
    sideOf(at, otherOf(at), "right", (other) => choose({ other })),
  );
  if (held >= 0) $("compared").querySelectorAll("select")[held].focus();
}

// What each of the two holds at the same place of the picture.
function pointAtBoth(at, [across, down]) {
  const values = [at.map, otherOf(at)].map((map) => {
    if (map.kind !== "image") return null;
    const index = indexAt(map, across, down);
    return index === null ? null : valuesOf(map)[index];
  });
  if (values.every((v) => v === null)) return readOut(null);
  const words = values.map((v) => (v === null || Number.isNaN(v) ? "no number" : short(v)));
  return $("readout").replaceChildren("Left: ", make("strong", words[0]), ", right: ", make("strong", words[1]));
}

// The two that were ticked in the grid, the first of them as the chosen one.
function compareTicked() {
  const [[target, site, method], other] = chosen.ticked.map((place) => place.split(",").map(Number));
  choose({ target, site, method, other, view: "compare" });
}
