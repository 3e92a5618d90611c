// Photos beside a photo: a query beside what it is compared with, each with its map, on one scale.

const partners = new Set(data.samples.flatMap((sample) => sample.partners ?? []));

// Those of a map's sample that have a map for its target, or none at all.
function partnersOf(map) {
  const beside = data.samples[map.at[0]].partners ?? [];
  return beside.filter((partner) => {
    const own = data.maps.filter((m) => m.at[0] === partner);
    return photos[partner] && (!own.length || own.some((m) => m.at[1] === map.at[1]));
  });
}

// The map of the same score over a partner: at the same site, or at its own input.
function mapOfPartner(map, partner) {
  const [, target, site, method] = map.at;
  const same = byPlace.get([partner, target, site, method].join());
  if (same || data.sites[site] !== "input") return same ?? null;
  return data.maps.find(({ at }) =>
    at[0] === partner && at[1] === target && at[3] === method && data.sites[at[2]].startsWith("input.")) ?? null;
}

// The maps that share the range of a map where each has its own.
function rangeOfMap(map) {
  return [map, ...partnersOf(map).map((partner) => mapOfPartner(map, partner)).filter(Boolean)];
}

function drawPartner(canvas, map, partner, side) {
  const look = { ...lookOf(map), areas: false, shapes: chosen.boxes && Boolean(data.samples[partner].shapes) };
  const own = mapOfPartner(map, partner);
  const ground = groundOf({ kind: "image", at: [partner] });
  if (own) return drawOver(canvas, ground, own, look, palettes[look.scale.name], side);
  const scale = side / Math.max(ground.width, ground.height);
  canvas.width = Math.round(ground.width * scale);
  canvas.height = Math.round(ground.height * scale);
  return ground.paint(canvas.getContext("2d"), canvas.width, canvas.height);
}

function describePartner(map, partner) {
  const own = mapOfPartner(map, partner);
  return own ? describe(own) : `${data.samples[partner].name}, beside it and without a map here`;
}

// The partners of what is shown beside it, and below each its name; the score belongs to all.
function showPartners(map) {
  const beside = map ? partnersOf(map) : [];
  for (const id of ["partners", "captions"]) $(id).hidden = !beside.length;
  $("stage").classList.toggle("pair", beside.length > 0);
  const canvases = beside.map((partner) => {
    const canvas = make("canvas", "", { role: "img", "aria-label": describePartner(map, partner), "data-partner": partner });
    drawPartner(canvas, map, partner, 672);
    return canvas;
  });
  $("partners").replaceChildren(...canvases);
  if (!beside.length) return;
  const line = make("div");
  const names = [map.at[0], ...beside].map((i) => make("span", data.samples[i].name));
  beside.forEach((partner, i) => {
    if (!mapOfPartner(map, partner)) names[i + 1].append(make("em", "no map here"));
  });
  line.append(...names);
  $("captions").replaceChildren(line);
  if (map.score === null) return;
  const score = make("p", `${data.targets[map.at[1]]}: `);
  score.append(make("strong", short(map.score)));
  $("captions").append(score);
}
