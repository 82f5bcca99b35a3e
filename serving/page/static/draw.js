// Charts, drawn by hand: scales, axes, lines, bands. Colours and weights are in page.css.

import { h, s } from "./dom.js";

export function ticksOf(low, high, count) {
  if (!(high > low)) return [low];
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].find((one) => one * power >= rough) * power;
  const found = [];
  for (let value = Math.ceil(low / step - 1e-9) * step; value <= high + step * 1e-9; value += step) found.push(Number(value.toPrecision(12)));
  return found;
}

function logTicks(low, high, count) {
  for (const steps of [[1, 2, 5], [1, 3], [1]]) {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) {
      for (const step of steps) {
        const value = Number((step * 10 ** power).toPrecision(6));
        if (value >= low * 0.999 && value <= high * 1.001) found.push(value);
      }
    }
    if (found.length <= count || steps.length === 1) return found;
  }
  return [];
}

export function linear(low, high, from, to, count = 5) {
  const span = high - low || 1;
  return Object.assign((value) => from + ((value - low) / span) * (to - from), { ticks: ticksOf(low, high, count) });
}

export function logarithmic(low, high, from, to, count = 6) {
  const a = Math.log(low), span = Math.log(high) - a || 1;
  return Object.assign((value) => from + ((Math.log(Math.max(value, low)) - a) / span) * (to - from), { ticks: logTicks(low, high, count) });
}

export const path = (points) => points.map(([x, y], place) => `${place ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");

export const band = (points) => `${path(points.map(([x, low]) => [x, low]))}${path(points.map(([x, , high]) => [x, high]).reverse()).replace("M", "L")}Z`;

// An <svg> that is drawn anew at each width: text keeps its size.
export function chart(label, draw, height = (width) => Math.round(Math.max(260, Math.min(430, width * 0.56)))) {
  const box = h("div", { class: "chart" });
  let width = 0;
  const again = () => {
    if (!width) return;
    const tall = height(width);
    const svg = s("svg", { viewBox: `0 0 ${width} ${tall}`, width, height: tall, role: "img", "aria-label": label });
    draw(svg, width, tall);
    box.replaceChildren(svg);
  };
  new ResizeObserver(([entry]) => {
    const now = Math.floor(entry.contentRect.width);
    if (now && now !== width) {
      width = now;
      again();
    }
  }).observe(box);
  return { element: box, again };
}

export function axes(svg, { x, y, box, xLabel, yLabel, xText, yText }) {
  const { left, right, top, bottom } = box;
  for (const value of y.ticks) {
    svg.append(s("line", { class: "rule", x1: left, x2: right, y1: y(value), y2: y(value) }),
      s("text", { class: "tick", x: left - 8, y: y(value), dy: "0.32em", "text-anchor": "end" }, yText(value)));
  }
  for (const value of x.ticks) {
    svg.append(s("line", { class: "rule short", x1: x(value), x2: x(value), y1: bottom, y2: bottom + 4 }),
      s("text", { class: "tick", x: x(value), y: bottom + 17, "text-anchor": "middle" }, xText(value)));
  }
  svg.append(s("line", { class: "axis", x1: left, x2: right, y1: bottom, y2: bottom }));
  if (xLabel) svg.append(s("text", { class: "axis-label", x: right, y: bottom + 34, "text-anchor": "end" }, xLabel));
  if (yLabel) svg.append(s("text", { class: "axis-label", x: left, y: top - 10, "text-anchor": "start" }, yLabel));
}

// How wide these words are on an axis.
export function widest(texts) {
  const pen = document.createElement("canvas").getContext("2d");
  pen.font = `12px ${getComputedStyle(document.body).fontFamily}`;
  return Math.ceil(Math.max(0, ...texts.map((one) => pen.measureText(one).width)));
}

// From a point to a box.
const away = (one, x, y) => Math.hypot(Math.max(one.x - x, 0, x - one.x - one.w), Math.max(one.y - y, 0, y - one.y - one.h));

const clash = (a, b) => a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h;

// Words beside points, where neither another word nor a point is in the way, and best no line; the first of eight places.
// Nor is a word nearer to another point than to its own, or about as near.
export function labels(svg, points, box, taken = [], line = []) {
  const marks = taken.map((one) => [one.x + one.w / 2, one.y + one.h / 2]);
  for (const { x, y, text, kind = "" } of points) {
    const others = marks.filter(([toX, toY]) => Math.hypot(toX - x, toY - y) > 1);
    const w = text.length * (kind ? 7.7 : 7) + 2, high = 14;
    const far = kind ? 14 : 9;
    const places = [[x + far, y - 7], [x - w - far, y - 7], [x - w / 2, y - far - 16], [x - w / 2, y + far + 1], [x + 8, y - 22], [x - w - 8, y - 22], [x + 8, y + 8], [x - w - 8, y + 8]];
    const boxes = places.map(([left, top]) => ({ x: left, y: top, w, h: high }));
    const inside = (one) => one.x >= box.left && one.x + w <= box.right + 4 && one.y >= box.top - 4 && one.y + high <= box.bottom;
    const free = boxes.filter((one) => inside(one) && !taken.some((other) => clash(one, other)) && !others.some(([toX, toY]) => away(one, toX, toY) < away(one, x, y) + 4));
    const found = free.find((one) => !line.some((other) => clash(one, other))) ?? free[0];
    if (!found) continue; // the table has it
    taken.push(found);
    svg.append(s("text", { class: `word ${kind}`, x: found.x, y: found.y + 11 }, text));
  }
}

export const diamond = (x, y, size, kind) => s("path", { class: kind, d: `M${x} ${y - size}L${x + size} ${y}L${x} ${y + size}L${x - size} ${y}Z` });
