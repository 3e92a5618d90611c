// The figures of a token mixer: small maps over the picture, those of a group on one scale.

function paintFigures() {
  for (const canvas of document.querySelectorAll(".tiles canvas")) {
    const map = data.figures[Number(canvas.dataset.map)];
    const group = data.figures.filter(({ group }) => group === map.group);
    const scale = scaleOf("auto", limits(group, "both"));
    const over = map.kind === "image";
    const look = { sign: "both", smooth: over, fade: over, foci: false, areas: false, opacity: 0.8, scale };
    drawOver(canvas, groundOf(map), map, look, palettes[scale.name], canvas.closest(".wide") ? 960 : 320);
  }
}

Promise.all(photos.filter(Boolean).map((photo) => photo.decode().catch(() => null))).then(paintFigures);
