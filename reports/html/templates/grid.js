// All maps of a sample at once: a table whose order the reader chooses, from which two are compared.

const CELL = [84, 112]; // the least side of a map at which all columns are made to fit, and the greatest
const HEAD_OF_ROW = 116;

// A map as it is drawn where it is small.
function drawSmall(canvas, map, side) {
  const look = lookOf(map);
  const small = { volume: () => mapOfPlane(map, "across"), series: () => shorter(map, side) };
  const flat = small[map.kind]?.() ?? map;
  drawOver(canvas, groundOf(map), flat, look, palettes[look.scale.name], side);
}

// The share of the score that arrives at the first layer of a method that keeps account of it.
function keptBy(at, method) {
  const kept = available("site", at.sample, at.target, method).map((site) =>
    byPlace.get([at.sample, at.target, site, method].join()).kept);
  return kept.find((share) => share !== null) ?? -Infinity;
}

function methodsInOrder(at) {
  const methods = [...at.methods];
  if (chosen.order === "name") methods.sort((a, b) => data.methods[a].localeCompare(data.methods[b]));
  if (chosen.order === "kept") methods.sort((a, b) => keptBy(at, b) - keptBy(at, a) || a - b);
  return methods;
}

// The boxes by which two maps are chosen to be compared; a third takes the place of the first.
function tickOf(map) {
  const place = map.at.slice(1).join();
  const box = make("input", "", { type: "checkbox", "aria-label": `Compare ${describe(map)}` });
  box.checked = chosen.ticked.includes(place);
  box.addEventListener("change", () => {
    const others = chosen.ticked.filter((one) => one !== place);
    choose({ ticked: box.checked ? [...others, place].slice(-2) : others });
  });
  return box;
}

function captionOf(map) {
  const caption = make("label", "", { class: "caption" });
  const words = make("span");
  const [low, high] = (map.range ?? []).map((v) => short(v, 3));
  words.append(...(map.range ? [make("b", `${low} to`), " ", make("b", high)] : ["no number"]));
  if (map.kept !== null) words.append(make("em", `kept ${percentOf(map.kept)}`));
  caption.append(tickOf(map), words);
  return caption;
}

function gridCell(at, site, method) {
  const cell = make("td");
  const map = byPlace.get([at.sample, at.target, site, method].join());
  if (!map) return cell;
  const current = map === at.map;
  const button = make("button", "", { type: "button", "aria-label": describe(map), "aria-pressed": current });
  const canvas = make("canvas", "", { "aria-hidden": "true" });
  drawSmall(canvas, map, 224);
  button.append(canvas);
  for (const partner of partnersOf(map)) {
    const other = make("canvas", "", { "aria-hidden": "true" });
    drawPartner(other, map, partner, 224);
    button.append(other);
  }
  button.addEventListener("click", () => choose({ site, method, view: "picture" }));
  cell.append(button, captionOf(map));
  return cell;
}

function headOf(dimension, i, scope) {
  const head = make("th", "", { scope, class: dimension });
  const name = (dimension === "site" ? data.sites : data.methods)[i];
  head.append(...name.split(/(?<=[_.:,])/).flatMap((part) => [part, make("wbr")]));
  if (dimension === "site" && depthOf(i)) head.append(make("em", depthOf(i)));
  return head;
}

function showGrid(at) {
  const sites = [...new Set(at.methods.flatMap((m) => available("site", at.sample, at.target, m)))].sort((a, b) => a - b);
  const methods = methodsInOrder(at);
  const upright = chosen.order === "layer";
  const [rows, columns] = upright ? [sites, methods] : [methods, sites];
  const [down, across] = upright ? ["site", "method"] : ["method", "site"];
  const head = make("tr");
  head.append(make("td"), ...columns.map((i) => headOf(across, i, "col")));
  const table = make("table");
  table.append(head, ...rows.map((r) => {
    const row = make("tr");
    const cells = columns.map((c) => (upright ? gridCell(at, r, c) : gridCell(at, c, r)));
    row.append(headOf(down, r, "row"), ...cells);
    return row;
  }));
  const grid = $("grid");
  const fits = Math.floor((grid.clientWidth - HEAD_OF_ROW) / columns.length) - 9;
  grid.style.setProperty("--cell", `${fits < CELL[0] ? 100 : Math.min(CELL[1], fits)}px`);
  grid.style.setProperty("--head", `${HEAD_OF_ROW}px`);
  grid.classList.toggle("held", !upright && data.sites[sites[0]] === "input" && sites.length > 1);
  const before = grid.scrollLeft;
  const held = [...grid.querySelectorAll("button, input")].indexOf(document.activeElement);
  grid.replaceChildren(table);
  grid.scrollLeft = before;
  if (held >= 0) grid.querySelectorAll("button, input")[held]?.focus({ preventScroll: true });
  intoView(table.querySelector("[aria-pressed=true]"), at);
  fillSorting(at);
}

// To a map that was reached by keys, but not away from the input when the grid opens.
let lastSeen = null;
function intoView(button, at) {
  const moved = lastSeen !== null && lastSeen !== at.map;
  lastSeen = at.map;
  if (!button || !moved) return;
  const [room, own] = [$("grid"), button].map((e) => e.getBoundingClientRect());
  if (own.right > room.right) $("grid").scrollLeft += own.right - room.right + 12;
  const taken = room.left + HEAD_OF_ROW + ($("grid").classList.contains("held") ? own.width : 0);
  if (own.left < taken) $("grid").scrollLeft -= taken - own.left + 12;
}

function fillSorting(at) {
  $("order").querySelector("[value=kept]").disabled = !at.methods.some((m) => keptBy(at, m) > -Infinity);
  $("order").value = chosen.order;
  $("both").disabled = chosen.ticked.length < 2;
}
