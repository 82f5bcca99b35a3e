// The knob: one place for both tabs. A detent is an operating point and asks for its target; between them nothing is certified.

import { badge, colour, h, muted, nothing, replace, share } from "./dom.js";

const APART = 0.4, SNAP = 0.18;

// The place between 0, the cheapest, and 10, quality alone, at which the bundle's sweep has this knob.
export function placeOf(knob, knobs) {
  const inside = knobs.filter((one) => one !== null && one > 0).map(Math.log);
  if (knob === null) return 0;
  if (knob <= 0 || inside.length < 2) return 10;
  const at = Math.log(knob);
  if (at <= inside[0]) return 10;
  const upper = inside.findIndex((one) => one >= at);
  if (upper < 0) return 0;
  const index = upper - 1 + (at - inside[upper - 1]) / (inside[upper] - inside[upper - 1]);
  return 10 * (1 - index / (inside.length - 1));
}

export class Knob extends EventTarget {
  constructor(bundle) {
    super();
    this.points = bundle.operating_points
      .filter((point) => point.quality_target || point.name === bundle.default_point)
      .map((point) => ({ ...point, isDefault: point.name === bundle.default_point, place: placeOf(point.knob, bundle.knobs) }))
      .sort((a, b) => Number(b.isDefault) - Number(a.isDefault))
      // Of two that answer the same target, the one that the service takes.
      .filter((point, place, all) => !point.quality_target || all.findIndex((one) => one.quality_target === point.quality_target) === place)
      .sort((a, b) => (a.quality_target ?? 0) - (b.quality_target ?? 0) || a.place - b.place);
    // A target's knob is on another scale than the slider's: its detent shows the order, apart from its neighbours.
    const last = this.points.length - 1;
    this.points.forEach((point, index) => {
      const least = index ? this.points[index - 1].place + APART : APART;
      point.place = Math.round(Math.min(10 - APART * (last - index + 1), Math.max(least, point.place)) * 10) / 10;
    });
    this.reference = bundle.reference;
    this.point = this.points.find((one) => one.isDefault) ?? null;
    this.place = this.point?.place ?? 5;
  }

  // What a request says of it.
  body() {
    if (!this.point) return { cost_quality: this.place };
    return this.point.isDefault && !this.point.quality_target ? {} : { quality_target: this.point.quality_target };
  }

  at(place, snap = 0.04) {
    const near = this.points.find((point) => Math.abs(point.place - place) <= snap);
    this.point = near ?? null;
    this.place = near ? near.place : Math.round(place * 10) / 10;
    this.dispatchEvent(new Event("change"));
  }

  describe() {
    const { point } = this;
    if (!point) return ["Not certified", "", "A trade-off of your own. Certificates hold at the operating points alone."];
    if (point.certificate) {
      const { alpha, delta } = point.certificate;
      return ["Certified", "good", `In at most ${share(alpha)} of requests the choice fails where ${this.reference} would not. Confidence ${share(1 - delta)}.`];
    }
    if (point.always) return ["Reference", "", `Always ${point.always}: no traffic is moved.`];
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
  const slider = h("input", { type: "range", id, min: "0", max: "10", step: "0.1", "aria-describedby": `${id}-says` });
  const says = h("div", { class: "says", id: `${id}-says` });
  const chips = h("div", { class: "chips", role: "group", "aria-label": "Operating points" });
  const marks = h("div", { class: "marks", "aria-hidden": "true" });
  const strip = h("div", { class: "strip", "aria-hidden": "true", hidden: true });
  const legend = h("ul", { class: "flips", hidden: true, "aria-label": "Who is chosen along the knob" });
  let dragged = false;
  slider.addEventListener("pointerdown", () => (dragged = true));
  slider.addEventListener("keydown", () => (dragged = false));
  slider.addEventListener("input", () => knob.at(Number(slider.value), dragged ? SNAP : 0.04));

  function draw() {
    const [state, kind, text] = knob.describe();
    slider.value = knob.place;
    slider.setAttribute("aria-valuetext", `${knob.name()}, ${state.toLowerCase()}`);
    replace(says, h("p", {}, h("strong", { class: "knob-name" }, knob.name()), badge(state, kind)), muted(text));
    replace(chips, knob.points.map((point) => h("button", {
      type: "button", class: `chip${point.certificate ? " certified" : ""}`, "aria-pressed": String(knob.point === point),
      onclick: () => knob.at(point.place),
    }, point.name, point.isDefault && h("span", { class: "muted" }, " default"))));
    replace(marks, knob.points.map((point) => {
      const mark = h("span", { class: `mark${point.certificate ? " certified" : ""}` });
      mark.style.left = `${point.place * 10}%`;
      return mark;
    }));
  }
  // Where the choice flips, as the service found it for a request.
  function show(flips, points = []) {
    strip.hidden = legend.hidden = !flips?.length;
    if (!flips?.length) return;
    replace(strip, flips.map((one) => {
      const part = h("span", { class: `part ${colour(one.model)}` });
      part.style.flexGrow = String(Math.max(0.001, one.to_cost_quality - one.from_cost_quality));
      return part;
    }));
    replace(legend,
      flips.map((one) => h("li", {}, h("span", { class: `swatch ${colour(one.model)}`, "aria-hidden": "true" }),
        h("span", { class: "name" }, one.model), h("span", { class: "muted" }, stretch(one)))),
      points.map((one) => h("li", {}, h("span", { class: `swatch diamond ${colour(one.model)}`, "aria-hidden": "true" }),
        h("span", { class: "name" }, one.model), h("span", { class: "muted" }, `at ${one.name}`))));
  }
  knob.addEventListener("change", draw);
  draw();
  const element = h("div", { class: "knob" },
    h("label", { for: id, class: "label" }, "Quality against cost"),
    chips, h("div", { class: "slide" }, slider, marks), strip,
    h("div", { class: "ends muted", "aria-hidden": "true" }, h("span", {}, "0 · the cheapest"), h("span", {}, "quality alone · 10")),
    says, legend);
  return { element, show };
}
