// What is seen, to be taken along: as PNG, as SVG, and its numbers as CSV.

const SVG_STYLES = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-opacity", "stroke-linejoin", "stroke-dasharray", "font-size", "font-weight", "font-family", "text-anchor", "image-rendering", "opacity"];
const PNG_SCALE = 2;
const EDGE = 16; // around what is saved

// Texts as the page breaks them into lines: the words of each, and where it stands.
function linesOf(node) {
  const lines = [];
  const range = document.createRange();
  for (const found of node.data.matchAll(/\S+/g)) {
    range.setStart(node, found.index);
    range.setEnd(node, found.index + found[0].length);
    const box = range.getBoundingClientRect();
    const last = lines.at(-1);
    if (last && Math.abs(last.box.top - box.top) < 2) last.words.push(found[0]);
    else lines.push({ box, words: [found[0]] });
  }
  return lines.filter(({ box }) => box.width > 0);
}

function textOf(node, [left, top]) {
  const style = getComputedStyle(node.parentElement);
  return linesOf(node).map(({ box, words }) => draw("text", {
    x: box.left - left, y: box.top - top + box.height / 2, "dominant-baseline": "central", fill: style.color,
    "font-size": style.fontSize, "font-weight": style.fontWeight, "font-family": style.fontFamily,
  }, words.join(" ")));
}

// A drawing of the page itself, with the styles that it has there.
function drawingOf(svg, [left, top]) {
  const copy = svg.cloneNode(true);
  const box = svg.getBoundingClientRect();
  const pairs = [svg, ...svg.querySelectorAll("*")].map((element, i) => [element, [copy, ...copy.querySelectorAll("*")][i]]);
  for (const [element, twin] of pairs) {
    const style = getComputedStyle(element);
    for (const name of SVG_STYLES) twin.setAttribute(name, style.getPropertyValue(name));
  }
  for (const [name, value] of Object.entries({ x: box.left - left, y: box.top - top, width: box.width, height: box.height })) copy.setAttribute(name, value);
  return copy;
}

function boxIn(element, [left, top]) {
  const { left: x, top: y, width, height } = element.getBoundingClientRect();
  const style = getComputedStyle(element);
  const fill = style.backgroundColor;
  if (fill === "rgba(0, 0, 0, 0)" || !width || !height) return [];
  return [draw("rect", { x: x - left, y: y - top, width, height, rx: parseFloat(style.borderRadius) || 0, fill })];
}

// A canvas where it stands; its picture keeps its form within the box, as on the page.
function canvasIn(canvas, [left, top]) {
  const { left: x, top: y, width, height } = canvas.getBoundingClientRect();
  const kept = canvas.classList.contains("bar") ? "none" : "xMidYMid";
  return draw("image", {
    x: x - left, y: y - top, width, height, href: canvas.toDataURL(), preserveAspectRatio: kept,
    "image-rendering": getComputedStyle(canvas).imageRendering,
  });
}

// Controls and what is hidden stay on the page.
function partsOf(node, origin) {
  if (node.nodeType === Node.TEXT_NODE) return textOf(node, origin);
  if (node.nodeType !== Node.ELEMENT_NODE || !node.getClientRects().length) return [];
  if (["SELECT", "INPUT", "FIELDSET", "DETAILS"].includes(node.tagName)) return [];
  if (node.tagName === "CANVAS") return [canvasIn(node, origin)];
  if (node.tagName === "svg") return [drawingOf(node, origin)];
  return [...boxIn(node, origin), ...[...node.childNodes].flatMap((child) => partsOf(child, origin))];
}

function seenAsSvg() {
  const show = document.querySelector(".show");
  show.classList.add("saved");
  const shown = ["now", "stage", "captions", "compared", "grid", "legend"].map($).filter((e) => e.getClientRects().length);
  const boxes = shown.flatMap((e) => [e, ...e.querySelectorAll("*")]).filter((e) => e.getClientRects().length).map((e) => e.getBoundingClientRect());
  const [left, top] = [Math.min(...boxes.map((b) => b.left)) - EDGE, Math.min(...boxes.map((b) => b.top)) - EDGE];
  const width = Math.ceil(Math.max(...boxes.map((b) => b.right)) - left + EDGE);
  const height = Math.ceil(Math.max(...boxes.map((b) => b.bottom)) - top + EDGE);
  const svg = draw("svg", { xmlns: SVG, viewBox: `0 0 ${width} ${height}`, width, height });
  svg.append(draw("rect", { width, height, fill: getComputedStyle(document.body).backgroundColor }));
  svg.append(...shown.flatMap((e) => partsOf(e, [left, top])));
  show.classList.remove("saved");
  return { text: new XMLSerializer().serializeToString(svg), width, height };
}

// The maps that are seen, those of partners beside them.
function mapsSeen() {
  const at = settled();
  const seen = { picture: [at.map], compare: [at.map, otherOf(at)], grid: mapsOfSample(at).filter((m) => m.at[1] === at.target) };
  return seen[chosen.view].flatMap((map) => rangeOfMap(map));
}

// A row a value; `within` is how far it may lie from the method's own, for pages keep 254 steps.
function seenAsCsv() {
  const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const rows = [["sample", "target", "method", "layer", "axes", "place", "value", "within"]];
  for (const map of mapsSeen()) {
    const [sample, target, site, method] = map.at;
    const names = [data.samples[sample].name, data.targets[target], data.methods[method], data.sites[site], map.axes];
    const within = map.numbers ? 0 : Number((map.step / 2).toPrecision(2));
    valuesOf(map).forEach((value, i) => rows.push([...names, placeOf(i, map.size), Number.isNaN(value) ? "" : Number(value.toPrecision(map.numbers ? 17 : 6)), within]));
  }
  return `${rows.map((row) => row.map((cell) => quoted(String(cell))).join(",")).join("\n")}\n`;
}

// The indices of the n-th value along each axis: "3 5" of rows and columns.
function placeOf(n, size) {
  const indices = [];
  for (let axis = size.length - 1; axis >= 0; axis -= 1) {
    indices.unshift(n % size[axis]);
    n = Math.floor(n / size[axis]);
  }
  return indices.join(" ");
}

function nameOfFile(ending) {
  const at = settled();
  const words = [data.samples[at.sample].name, chosen.view === "grid" ? "grid" : `${data.methods[at.method]} ${data.sites[at.site]}`];
  return `${words.join(" ").replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 80)}.${ending}`;
}

function hand(blob, ending) {
  const link = make("a", "", { href: URL.createObjectURL(blob), download: nameOfFile(ending) });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  tell(`Saved as ${link.download}.`);
}

async function savePng() {
  const { text, width, height } = seenAsSvg();
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
  await image.decode();
  const canvas = make("canvas", "", { width: width * PNG_SCALE, height: height * PNG_SCALE });
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  canvas.toBlob((blob) => hand(blob, "png"), "image/png");
}

function listenToSaving() {
  $("png").addEventListener("click", savePng);
  $("svg").addEventListener("click", () => hand(new Blob([seenAsSvg().text], { type: "image/svg+xml" }), "svg"));
  $("csv").addEventListener("click", () => hand(new Blob([seenAsCsv()], { type: "text/csv" }), "csv"));
}
