// The page docs/explorer.md: a method, two times, what its jumps do. State is in the address, so that a view can be shared.
(function () {
  "use strict";
  const root = document.getElementById("explorer");
  window.addEventListener("error", (event) => (root.dataset.error = event.message));

  const data = window.explorerData, { layers, jump, lines } = window.explorerNetwork;
  const flow = lines(data.lines, data.times, data.range), nets = {};
  const RULES = [["true error", "true error"], ["eulerian", "Eulerian"], ["lagrangian", "Lagrangian"], ["compositional", "compositional"]];
  const VIEW = 3.2, LOW = 0.01, HIGH = 3; // half the width of the plane; ends of the scale of errors
  const state = { method: data.methods[0].name, rule: "true error", s: 1, t: 0, steps: 1 };
  const find = (selector) => root.querySelector(selector);
  const plane = find(".explorer-points"), map = find(".explorer-map");
  const field = (name) => find(`[name="${name}"]`);
  const chosen = () => data.methods.find((method) => method.name === state.method);
  const net = (method) => (nets[method.name] ||= layers(method.weights, data.network));

  // Points are coloured by the square of the board on which the exact flow lands.
  const ends = flow.at(0), colours = [];
  for (let p = 0; p < flow.points; p++) {
    const column = Math.floor(Math.min(Math.max(ends[2 * p], -1.999), 1.999)), row = Math.floor(Math.min(Math.max(ends[2 * p + 1], -1.999), 1.999));
    const hue = (Math.atan2(row + 0.5, column + 0.5) / Math.PI) * 180 + (Math.hypot(row + 0.5, column + 0.5) > 1 ? 0 : 22);
    colours.push(`hsl(${(hue + 360) % 360} 78% 56%)`);
  }

  // ---------------------------------------------------------------------------------------------- drawing

  function context(canvas) {
    const width = canvas.clientWidth, ratio = window.devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * ratio)) canvas.width = canvas.height = Math.round(width * ratio);
    const paint = canvas.getContext("2d");
    paint.setTransform(ratio, 0, 0, ratio, 0, 0);
    paint.clearRect(0, 0, width, width);
    return [paint, width];
  }

  const ink = () => getComputedStyle(document.body).color;

  function board(paint, scale, middle) {
    paint.globalAlpha = 0.07;
    paint.fillStyle = ink();
    for (let column = -2; column < 2; column++)
      for (let row = -2; row < 2; row++)
        if ((column + row) % 2 === 0) paint.fillRect(middle + column * scale, middle - (row + 1) * scale, scale, scale);
    paint.globalAlpha = 1;
  }

  function drawPlane() {
    const [paint, width] = context(plane), scale = width / (2 * VIEW), middle = width / 2;
    const X = (x) => middle + scale * x, Y = (y) => middle - scale * y;
    const source = flow.at(state.s), exact = flow.at(state.t);
    const landed = jump(net(chosen()), data.network.harmonics, source, state.s, state.t, state.steps);
    board(paint, scale, middle);
    const dot = (xy, p, radius, fill) => {
      paint.beginPath();
      paint.arc(X(xy[2 * p]), Y(xy[2 * p + 1]), radius, 0, 7);
      fill ? paint.fill() : paint.stroke();
    };
    for (let p = 0; p < flow.points; p++) {
      paint.fillStyle = paint.strokeStyle = colours[p];
      if (field("jumps").checked && p % 2 === 0) {
        paint.globalAlpha = 0.28;
        paint.lineWidth = 0.8;
        paint.beginPath();
        paint.moveTo(X(source[2 * p]), Y(source[2 * p + 1]));
        paint.lineTo(X(landed[2 * p]), Y(landed[2 * p + 1]));
        paint.stroke();
      }
      paint.globalAlpha = 0.3;
      if (field("source").checked) dot(source, p, width / 330, true);
      paint.globalAlpha = 0.85;
      paint.lineWidth = 1;
      if (field("exact").checked) dot(exact, p, width / 130, false);
      paint.globalAlpha = 1;
      if (field("landings").checked) dot(landed, p, width / 210, true);
    }
    paint.globalAlpha = 1;
    root.dataset.landing = JSON.stringify(Array.from(landed.slice(0, 8)));
    return [landed, exact];
  }

  // From dark blue over violet to yellow, on a logarithmic scale.
  function heat(value) {
    const share = Math.min(Math.max(Math.log(value / LOW) / Math.log(HIGH / LOW), 0), 1);
    const stops = [[22, 18, 64], [84, 22, 122], [168, 46, 124], [232, 96, 92], [252, 172, 96], [252, 240, 178]];
    const place = share * (stops.length - 1), low = Math.min(Math.floor(place), stops.length - 2);
    const mixed = stops[low].map((part, i) => Math.round(part + (place - low) * (stops[low + 1][i] - part)));
    return `rgb(${mixed})`;
  }

  const EDGE = 26, RIM = 8; // room for the names of the axes, and for the ring on the other sides
  const cellOf = (time) => {
    const [first, last] = data.ends;
    return Math.min(Math.max(Math.round(((time - first) / (last - first)) * (data.cells - 1)), 0), data.cells - 1);
  };

  function drawMap() {
    const [paint, width] = context(map), side = width - EDGE - RIM, cell = side / data.cells;
    const errors = chosen().errors[state.rule];
    for (let row = 0; row < data.cells; row++)
      for (let column = 0; column < data.cells; column++) {
        const value = errors[row][column];
        if (value === null) continue;
        paint.fillStyle = heat(value);
        paint.fillRect(EDGE + column * cell, RIM + side - (row + 1) * cell, cell + 0.6, cell + 0.6);
      }
    paint.fillStyle = paint.strokeStyle = ink();
    paint.font = "13px system-ui, sans-serif";
    paint.textAlign = "center";
    paint.fillText("source s", EDGE + side / 2, width - 8);
    paint.fillText("0", EDGE + 4, width - 8);
    paint.fillText("1", EDGE + side - 4, width - 8);
    paint.save();
    paint.translate(14, side / 2);
    paint.rotate(-Math.PI / 2);
    paint.fillText("target t", 0, 0);
    paint.restore();
    if (state.t <= state.s) {
      paint.beginPath();
      paint.arc(EDGE + side * state.s, RIM + side * (1 - state.t), 6, 0, 7);
      paint.lineWidth = 4;
      paint.strokeStyle = "#000a";
      paint.stroke();
      paint.lineWidth = 2;
      paint.strokeStyle = "#fff";
      paint.stroke();
    }
    paint.textAlign = "left";
    paint.globalAlpha = 0.75;
    paint.fillText("root mean square,", EDGE + 6, 18);
    paint.fillText("data per unit of time", EDGE + 6, 34);
    const bar = side * 0.42;
    for (let i = 0; i < bar; i++) {
      paint.fillStyle = heat(LOW * (HIGH / LOW) ** (i / bar));
      paint.fillRect(EDGE + 6 + i, 42, 1.5, 8);
    }
    paint.fillStyle = ink();
    paint.fillText(String(LOW), EDGE + 6, 64);
    paint.fillText(String(HIGH), EDGE + bar - 2, 64);
    paint.globalAlpha = 1;
  }

  function drawNumbers(landed, exact) {
    const off = Math.sqrt(landed.reduce((sum, value, i) => sum + (value - exact[i]) ** 2, 0) / flow.points);
    const rows = RULES.map(([name, title]) => {
      const value = state.t <= state.s ? chosen().errors[name][cellOf(state.t)][cellOf(state.s)] : null;
      const shown = value === null ? "–" : value.toPrecision(2);
      const share = value === null ? 0 : Math.min(Math.max(Math.log(value / LOW) / Math.log(HIGH / LOW), 0.02), 1);
      return `<tr><th>${title}</th><td>${shown}</td><td><i style="width:${100 * share}%;background:${heat(value || LOW)}"></i></td></tr>`;
    });
    find(".explorer-errors tbody").innerHTML = rows.join("");
    const near = chosen().distance[state.steps];
    find(".explorer-distance").textContent =
      `${off.toFixed(2)} from the exact flow` + (near ? `; samples in ${state.steps} step${state.steps > 1 ? "s" : ""}: ${near.toFixed(3)} from the data` : "");
  }

  function draw() {
    for (const name of ["s", "t"]) {
      field(name).value = state[name];
      field(name).parentElement.querySelector("output").textContent = state[name].toFixed(2);
    }
    field("steps").value = state.steps;
    for (const button of root.querySelectorAll("[data-choice]")) {
      const on = state[button.dataset.choice] === button.dataset.value;
      button.setAttribute("aria-checked", on);
    }
    drawNumbers(...drawPlane());
    drawMap();
    root.dataset.ready = "yes";
  }

  let waiting = 0;
  function change(parts) {
    Object.assign(state, parts);
    const place = `#${state.method},${state.s},${state.t},${state.steps}`;
    try { history.replaceState(null, "", place); } catch { /* a page from a folder may refuse */ }
    if (!waiting) waiting = setTimeout(() => { waiting = 0; draw(); }, 0);
  }

  // ---------------------------------------------------------------------------------------------- input

  function choices(selector, name, entries) {
    for (const [value, title, hint] of entries) {
      const button = document.createElement("button");
      Object.assign(button, { type: "button", textContent: title, title: hint || "" });
      Object.assign(button.dataset, { choice: name, value });
      button.setAttribute("role", "radio");
      button.addEventListener("click", () => change({ [name]: value }));
      find(selector).append(button);
    }
  }

  choices(".explorer-methods", "method", data.methods.map((method) => [method.name, method.title, method.rule]));
  choices(".explorer-rules", "rule", RULES);
  for (const name of ["s", "t"]) field(name).addEventListener("input", (event) => { stop(); change({ [name]: Number(event.target.value) }); });
  for (const name of ["source", "jumps", "landings", "exact"]) field(name).addEventListener("change", () => change({}));
  field("steps").addEventListener("change", (event) => change({ steps: Number(event.target.value) }));

  function pointed(event) {
    const box = map.getBoundingClientRect(), side = box.width - EDGE - RIM;
    const s = Math.min(Math.max((event.clientX - box.left - EDGE) / side, 0), 1), t = Math.min(Math.max(1 - (event.clientY - box.top - RIM) / side, 0), 1);
    if (t <= s) { stop(); change({ s, t }); }
  }
  map.addEventListener("pointermove", pointed);
  map.addEventListener("pointerdown", pointed);

  let playing = 0;
  function stop() {
    cancelAnimationFrame(playing);
    playing = 0;
    field("play").innerHTML = "&#9654; play";
  }
  function play() {
    const from = performance.now(), s = state.s > 0.05 ? state.s : 1;
    field("play").innerHTML = "&#10074;&#10074; stop";
    const frame = (now) => {
      const phase = ((now - from) / 4000) % 1; // down to the data, wait, back
      const share = phase < 0.55 ? phase / 0.55 : phase < 0.75 ? 1 : (1 - phase) / 0.25;
      change({ s, t: s * (1 - share * share * (3 - 2 * share)) });
      playing = requestAnimationFrame(frame);
    };
    playing = requestAnimationFrame(frame);
  }
  field("play").addEventListener("click", () => (playing ? stop() : play()));

  function fromAddress() {
    const [method, s, t, steps] = decodeURIComponent(location.hash.slice(1)).split(",");
    if (data.methods.some((known) => known.name === method)) state.method = method;
    for (const [name, text, high] of [["s", s, 1], ["t", t, 1], ["steps", steps, 8]])
      if (text !== undefined && Number(text) >= 0 && Number(text) <= high) state[name] = Number(text);
  }
  fromAddress();
  window.addEventListener("hashchange", () => { fromAddress(); draw(); });
  new ResizeObserver(() => draw()).observe(root);
  new MutationObserver(() => draw()).observe(document.body, { attributes: true, attributeFilter: ["data-theme"] });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  draw();
})();
