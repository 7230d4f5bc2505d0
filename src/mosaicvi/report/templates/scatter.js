// The picture of the cells: a software rasteriser on a canvas, which draws 50,000 cells in a few milliseconds
// on any machine, with or without a graphics card.
"use strict";
(async () => {
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);
  const n = data.n;
  const said = $("said");
  if (typeof DecompressionStream === "undefined") {
    said.textContent = "This browser is too old to show the cells (2023 or newer is needed).";
    return;
  }

  // --- reading -------------------------------------------------------------------------------
  async function unpack(text) {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }
  async function unpackSteps(text) {
    const values = await unpack(text);
    for (let i = 1; i < values.length; i++) values[i] = (values[i] + values[i - 1]) & 255;
    return values;
  }
  const places = new Uint16Array((await unpack(data.places)).buffer);
  const x = places.subarray(0, n), y = places.subarray(n);
  const names = data.cells ? new TextDecoder().decode(await unpack(data.cells)).split("\n") : null;
  const columns = data.columns, features = data.features;
  for (const c of columns) c.values = await unpackSteps(c.data);

  // Cells are drawn in random order, always the same one, so that no group lies on top.
  const order = new Uint32Array(n);
  let state = 12345;
  for (let i = 0; i < n; i++) order[i] = i;
  for (let i = n - 1; i > 0; i--) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    const j = state % (i + 1), keep = order[i];
    order[i] = order[j];
    order[j] = keep;
  }

  // --- colours -------------------------------------------------------------------------------
  const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  const little = ([r, g, b]) => (255 << 24 | b << 16 | g << 8 | r) >>> 0;
  const missing = little(rgb(data.missing)), faint = little([230, 230, 230]);
  const ramp = data.ramp.map((c) => little(rgb(c)));
  const color = new Uint32Array(n);
  let shown = null, single = -1;

  function paint() {
    const v = shown.values, table = new Uint32Array(256).fill(missing);
    if (shown.kind === "names") {
      shown.colors.forEach((c, i) => { table[i] = single < 0 || single === i ? little(rgb(c)) : faint; });
    } else {
      for (let i = 0; i < data.levels; i++) table[i] = ramp[i];
    }
    for (let i = 0; i < n; i++) color[i] = table[v[i]];
    draw();
  }

  // --- drawing -------------------------------------------------------------------------------
  const stage = $("stage"), canvas = $("points"), over = $("over"), tip = $("tip");
  const pen = canvas.getContext("2d"), mark = over.getContext("2d");
  const view = { scale: 1, dx: 0, dy: 0 };
  let W = 0, H = 0, ratio = 1, unit = 1, image = null, pixels = null, waiting = false, later = 0, hovered = -1;
  const maxX = Math.max(1, x.reduce((a, b) => Math.max(a, b), 0));
  const maxY = Math.max(1, y.reduce((a, b) => Math.max(a, b), 0));

  // A canvas that changes its size for the printer comes out empty, so a picture of it stands in there.
  function resize() {
    if (window.matchMedia("print").matches) return;
    ratio = Math.min(window.devicePixelRatio || 1, 2);
    W = Math.max(1, Math.round(stage.clientWidth * ratio));
    H = Math.max(1, Math.round(stage.clientHeight * ratio));
    for (const c of [canvas, over]) { c.width = W; c.height = H; }
    image = pen.createImageData(W, H);
    pixels = new Uint32Array(image.data.buffer);
    unit = Math.min(0.92 * W / maxX, 0.92 * H / maxY);
    drawNow();
  }
  const px = (i) => W / 2 + ((x[i] - maxX / 2) * unit + view.dx * ratio) * view.scale;
  const py = (i) => H / 2 - ((y[i] - maxY / 2) * unit - view.dy * ratio) * view.scale;

  // A disc as offsets with how much of each pixel it covers, so that edges are smooth.
  function disc(r) {
    const out = [], reach = Math.ceil(r);
    for (let b = -reach; b <= reach; b++) {
      for (let a = -reach; a <= reach; a++) {
        const cover = Math.min(1, Math.max(0, r + 0.5 - Math.hypot(a, b)));
        if (cover > 0.1) out.push([a, b, Math.round(cover * 256)]);
      }
    }
    return out;
  }
  function draw() {
    if (!waiting) { waiting = true; requestAnimationFrame(drawNow); }
  }
  function drawNow() {
    waiting = false;
    if (!pixels || !shown) return;
    pixels.fill(0xffffffff);
    const base = 2.6 * Math.pow(2000 / Math.max(n, 500), 0.33) * Math.sqrt(Math.min(W, H) / ratio / 600);
    const r = Math.min(7, Math.max(0.6, base) * Math.pow(view.scale, 0.45)) * ratio;
    const stamp = disc(r), reach = Math.ceil(r) + 1;
    for (let pass = single < 0 ? 1 : 0; pass < 2; pass++) {
      for (let k = 0; k < n; k++) {
        const i = order[k];
        if (single >= 0 && (shown.values[i] === single) !== (pass === 1)) continue;
        const cx = Math.round(px(i)), cy = Math.round(py(i));
        if (cx < -reach || cy < -reach || cx > W + reach || cy > H + reach) continue;
        const c = color[i];
        for (let s = 0; s < stamp.length; s++) {
          const ax = cx + stamp[s][0], ay = cy + stamp[s][1];
          if (ax < 0 || ay < 0 || ax >= W || ay >= H) continue;
          const at = ay * W + ax, cover = stamp[s][2];
          if (cover >= 250) { pixels[at] = c; continue; }
          const old = pixels[at], rest = 256 - cover;
          pixels[at] = (0xff000000
            | ((((c & 0xff00ff) * cover + (old & 0xff00ff) * rest) >>> 8) & 0xff00ff)
            | ((((c >>> 8 & 0xff) * cover + (old >>> 8 & 0xff) * rest) >>> 8) << 8)) >>> 0;
        }
      }
    }
    pen.putImageData(image, 0, 0);
    clearTimeout(later);
    later = setTimeout(() => { $("paper").src = canvas.toDataURL(); }, 400);
    canvas.classList.toggle("zoomed", view.scale > 1.01);
    ring();
  }
  function ring() {
    mark.clearRect(0, 0, W, H);
    if (hovered < 0) return;
    mark.lineWidth = 2 * ratio;
    mark.strokeStyle = "#000";
    mark.beginPath();
    mark.arc(px(hovered), py(hovered), 7 * ratio, 0, 7);
    mark.stroke();
  }

  // --- finding a cell ------------------------------------------------------------------------
  const side = 128, cellOf = new Uint32Array(n), start = new Uint32Array(side * side + 1);
  for (let i = 0; i < n; i++) {
    cellOf[i] = Math.min(side - 1, x[i] * side / 65536 | 0) + side * Math.min(side - 1, y[i] * side / 65536 | 0);
    start[cellOf[i] + 1]++;
  }
  for (let i = 0; i < side * side; i++) start[i + 1] += start[i];
  const inCell = new Uint32Array(n), fill = start.slice();
  for (let i = 0; i < n; i++) inCell[fill[cellOf[i]]++] = i;

  function nearest(sx, sy, within) {
    const dataX = (u) => ((u * ratio - W / 2) / view.scale - view.dx * ratio) / unit + maxX / 2;
    const dataY = (v) => -((v * ratio - H / 2) / view.scale - view.dy * ratio) / unit + maxY / 2;
    const bound = (v) => Math.min(side - 1, Math.max(0, v * side / 65536 | 0));
    const x0 = bound(dataX(sx - within)), x1 = bound(dataX(sx + within));
    const y0 = bound(dataY(sy + within)), y1 = bound(dataY(sy - within));
    let best = -1, least = (within * ratio) ** 2;
    for (let gy = y0; gy <= y1; gy++) {
      for (let gx = x0; gx <= x1; gx++) {
        const g = gx + side * gy;
        for (let k = start[g]; k < start[g + 1]; k++) {
          const i = inCell[k], d = (px(i) - sx * ratio) ** 2 + (py(i) - sy * ratio) ** 2;
          if (d < least) { least = d; best = i; }
        }
      }
    }
    return best;
  }
  const number = (v) => Number(v.toPrecision(3)).toString();
  function valueOf(c, i) {
    const v = c.values[i];
    if (c.kind === "names") return c.names[v];
    if (v === 255) return "missing";
    const raw = c.low + v / (data.levels - 1) * (c.high - c.low);
    return number(c.logs ? Math.expm1(raw) : raw);
  }
  function describe(i) {
    const lines = [names ? names[i] : `cell ${i + 1}`];
    if (!columns.includes(shown)) lines.push(`${shown.name}: ${valueOf(shown, i)}`);
    for (const c of columns.slice(0, 8)) lines.push(`${c.name}: ${valueOf(c, i)}`);
    return lines;
  }
  function hover(i, sx, sy) {
    hovered = i;
    ring();
    tip.hidden = i < 0;
    if (i < 0) return;
    tip.replaceChildren(...describe(i).map((line, k) => {
      const div = document.createElement(k ? "div" : "strong");
      div.textContent = line;
      return div;
    }));
    const left = sx > stage.clientWidth / 2, top = sy > stage.clientHeight / 2;
    tip.style.left = left ? "auto" : `${sx + 14}px`;
    tip.style.right = left ? `${stage.clientWidth - sx + 14}px` : "auto";
    tip.style.top = top ? "auto" : `${sy + 14}px`;
    tip.style.bottom = top ? `${stage.clientHeight - sy + 14}px` : "auto";
  }

  // --- moving --------------------------------------------------------------------------------
  function zoom(factor, sx = stage.clientWidth / 2, sy = stage.clientHeight / 2) {
    const before = view.scale;
    view.scale = Math.min(200, Math.max(1, view.scale * factor));
    const ox = sx - stage.clientWidth / 2, oy = sy - stage.clientHeight / 2;
    view.dx += ox / view.scale - ox / before;
    view.dy += oy / view.scale - oy / before;
    if (view.scale === 1) { view.dx = 0; view.dy = 0; }
    hover(-1);
    draw();
  }
  function move(ax, ay) {
    view.dx += ax / view.scale;
    view.dy += ay / view.scale;
    hover(-1);
    draw();
  }
  function reset() { Object.assign(view, { scale: 1, dx: 0, dy: 0 }); hover(-1); draw(); }

  const fingers = new Map();
  const at = (e) => { const box = canvas.getBoundingClientRect(); return [e.clientX - box.left, e.clientY - box.top]; };
  canvas.addEventListener("pointerdown", (e) => {
    canvas.setPointerCapture(e.pointerId);
    fingers.set(e.pointerId, at(e));
    if (e.pointerType === "touch") hover(nearest(...at(e), 22), ...at(e));
  });
  canvas.addEventListener("pointermove", (e) => {
    const here = at(e), there = fingers.get(e.pointerId);
    if (!there) { hover(nearest(...here, 14), ...here); return; }
    if (fingers.size === 1) {
      if (Math.hypot(here[0] - there[0], here[1] - there[1]) < 3) return;
      move(here[0] - there[0], here[1] - there[1]);
    } else if (fingers.size === 2) {
      const other = [...fingers].find(([id]) => id !== e.pointerId)[1];
      const gap = (p) => Math.hypot(p[0] - other[0], p[1] - other[1]) || 1;
      zoom(gap(here) / gap(there), (here[0] + other[0]) / 2, (here[1] + other[1]) / 2);
      move((here[0] - there[0]) / 2, (here[1] - there[1]) / 2);
    }
    fingers.set(e.pointerId, here);
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, (e) => fingers.delete(e.pointerId));
  canvas.addEventListener("pointerleave", () => hover(-1));
  canvas.addEventListener("wheel", (e) => {
    if (document.activeElement !== canvas && !e.ctrlKey && !e.metaKey) return;
    e.preventDefault();
    zoom(Math.exp(-Math.max(-240, Math.min(240, e.deltaY)) * 0.002), ...at(e));
  }, { passive: false });
  canvas.addEventListener("dblclick", (e) => zoom(2, ...at(e)));
  canvas.addEventListener("keydown", (e) => {
    const step = 60, moves = { ArrowLeft: [step, 0], ArrowRight: [-step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] };
    if (moves[e.key]) move(...moves[e.key]);
    else if (e.key === "+" || e.key === "=") zoom(1.5);
    else if (e.key === "-") zoom(1 / 1.5);
    else if (e.key === "0") reset();
    else if (e.key === "Enter" || e.key === " ") {
      const cx = stage.clientWidth / 2, cy = stage.clientHeight / 2, i = nearest(cx, cy, Math.max(cx, cy) * 2);
      if (i >= 0) { hover(i, px(i) / ratio, py(i) / ratio); said.textContent = describe(i).join(", "); }
    } else return;
    e.preventDefault();
  });
  $("in").addEventListener("click", () => zoom(1.5));
  $("out").addEventListener("click", () => zoom(1 / 1.5));
  $("all").addEventListener("click", reset);

  // --- choosing ------------------------------------------------------------------------------
  const by = $("by"), input = $("feature"), key = $("key");
  const make = (tag, more = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), more);
    node.append(...children);
    return node;
  };
  columns.forEach((c, i) => by.append(make("option", { value: String(i), textContent: c.name })));
  const blank = make("option", { value: "", textContent: "(a feature)", hidden: true });
  by.append(blank);
  const times = new Map();
  for (const f of features) times.set(f.name, (times.get(f.name) || 0) + 1);
  const label = (f) => times.get(f.name) > 1 ? `${f.name} (${f.modality})` : f.name;
  const byName = new Map();
  for (const f of features) byName.set(label(f).toLowerCase(), f);
  $("features").append(...features.map((f) => make("option", { value: label(f), label: `${label(f)}, ${f.modality}` })));

  function legend() {
    const title = make("h3", { textContent: shown.modality ? `${shown.name}, imputed ${shown.modality}` : shown.name });
    if (shown.kind === "numbers") {
      const stops = data.ramp.filter((_, i) => i % 7 === 0);
      const bar = make("div", { className: "ramp" });
      bar.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
      const ends = [shown.low, shown.high].map((v) => number(shown.logs ? Math.expm1(v) : v));
      key.replaceChildren(title, bar, make("div", { className: "ends" }, ...ends.map((t) => make("span", { textContent: t }))),
        make("p", { className: "hint", textContent: shown.modality ? data.scales[shown.modality] : "grey: missing" }));
      return;
    }
    const count = new Uint32Array(shown.names.length);
    for (let i = 0; i < n; i++) count[shown.values[i]]++;
    const list = make("ul");
    shown.names.forEach((name, i) => {
      const dot = make("span", { className: "swatch" });
      dot.style.background = shown.colors[i];
      const button = make("button", { type: "button" }, dot, make("span", { textContent: name }), make("span", { textContent: count[i].toLocaleString("en") }));
      button.setAttribute("aria-pressed", "false");
      button.addEventListener("click", () => {
        single = single === i ? -1 : i;
        list.querySelectorAll("button").forEach((b, j) => b.setAttribute("aria-pressed", String(j === single)));
        paint();
      });
      list.append(make("li", {}, button));
    });
    key.replaceChildren(title, list);
  }
  function show(c) {
    shown = c;
    single = -1;
    hover(-1);
    legend();
    paint();
    document.documentElement.dataset.shown = c.modality ? `${c.modality}:${c.name}` : c.name;
  }
  by.addEventListener("change", () => {
    if (by.value === "") return;
    input.value = "";
    said.textContent = `Coloured by ${columns[by.value].name}.`;
    show(columns[by.value]);
  });
  async function typed(final) {
    const text = input.value.trim().toLowerCase();
    if (!text) return;
    let f = byName.get(text);
    if (!f && final) {
      const first = [...byName.keys()].filter((k) => k.startsWith(text));
      f = first.length ? byName.get(first[0]) : null;
      if (!f) said.textContent = `No feature “${input.value.trim()}” in this page.`;
    }
    if (!f) return;
    f.values = f.values || await unpackSteps(f.data);
    by.value = "";
    input.value = label(f);
    said.textContent = `Coloured by imputed ${f.name} (${f.modality}).`;
    show(f);
  }
  input.addEventListener("input", () => typed(false));
  input.addEventListener("change", () => typed(true));
  input.addEventListener("keydown", (e) => { if (e.key === "Enter") { e.preventDefault(); typed(true); } });

  new ResizeObserver(resize).observe(stage);
  resize();
  show(columns[0] || { name: "cells", kind: "names", names: ["cell"], colors: [data.missing], values: new Uint8Array(n) });
  document.documentElement.dataset.ready = "yes";
})();
