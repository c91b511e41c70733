"use strict";
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

// Theme: as the system says, until the reader says otherwise.
const themes = ["auto", "light", "dark"];
const themeButton = document.getElementById("theme");
themeButton.hidden = false;
themeButton.addEventListener("click", () => {
  const root = document.documentElement;
  const next = themes[(themes.indexOf(root.dataset.theme || "auto") + 1) % themes.length];
  root.dataset.theme = next;
  themeButton.textContent = "Theme: " + next;
});

// Charts: the values nearest to the pointer. The paths hold them; data-limits says what the frame means.
for (const svg of all("svg.chart")) {
  const out = svg.parentElement.querySelector("output"), short = value => Number(value.toPrecision(4)).toString();
  const [x0, x1, y0, y1, left, right, top, bottom] = svg.dataset.limits.split(" ").map(Number);
  const lines = all("path[data-label]", svg).map(path => ({
    label: path.dataset.label,
    points: path.getAttribute("d").slice(1).split("L").map(pair => pair.split(" ").map(Number)),
  }));
  if (!lines.length) continue;
  const cross = document.createElementNS("http://www.w3.org/2000/svg", "path");
  cross.setAttribute("class", "cross");
  svg.append(cross);
  svg.addEventListener("pointermove", event => {
    const box = svg.getBoundingClientRect();
    const at = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
    let nearest = null;
    const values = lines.map(line => {
      const point = line.points.reduce((a, b) => Math.abs(b[0] - at) < Math.abs(a[0] - at) ? b : a);
      if (nearest === null || Math.abs(point[0] - at) < Math.abs(nearest - at)) nearest = point[0];
      return line.label + " " + short(y0 + (bottom - point[1]) / (bottom - top) * (y1 - y0));
    });
    const x = x0 + (nearest - left) / (right - left) * (x1 - x0);
    cross.setAttribute("d", `M${nearest} ${top}V${bottom}`);
    out.textContent = "at " + short(x) + ": " + values.join(" · ");
  });
  svg.addEventListener("pointerleave", () => { out.textContent = ""; cross.removeAttribute("d"); });
}

// Tables that can be sorted: a click on a heading; numbers by value, text by its letters, gaps last.
for (const table of all("table.sortable")) {
  all("th", table).forEach((heading, column) => {
    const button = document.createElement("button");
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const down = heading.getAttribute("aria-sort") === "ascending";
      all("th", table).forEach(other => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = row => row.cells[column].dataset.value;
      const rows = all("tbody tr", table).sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === "" || y === "") return (x === "") - (y === "");
        const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
        return down ? -order : order;
      });
      table.tBodies[0].append(...rows);
    });
  });
}

// Answers: search, outcome, which models, order; ten at first.
const answers = document.getElementById("answer-list");
if (answers) {
  const items = all(".answer", answers), more = answers.querySelector(".more"), count = answers.querySelector(".count");
  const search = answers.querySelector("[type=search]"), outcome = answers.querySelector(".outcome"), order = answers.querySelector(".order");
  let shown = 10;
  const update = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const match = items.filter(item =>
      (!outcome || !outcome.value || item.dataset.outcome === outcome.value) &&
      words.every(word => item.textContent.toLowerCase().includes(word)));
    if (order) match.sort((a, b) => order.value === "0" ? a.dataset.index - b.dataset.index :
      (b.dataset.gain - a.dataset.gain) * (order.value === "gain" ? 1 : -1));
    items.forEach(item => { item.hidden = true; });
    match.forEach((item, i) => { item.hidden = i >= shown; more.before(item); });
    count.textContent = `${Math.min(shown, match.length)} of ${match.length} prompts`;
    more.hidden = shown >= match.length;
  };
  const restart = () => { shown = 10; update(); };
  for (const control of [search, outcome, order]) if (control) control.addEventListener("input", restart);
  more.addEventListener("click", () => { shown += 20; update(); });
  for (const box of all(".model", answers)) box.addEventListener("input", () => {
    all(`[data-model="${CSS.escape(box.value)}"]`, answers).forEach(part => { part.hidden = !box.checked; });
  });
  answers.querySelector(".controls").hidden = false;
  update();
}

// Tokens: which quantity colours them and is written below. Blue is above zero, orange below.
const quantity = document.getElementById("quantity");
if (quantity) {
  quantity.closest(".controls").hidden = false;
  const paint = () => {
    for (const row of all(".tokens")) {
      const spans = all("span", row), values = spans.map(span => span.dataset[quantity.value]);
      const most = Math.max(1e-12, ...values.filter(v => v !== "").map(v => Math.abs(v)));
      spans.forEach((span, i) => {
        const value = values[i] === "" ? 0 : Number(values[i]);
        span.style.background = `rgb(${value >= 0 ? "0 114 178" : "213 94 0"} / ${(0.55 * Math.abs(value) / most).toFixed(2)})`;
        span.querySelector("small").textContent = values[i] === "" ? "-" : value.toFixed(2).replace("-", "\u2212");
      });
    }
  };
  quantity.addEventListener("input", paint);
  paint();
}

for (const button of all(".copy")) {
  button.hidden = !navigator.clipboard;
  button.addEventListener("click", () => navigator.clipboard.writeText(document.getElementById(button.dataset.of).textContent));
}
