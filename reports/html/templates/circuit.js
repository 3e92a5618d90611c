// The page of a circuit: the grid of heads, the curves' legend, the graph, attention maps.

const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const DEFAULT = "Point at a head to read its score.";

function make(name, text = "", attributes = {}) {
  const element = document.createElement(name);
  element.textContent = text;
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

function draw(name, attributes = {}, text = "") {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  element.textContent = text;
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

function short(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  const plain = value === 0 || (size >= 1e-3 && size < 1e6);
  const text = plain ? String(Number(value.toPrecision(digits))) : value.toExponential(digits - 1);
  return text.replaceAll("-", "−");
}

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

// The grid.

const cells = [...document.querySelectorAll("#grid-map .cell")];
const columns = Math.max(...data.heads.map((name) => Number(name.split(".")[1]))) + 1;
let method = data.methods[0];
let excess = false;
let current = -1;

function valuesOf() {
  if (!excess || !method.null) return method.values;
  return method.values.map((value, i) => (value === null ? null : value - (method.null[i] ?? 0)));
}

function paintGrid() {
  const values = valuesOf();
  const most = Math.max(...values.map((value) => Math.abs(value ?? 0))) || 1;
  cells.forEach((cell, i) => {
    const rect = cell.querySelector(".value");
    const value = values[i] ?? 0;
    const share = Math.sqrt(Math.abs(value) / most); // a few heads are far above the others
    rect.setAttribute("fill-opacity", String(Math.round(share * 1000) / 1000));
    rect.classList.toggle("minus", value < 0);
  });
  const least = Math.min(...values.map((value) => value ?? 0));
  const what = excess && method.null ? "score minus the mean of its null" : "score";
  const minus = least < 0 ? ` Orange: below 0, down to ${short(least)}.` : "";
  $("range").textContent = `${method.name}: ${what}, up to ${short(Math.max(...values.map((v) => v ?? 0)))}.${minus}`;
  document.querySelector("[name=shown][value=excess]").disabled = !method.null;
  tellHead(current);
}

function tellHead(place) {
  if (place < 0) {
    $("about-head").replaceChildren(make("p", DEFAULT, { class: "quiet" }));
    return;
  }
  const rank = method.values.filter((value) => value !== null && value > method.values[place]).length + 1;
  const rows = [
    ["score", short(method.values[place])],
    ["rank", `${rank} of ${data.heads.length}`],
    ["null, mean", method.null && short(method.null[place])],
    ["p", method.p && short(method.p[place])],
    ["q", method.q && short(method.q[place])],
    ["with its sign", method.signed && short(method.signed[place])],
    ["measured effect", data.effects && short(data.effects[place])],
  ];
  const list = make("dl");
  for (const [name, value] of rows) if (value) list.append(make("dt", name), make("dd", value));
  const inside = data.inside && (data.inside[place] ? "in the circuit" : "not in the circuit");
  const told = [make("h3", `Head ${data.heads[place]}`), make("p", [method.name, inside].filter(Boolean).join(", "), { class: "quiet" }), list];
  if (cells[place].classList.contains("linked")) told.push(make("a", "Go to its section", { href: `#head-${data.heads[place]}` }));
  $("about-head").replaceChildren(...told);
}

function point(place) {
  cells[current]?.classList.remove("current");
  current = place;
  cells[current]?.classList.add("current");
  tellHead(current);
}

function goTo(place) {
  if (cells[place]?.classList.contains("linked")) location.hash = `head-${data.heads[place]}`;
}

function moveInGrid(event) {
  const [layer, head] = (data.heads[Math.max(current, 0)]).split(".").map(Number);
  const by = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
  if (event.key === "Enter") goTo(current);
  if (!by) return;
  event.preventDefault();
  const wanted = current < 0 ? 0 : data.heads.indexOf(`${layer + by[0]}.${clamp(head + by[1], 0, columns - 1)}`);
  if (wanted >= 0) point(wanted);
}

function listenToGrid() {
  const cellOf = (event) => cells.indexOf(event.target.closest(".cell"));
  $("grid-map").addEventListener("pointermove", (event) => {
    const place = cellOf(event);
    if (place >= 0 && place !== current) point(place);
  });
  $("grid-map").addEventListener("click", (event) => goTo(cellOf(event)));
  $("grid-map").addEventListener("keydown", moveInGrid);
  $("methods").addEventListener("change", (event) => {
    method = data.methods[Number(event.target.value)];
    paintGrid();
  });
  $("views").addEventListener("change", (event) => {
    excess = event.target.value === "excess";
    paintGrid();
  });
}

// Legend and graph.

function listenToLegend() {
  $("toggles")?.addEventListener("change", (event) => {
    for (const line of document.querySelectorAll(`.curves [data-method="${event.target.value}"]`)) {
      line.toggleAttribute("hidden", !event.target.checked);
    }
  });
}

function listenToGraph() {
  const net = $("net");
  if (!net) return;
  const show = (node) => {
    const place = node?.dataset.node;
    const near = new Set([place]);
    for (const edge of net.querySelectorAll("g.edge")) {
      const own = edge.dataset.from === place || edge.dataset.to === place;
      edge.classList.toggle("faded", Boolean(node) && !own);
      if (own) near.add(edge.dataset.from).add(edge.dataset.to);
    }
    for (const one of net.querySelectorAll(".node")) {
      one.classList.toggle("faded", Boolean(node) && !near.has(one.dataset.node));
    }
  };
  for (const node of net.querySelectorAll(".node")) {
    node.addEventListener("pointerenter", () => show(node));
    node.addEventListener("pointerleave", () => show(null));
    node.addEventListener("focus", () => show(node));
    node.addEventListener("blur", () => show(null));
  }
}

// Attention maps: queries down, keys across.

const MOST_LETTERS = 12;

function bytesOf(map) {
  map.values ??= Uint8Array.from(atob(map.bytes), (sign) => sign.charCodeAt(0));
  return map.values;
}

function accent() {
  const text = getComputedStyle(document.documentElement).getPropertyValue("--accent").trim();
  return [1, 3, 5].map((i) => parseInt(text.slice(i, i + 2), 16));
}

function pictureOf(map) {
  const [rows, across] = map.size;
  const canvas = make("canvas");
  canvas.width = across;
  canvas.height = rows;
  const context = canvas.getContext("2d");
  const image = context.createImageData(across, rows);
  const colour = accent();
  bytesOf(map).forEach((value, i) => image.data.set([...colour, value], i * 4));
  context.putImageData(image, 0, 0);
  return canvas.toDataURL();
}

// Patches by row and column, other tokens by what they are.
function placesOf(map) {
  const [, across, others] = map.grid;
  return [...Array(Math.max(...map.size)).keys()].map((i) => {
    const place = i - others;
    return place < 0 ? (i ? `extra ${i}` : "class") : `${Math.floor(place / across)},${place % across}`;
  });
}

function labelOf(words, i) {
  const text = words[i] ?? String(i);
  return text.length > MOST_LETTERS ? `${text.slice(0, MOST_LETTERS - 1)}…` : text;
}

class Attention {
  constructor(box) {
    this.box = box;
    this.maps = data.maps[box.dataset.place];
    this.svg = box.querySelector(".map");
    this.svg.addEventListener("pointermove", (event) => this.pointed(event));
    this.svg.addEventListener("keydown", (event) => this.pressed(event));
    this.show(0);
  }

  show(prompt) {
    this.map = this.maps[prompt];
    this.photo = data.prompts[prompt].photo;
    this.words = this.map.grid ? placesOf(this.map) : data.prompts[prompt].words;
    const [rows, across] = this.map.size;
    const first = this.map.grid?.[2] ? 0 : rows - 1; // the class token, where there is one
    this.at = [first, this.best(first)];
    this.cell = clamp(Math.floor(520 / Math.max(rows, across)), 3, 24);
    const letters = Math.max(2, ...[...Array(Math.max(rows, across)).keys()].map((i) => labelOf(this.words, i).length));
    this.margin = Math.min(letters, MOST_LETTERS) * 6.7 + 10;
    const width = across * this.cell;
    const height = rows * this.cell;
    this.svg.setAttribute("width", this.margin + width + 2);
    this.svg.setAttribute("height", this.margin + height + 2);
    const frame = { x: this.margin, y: this.margin, width, height };
    this.marks = {
      row: draw("rect", { class: "row-at", x: this.margin, width, height: this.cell }),
      at: draw("rect", { class: "at", width: this.cell, height: this.cell }),
    };
    this.labels = { from: this.labelled(rows, "from"), to: this.labelled(across, "to") };
    this.svg.replaceChildren(
      this.marks.row,
      draw("image", { ...frame, href: pictureOf(this.map), preserveAspectRatio: "none" }),
      draw("rect", { ...frame, class: "frame" }),
      ...this.labels.from, ...this.labels.to, this.marks.at);
    this.tell();
  }

  labelled(count, side) {
    const every = Math.ceil(11 / this.cell);
    return [...Array(count).keys()].map((i) => {
      const place = this.margin + (i + 0.5) * this.cell;
      const turn = side === "to" ? `translate(${place + 4} ${this.margin - 5}) rotate(-90)` : `translate(${this.margin - 5} ${place + 4})`;
      const shown = i % every === 0 || this.cell >= 11;
      return draw("text", { class: side, transform: turn, ...(shown ? {} : { visibility: "hidden" }) }, labelOf(this.words, i));
    });
  }

  value(row, column) {
    return (bytesOf(this.map)[row * this.map.size[1] + column] / 255) * this.map.top;
  }

  best(row) {
    const across = this.map.size[1];
    const own = bytesOf(this.map).subarray(row * across, (row + 1) * across);
    return own.indexOf(Math.max(...own));
  }

  pointed(event) {
    const box = this.svg.getBoundingClientRect();
    const [rows, across] = this.map.size;
    const column = Math.floor((event.clientX - box.left - this.margin) / this.cell);
    const row = Math.floor((event.clientY - box.top - this.margin) / this.cell);
    if (row < 0 || row >= rows || column >= across) return;
    this.move(row, column < 0 ? this.best(row) : column);
  }

  pressed(event) {
    const by = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!by) return;
    event.preventDefault();
    const [rows, across] = this.map.size;
    this.move(clamp(this.at[0] + by[0], 0, rows - 1), clamp(this.at[1] + by[1], 0, across - 1));
  }

  move(row, column) {
    if (row === this.at[0] && column === this.at[1]) return;
    this.at = [row, column];
    this.tell();
  }

  tell() {
    const [row, column] = this.at;
    const place = (i) => this.margin + i * this.cell;
    this.marks.row.setAttribute("y", place(row));
    this.marks.at.setAttribute("x", place(column));
    this.marks.at.setAttribute("y", place(row));
    this.labels.from.forEach((label, i) => label.classList.toggle("on", i === row));
    this.labels.to.forEach((label, i) => label.classList.toggle("on", i === column));
    const word = (i) => (this.words[i] ?? "").trim() || this.words[i];
    const named = (i) => (this.words[i] === undefined ? `${i}` : this.photo ? `“${word(i)}”` : `${i} “${word(i)}”`);
    this.box.querySelector(".readout").replaceChildren(
      `Token ${named(row)} attends to ${named(column)}: `, make("strong", short(this.value(row, column))));
    this.read(row);
  }

  // The picture, each patch as bright as the chosen token attends to it.
  look(row) {
    const [rows, across, others] = this.map.grid;
    const size = { width: 256, height: Math.round((256 * rows) / across) };
    const picture = draw("svg", { ...size, role: "img", "aria-label": `What token ${this.words[row]} attends to` });
    picture.append(draw("image", { ...size, href: this.photo, preserveAspectRatio: "none" }));
    const most = this.value(row, this.best(row)) || 1;
    const step = [size.width / across, size.height / rows];
    for (let i = others; i < this.map.size[1]; i += 1) {
      const [y, x] = [Math.floor((i - others) / across), (i - others) % across];
      const patch = draw("rect", { class: "patch", x: x * step[0], y: y * step[1], width: step[0], height: step[1], "fill-opacity": (0.85 * this.value(row, i)) / most });
      patch.append(draw("title", {}, `row ${y}, column ${x}: ${short(this.value(row, i))}`));
      picture.append(patch);
    }
    this.box.querySelector(".reading-told").textContent = `What token ${this.words[row]} attends to on the picture.`;
    this.box.querySelector(".reading").replaceChildren(picture);
  }

  // The prompt itself, each token as dark as the chosen one attends to it.
  read(row) {
    if (this.map.grid) this.look(row);
    if (this.photo || !this.words.length) return;
    const last = row === this.map.size[0] - 1;
    this.box.querySelector(".reading-told").textContent = `What ${last ? "the last token" : `token ${row}`} attends to; choose another one.`;
    const [r, g, b] = accent();
    this.box.querySelector(".reading").replaceChildren(...this.words.map((word, i) => {
      const share = i < this.map.size[1] ? this.value(row, i) : 0;
      const token = make("span", word, { title: `${i}: ${short(share)}` });
      token.style.backgroundColor = `rgb(${r} ${g} ${b} / ${share * 0.75})`;
      token.classList.toggle("query", i === row);
      token.addEventListener("click", () => this.move(i, this.best(i)));
      return token;
    }));
  }
}

function listenToMaps() {
  const maps = [...document.querySelectorAll(".attention")].map((box) => new Attention(box));
  document.addEventListener("change", (event) => {
    if (!event.target.closest(".which")) return;
    const { value } = event.target;
    for (const input of document.querySelectorAll(".which input")) input.checked = input.value === value;
    maps.forEach((map) => map.show(Number(value)));
  });
  dark.addEventListener("change", () => maps.forEach((map) => {
    map.svg.querySelector("image").setAttribute("href", pictureOf(map.map));
    map.tell();
  }));
}

paintGrid();
listenToGrid();
listenToLegend();
listenToGraph();
listenToMaps();
