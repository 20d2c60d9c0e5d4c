"use strict";

const percent = (value) => `${Math.round(100 * value)} %`;

/** Say what a slider stands at, to eyes and to screen readers. */
function show(slider, text) {
  slider.setAttribute("aria-valuetext", text);
  slider.parentElement.querySelector("output").textContent = text;
}

/** Photographs after a removal: the fraction chooses the picture, the opacity lays the whole photograph over it. */
function showSteps(viewer, data) {
  const part = (name) => viewer.querySelector(`[data-${name}]`);
  const fraction = viewer.querySelector("input[data-fraction]");
  const opacity = viewer.querySelector("input[data-opacity]");
  const update = () => {
    const removal = viewer.querySelector("input[data-removal]:checked").value;
    const number = Number(fraction.value);
    const step = number === 0 ? data.whole : data.steps[removal][number - 1];
    part("picture").src = step.picture;
    part("over").style.opacity = opacity.value / 100;
    part("says").textContent = number === 0 ? `Whole: ${step.says}` : `The model says ${step.says}`;
    show(fraction, number === 0 ? "0 %" : percent(step.fraction));
    show(opacity, `${opacity.value} %`);
  };
  viewer.addEventListener("input", update);
  update();
}

/** Explanations: the opacity is that of the heat map, the fraction hides what it calls most important. */
function showViews(viewer, data) {
  const part = (name) => viewer.querySelector(`[data-${name}]`);
  const fraction = viewer.querySelector("input[data-fraction]");
  const opacity = viewer.querySelector("input[data-opacity]");
  const canvas = part("holes");
  const ranks = {};
  const update = () => {
    const removal = viewer.querySelector("input[data-removal]:checked").value;
    const view = data.views[removal];
    const left = view.left[Number(fraction.value)];
    if (part("over").src !== view.heat_map) part("over").src = view.heat_map;
    part("over").style.opacity = opacity.value / 100;
    part("says").textContent = `${data.target}: ${left.says} left with ${percent(left.fraction)} removed`;
    show(fraction, percent(left.fraction));
    show(opacity, `${opacity.value} %`);
    if (ranks[removal]) drawHoles(canvas, ranks[removal], left.fraction);
  };
  for (const [removal, view] of Object.entries(data.views)) {
    const image = new Image();
    image.addEventListener("load", () => { ranks[removal] = image; update(); });
    image.src = view.ranks;
  }
  viewer.addEventListener("input", update);
  update();
}

/** Paint chequers over the pixels that go first. */
function drawHoles(canvas, ranks, fraction) {
  canvas.width = ranks.naturalWidth;
  canvas.height = ranks.naturalHeight;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(ranks, 0, 0);
  const picture = context.getImageData(0, 0, canvas.width, canvas.height);
  for (let i = 0; i < picture.data.length; i += 4) {
    const position = i / 4, x = position % canvas.width, y = Math.floor(position / canvas.width);
    const isHidden = picture.data[i] < 100 * fraction - 1e-6;
    const shade = ((x >> 3) + (y >> 3)) % 2 ? 199 : 237;
    picture.data.set([shade, shade, shade, isHidden ? 255 : 0], i);
  }
  context.putImageData(picture, 0, 0);
}

for (const viewer of document.querySelectorAll("[data-viewer]")) {
  const data = JSON.parse(viewer.querySelector("script").textContent);
  (viewer.dataset.viewer === "steps" ? showSteps : showViews)(viewer, data);
}

/** One chart at a time, with the lines that are ticked. */
for (const section of document.querySelectorAll("[data-charts]")) {
  const select = section.querySelector("[data-chart]");
  const update = () => {
    for (const chart of section.querySelectorAll(".chart")) chart.hidden = chart.id !== select.value;
    const shown = new Set([...section.querySelectorAll("[data-line]:checked")].map((box) => box.value));
    for (const line of section.querySelectorAll("g.line, tr[data-removal]")) {
      line.classList.toggle("is-off", !shown.has(line.dataset.removal));
    }
  };
  section.addEventListener("input", update);
  update();
}

/** Tables sort by a column; a second click turns the order round. */
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const isDown = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((one) => one.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", isDown ? "descending" : "ascending");
      const key = (row) => {
        const cell = row.cells[column], value = Number(cell.dataset.value);
        return "value" in cell.dataset && !Number.isNaN(value) ? value : cell.textContent.trim();
      };
      const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
      const rows = [...table.tBodies[0].rows].sort((a, b) => compare(key(a), key(b)) * (isDown ? -1 : 1));
      table.tBodies[0].append(...rows);
    });
  });
}
