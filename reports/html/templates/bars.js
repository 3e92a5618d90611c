// The row of a table: a bar for each feature, the strongest first.

const MOST_BARS = 40;

function rankedFeatures(map, look) {
  const strength = (v) => (Number.isNaN(v) ? -1 : Math.abs(SIGNS[look.sign](v)));
  return [...valuesOf(map)].map((value, i) => ({ value, i })).sort((a, b) =>
    strength(b.value) - strength(a.value) || a.i - b.i);
}

// Names and values belong to what enters the model; elsewhere there are units.
function tableOf(map) {
  const { drawn } = data.samples[map.at[0]];
  const own = drawn?.kind === "table" && data.sites[map.at[2]] === "input";
  const what = own || data.sites[map.at[2]] === "input" ? "feature" : "unit";
  return { names: own ? drawn.names : [], values: own ? drawn.values : null, what };
}

function barOf(value, look, axis) {
  const beam = make("span", "", { class: "beam", "aria-hidden": "true" });
  const zero = make("i", "", { class: "zero-line" });
  zero.style.left = `${axis.at(0)}%`;
  beam.append(zero);
  if (!Number.isNaN(value)) {
    const [from, to] = [axis.at(0), axis.at(SIGNS[look.sign](value))];
    const fill = make("i", "", { class: "fill" });
    fill.style.left = `${Math.min(from, to)}%`;
    fill.style.width = `${Math.abs(to - from)}%`;
    fill.style.backgroundColor = `rgb(${colourOf(value, look).join(" ")})`;
    beam.append(fill);
  }
  return beam;
}

function axisOf(map, look) {
  const [low, high] = limits(look.group, look.sign) ?? [0, 0];
  const [lo, hi] = [Math.min(low, 0), Math.max(high, 0)];
  return { at: (v) => (hi > lo ? (100 * (v - lo)) / (hi - lo) : 0) };
}

function showBars(map) {
  const look = lookOf(map);
  const axis = axisOf(map, look);
  const table = tableOf(map);
  const ranked = rankedFeatures(map, look);
  const held = (v) => (v === null || v === undefined ? "no number" : short(v));
  const rows = ranked.slice(0, MOST_BARS).map(({ value, i }) => {
    const row = make("li");
    row.append(make("span", table.names[i] ?? `${table.what} ${i}`, { class: "feature" }));
    if (table.values) row.append(make("span", held(table.values[i]), { class: "held" }));
    const amount = Number.isNaN(value) ? "no number" : short(value);
    row.append(barOf(value, look, axis), make("span", amount, { class: "amount" }));
    return row;
  });
  const rest = ranked.slice(MOST_BARS);
  if (rest.length) {
    const sum = rest.reduce((total, { value }) => total + (Number.isNaN(value) ? 0 : value), 0);
    rows.push(make("li", `${rest.length} weaker ones, together ${short(sum)}`, { class: "rest" }));
  }
  const head = make("li", "", { class: "head" });
  head.append(make("span", table.what === "unit" ? "Unit" : "Feature"));
  if (table.values) head.append(make("span", "Value", { class: "held" }));
  head.append(make("span"), make("span", "Map", { class: "amount" }));
  $("bars").classList.toggle("bare", !table.values);
  $("bars").setAttribute("aria-label", describe(map));
  $("bars").replaceChildren(head, ...rows);
}
