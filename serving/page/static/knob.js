// The knob: one choice for both tabs, a place on the slider, sent as cost_quality, or an operating point, sent as its target.

import { badge, colour, dollars, h, muted, percent, replace, share, thousand } from "./dom.js";

export class Knob extends EventTarget {
  constructor(bundle) {
    super();
    this.points = bundle.operating_points
      .filter((point) => point.quality_target || point.name === bundle.default_point)
      .map((point) => ({ ...point, isDefault: point.name === bundle.default_point }))
      .sort((a, b) => Number(b.isDefault) - Number(a.isDefault))
      // Of two that answer the same target, the one that the service takes.
      .filter((point, place, all) => !point.quality_target || all.findIndex((one) => one.quality_target === point.quality_target) === place)
      .sort((a, b) => (a.quality_target ?? 0) - (b.quality_target ?? 0));
    this.reference = bundle.reference;
    this.point = this.last = this.points.find((one) => one.isDefault) ?? this.points[0] ?? null;
    this.place = 5;
  }

  // What a request says of it.
  body() {
    if (!this.point) return { cost_quality: this.place };
    return this.point.quality_target ? { quality_target: this.point.quality_target } : {};
  }

  slide(place) {
    this.place = Math.round(place * 10) / 10;
    this.choose(null);
  }

  choose(point) {
    this.point = point;
    this.last = point ?? this.last;
    this.dispatchEvent(new Event("change"));
  }

  describe() {
    const { point } = this;
    if (!point) return ["Not certified", "", ""];
    if (point.certificate) {
      const { alpha, delta } = point.certificate;
      return ["Certified", "good", `In at most ${share(alpha)} of requests the choice fails where ${this.reference} would not. Confidence ${share(1 - delta)}.`];
    }
    if (point.always) return ["Not certified", "warn", `Every request goes to ${point.always}.`];
    return ["Not certified", "warn", "This operating point has no certificate: what it gives is estimated."];
  }

  name() {
    return this.point ? this.point.name : `${this.place.toFixed(1)} of 10`;
  }
}

function stretch(one) {
  const [from, to] = [one.from_cost_quality.toFixed(1), one.to_cost_quality.toFixed(1)];
  return from === to ? `at ${from}` : `${from} – ${to}`;
}

let views = 0;

export function knobView(knob) {
  const id = `knob-${(views += 1)}`;
  const slider = h("input", { type: "range", id, min: "0", max: "10", step: "0.1", "aria-describedby": `${id}-says`, oninput: () => knob.slide(Number(slider.value)) });
  const says = h("div", { class: "says", id: `${id}-says` });
  const certified = knob.points.length && knob.points.every((point) => point.certificate);
  const radios = [["Cost/quality slider", () => knob.slide(knob.place)], [certified ? "Certified point" : "Operating point", () => knob.choose(knob.last)]]
    .map(([label, onchange]) => [label, h("input", { type: "radio", name: `${id}-by`, onchange })]);
  const chips = h("div", { class: "chips", role: "group", "aria-label": "Operating points" });
  const strip = h("div", { class: "strip", "aria-hidden": "true", hidden: true });
  const slide = h("div", {}, h("label", { for: id, class: "label" }, "Quality against cost"), slider, strip,
    h("div", { class: "ends muted", "aria-hidden": "true" }, h("span", {}, "0 · the cheapest"), h("span", {}, "quality alone · 10")));
  const legend = h("ul", { class: "flips", hidden: true });
  let flips = [], points = [];

  function draw() {
    const { point } = knob, [state, kind, text] = knob.describe();
    radios[point ? 1 : 0][1].checked = true;
    slide.hidden = Boolean(point);
    chips.hidden = !point;
    slider.value = knob.place;
    slider.setAttribute("aria-valuetext", `${knob.name()}, ${state.toLowerCase()}`);
    replace(says, h("p", {}, h("strong", { class: "knob-name" }, knob.name()), badge(state, kind)), text && muted(text));
    const focused = chips.contains(document.activeElement);
    replace(chips, knob.points.map((one) => h("button", {
      type: "button", class: `chip${one.certificate ? " certified" : ""}`, "aria-pressed": String(point === one), onclick: () => knob.choose(one),
    }, one.name, one.isDefault && h("span", { class: "muted" }, " default"),
    h("small", { class: "muted block" }, one.always && one.cost_usd === null ? ` not certified: everything to ${one.always}` : ` ${percent(one.quality)} acceptable, ${dollars(thousand(one.cost_usd))} per 1,000`))));
    if (focused) chips.querySelector('[aria-pressed="true"]')?.focus();
    chosen();
  }

  // Who is chosen for a request, along the slider or at each of the points.
  function chosen() {
    const rows = knob.point ? points.map((one) => [one, one.name]) : flips.map((one) => [one, stretch(one)]);
    strip.hidden = !flips.length;
    legend.hidden = !rows.length;
    legend.setAttribute("aria-label", `Who is chosen ${knob.point ? "at each point" : "along the slider"}`);
    replace(strip, flips.map((one) => {
      const part = h("span", { class: `part ${colour(one.model)}` });
      part.style.flexGrow = String(Math.max(0.001, one.to_cost_quality - one.from_cost_quality));
      return part;
    }));
    replace(legend, rows.map(([one, where]) => h("li", {}, h("span", { class: `swatch ${colour(one.model)}`, "aria-hidden": "true" }),
      h("span", { class: "name" }, one.model), h("span", { class: "muted" }, where))));
  }

  function show(along, at = []) {
    [flips, points] = [along ?? [], at];
    chosen();
  }

  knob.addEventListener("change", draw);
  draw();
  const element = h("div", { class: "knob" },
    knob.points.length > 0 && h("div", { class: "segments", role: "radiogroup", "aria-label": "Chosen by" }, radios.map(([label, input]) => h("label", { class: "segment" }, input, h("span", {}, label)))),
    slide, chips, says,
    knob.points.length > 0 && muted(`A point weighs cost against failing where ${knob.reference} would not, the slider against P(acceptable): no place on the slider is a point, or certified. Points' figures are on calibration requests.`), legend);
  return { element, show };
}
