// The scale of colours under a map, and what is to be known of the map in words.

function paintScale(canvas, look) {
  const context = canvas.getContext("2d");
  const image = context.createImageData(LAST + 1, 1);
  for (let i = 0; i <= LAST; i += 1) {
    const [at, cover] = look.tint ? colourAndCover(i, look) : [i, 255];
    image.data.set([...palettes[look.scale.name].subarray(at * 3, at * 3 + 3), cover], i * 4);
  }
  context.putImageData(image, 0, 0);
}

// The least, the middle and the greatest value of a scale in words.
function endsOfScale({ scale, sign }) {
  const minus = sign === "negative" ? -1 : 1;
  return [scale.lo, (scale.lo + scale.hi) / 2, scale.hi].map((v) => short(v * minus || 0));
}

function factsOf(map) {
  const mine = partnersOf(map).length ? "these maps" : "this map";
  const whose = chosen.shared ? `Range shared by all ${data.methods[map.at[3]]} maps` : `Range of ${mine}`;
  const facts = [whose, `${map.shape.join(" × ") || 1} values${map.kind === "matrix" ? ` (${map.axes})` : ""}`];
  if (!map.range) facts.push("holds no number");
  else if (map.range[0] === map.range[1]) facts.push(`constant ${short(map.range[0])}`);
  else facts.push(`this map ${map.range.map((v) => short(v)).join(" to ")}`);
  if (map.bad && map.range) facts.push(`${map.bad} values are no numbers and left clear`);
  if (map.block) facts.push(`drawn as means of blocks of ${map.block.join(" × ")}`);
  if (map.foci && chosen.foci) facts.push(`outlined above ${short(map.outline)}`);
  if (map.score !== null) facts.push(`score ${short(map.score)}`);
  if (map.kept !== null) facts.push(`relevance kept ${percentOf(map.kept)}`);
  return facts;
}

function percentOf(share) {
  return `${short(share * 100, 3)}\u00a0%`;
}

// What to think of relevance that got lost on its way; nothing where most of it arrived.
function adviceOf(map) {
  if (map.kept === null || (map.kept >= 0.5 && map.kept <= 1.5)) return "";
  const rest = map.kept < 0.5
    ? "the rest ended in biases and stabilisers on the way"
    : "biases and stabilisers on the way added to it";
  return `Of the score ${percentOf(map.kept)} arrives in this map; ${rest}. What is bright here speaks for that share alone.`;
}

function fillLegend(map) {
  const look = lookOf(map);
  paintScale($("bar"), look);
  const ends = endsOfScale(look);
  ["low", "middle", "high"].forEach((id, i) => { $(id).textContent = ends[i]; });
  $("bar").setAttribute("aria-label", `Colours from ${ends[0]} to ${ends[2]}`);
  const whose = chosen.view === "grid" ? [wordsOfMap(map)] : [];
  $("facts").textContent = [...whose, ...factsOf(map)].join(" · ");
  $("advice").textContent = adviceOf(map);
}

// The same below one of several maps.
function legendOf(map) {
  const look = lookOf(map);
  const ends = endsOfScale(look);
  const box = make("div", "", { class: "legend" });
  const bar = make("canvas", "", { class: "bar", width: LAST + 1, height: 1, role: "img", "aria-label": `Colours from ${ends[0]} to ${ends[2]}` });
  paintScale(bar, look);
  const ticks = make("div", "", { class: "ticks" });
  ticks.append(...ends.map((text) => make("span", text)));
  box.append(bar, ticks, make("p", factsOf(map).join(" · "), { class: "facts" }));
  const advice = adviceOf(map);
  if (advice) box.append(make("p", advice, { class: "advice" }));
  return box;
}
