// The page of a data set: its galleries, and the way from them to the large view.

function paintGallery(gallery) {
  for (const button of gallery.querySelectorAll(".shown:not(.painted)")) {
    const map = data.maps[Number(button.dataset.map)];
    drawSmall(button.firstElementChild, map, 256);
    button.classList.add("painted");
  }
}

function showLarge(map) {
  const [sample, target, site, method] = map.at;
  choose({ sample, target, site, method, view: "picture" });
  requestAnimationFrame(() => {
    $("closer").scrollIntoView();
    $("stage").focus({ preventScroll: true });
  });
}

function listenToGalleries() {
  const galleries = [...document.querySelectorAll(".galleries")];
  $("by").addEventListener("change", (event) => {
    for (const gallery of galleries) {
      gallery.hidden = gallery.dataset.by !== event.target.value;
      if (!gallery.hidden) paintGallery(gallery);
    }
  });
  for (const button of document.querySelectorAll(".shown")) {
    button.addEventListener("click", () => showLarge(data.maps[Number(button.dataset.map)]));
  }
  paintGallery(galleries[0]);
  window.addEventListener("beforeprint", () => galleries.forEach(paintGallery));
}

if ($("by")) Promise.all(photos.filter(Boolean).map((photo) => photo.decode().catch(() => null))).then(listenToGalleries);
