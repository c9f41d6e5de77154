// The networks of the explorer: flowjax.models.MLP in plain JavaScript. Works in a browser and in node.
(function (root) {
  "use strict";

  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

  // float16 as stored by numpy, little endian.
  function half(word) {
    const sign = word & 0x8000 ? -1 : 1, exponent = (word >> 10) & 31, fraction = word & 1023;
    if (exponent === 0) return sign * fraction * 2 ** -24;
    return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
  }

  // The layers of a network: [{rows, columns, kernel, bias}].
  function layers(text, network) {
    const words = new Uint16Array(bytes(text).buffer);
    const widths = [2 + 2 * (1 + 2 * network.harmonics), ...Array(network.depth).fill(network.width), 2];
    let at = 0;
    const take = (count) => Float32Array.from(words.subarray(at, (at += count)), half);
    return widths.slice(1).map((columns, i) => ({
      rows: widths[i], columns, kernel: take(widths[i] * columns), bias: take(columns),
    }));
  }

  const gelu = (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x * x * x)));

  // V(x, s, t) of points: xy holds x0, y0, x1, y1, ...
  function velocity(net, harmonics, xy, s, t) {
    const out = new Float32Array(xy.length), times = [];
    for (const time of [s, s - t]) {
      times.push(time);
      for (let k = 1; k <= harmonics; k++) times.push(Math.sin(Math.PI * k * time));
      for (let k = 1; k <= harmonics; k++) times.push(Math.cos(Math.PI * k * time));
    }
    // What the first layer adds for the times is the same for all points.
    const first = net[0], shared = Float64Array.from(first.bias);
    times.forEach((value, i) => {
      for (let j = 0; j < first.columns; j++) shared[j] += value * first.kernel[(2 + i) * first.columns + j];
    });
    const widest = Math.max(...net.map((layer) => layer.columns));
    let now = new Float64Array(widest), next = new Float64Array(widest);
    for (let p = 0; p < xy.length; p += 2) {
      for (let j = 0; j < first.columns; j++)
        now[j] = shared[j] + xy[p] * first.kernel[j] + xy[p + 1] * first.kernel[first.columns + j];
      for (const layer of net.slice(1)) {
        for (let j = 0; j < layer.columns; j++) next[j] = layer.bias[j];
        for (let i = 0; i < layer.rows; i++) {
          const value = gelu(now[i]), row = i * layer.columns;
          for (let j = 0; j < layer.columns; j++) next[j] += value * layer.kernel[row + j];
        }
        [now, next] = [next, now];
      }
      out[p] = now[0];
      out[p + 1] = now[1];
    }
    return out;
  }

  // F(x, s, t) = x + (t - s) V(x, s, t) in so many equal jumps.
  function jump(net, harmonics, xy, s, t, steps) {
    let x = Float32Array.from(xy);
    for (let k = 0; k < steps; k++) {
      const from = s + ((t - s) * k) / steps, to = s + ((t - s) * (k + 1)) / steps;
      const v = velocity(net, harmonics, x, from, to);
      x = x.map((value, i) => value + (to - from) * v[i]);
    }
    return x;
  }

  // The exact flow lines, [points][times][2] between -range and range, and where they are at a time.
  function lines(text, times, range) {
    const words = new Int16Array(bytes(text).buffer), points = words.length / (2 * times);
    const at = (time) => {
      const place = Math.min(Math.max(time, 0), 1) * (times - 1), low = Math.min(Math.floor(place), times - 2);
      const share = place - low, xy = new Float32Array(2 * points);
      for (let p = 0; p < points; p++)
        for (let c = 0; c < 2; c++) {
          const before = words[(p * times + low) * 2 + c], after = words[(p * times + low + 1) * 2 + c];
          xy[2 * p + c] = ((before + share * (after - before)) * range) / 32767;
        }
      return xy;
    };
    return { points, at };
  }

  const explorerNetwork = { layers, velocity, jump, lines };
  if (typeof module !== "undefined") module.exports = explorerNetwork;
  else root.explorerNetwork = explorerNetwork;
})(this);
