// Frontier: quality against cost, what is certified on it, and what the knob's place comes to in a month.

import { read } from "./api.js";
import { badge, between, candidate, card, colour, day, decimals, details, dollars, failure, figure, h, known, loading, many, muted, number, percent, replace, s, share, table, thousand, usd, whole } from "./dom.js";
import { axes, band, chart, diamond, labels, linear, logarithmic, path } from "./draw.js";
import { knobView } from "./knob.js";

// A place between two of the sweep's, each figure in proportion.
export function onSweep(sweep, place) {
  const rows = sweep.filter((one) => one.cost_quality !== null && one.cost_quality !== undefined).sort((a, b) => a.cost_quality - b.cost_quality);
  if (!rows.length) return null;
  const upper = rows.findIndex((one) => one.cost_quality >= place);
  if (upper <= 0) return upper === 0 ? rows[0] : rows.at(-1);
  const [a, b] = [rows[upper - 1], rows[upper]];
  const part = (place - a.cost_quality) / (b.cost_quality - a.cost_quality);
  const mixed = { ...b };
  for (const name in b) if (known(b[name])) mixed[name] = known(a[name]) ? a[name] + part * (b[name] - a[name]) : null;
  return mixed;
}

export function frontierTab(panel, { knob, bundle }) {
  const view = knobView(knob);
  let loaded = null, plot = null;
  const reading = h("div", { class: "stack" });

  async function load() {
    replace(panel, loading("Loading the frontier…"));
    try {
      loaded = await read("v1/frontier");
    } catch (problem) {
      const title = problem.status === 404 ? muted("A bundle that is trained on a log with judged outcomes has one.") : null;
      return replace(panel, card("Frontier", failure(problem, load), title));
    }
    if (!loaded.sweep?.length) return replace(panel, card("Frontier", h("p", { class: "empty muted" }, loaded.why_not ?? "This bundle has no frontier.")));
    plot = chart(describe(), draw);
    const left = card(null, h("div", { class: "row between" }, h("h2", {}, "Quality against cost"), loaded.simulated && badge("simulated", "warn")), legend(), plot.element, h("p", { class: "muted small" }, rests()), tables());
    replace(panel, h("div", { class: "columns wide-left" }, left, h("div", { class: "stack" }, card("What is chosen", view.element), reading)), points());
    moved();
  }

  const describe = () => `Quality against cost per thousand requests: the router along the slider, ${loaded.singles.length} single candidates and ${loaded.points.length} operating points. The figures are in the tables below.`;

  function rests() {
    const on = `${number(loaded.basis_requests)} test requests`;
    const how = loaded.basis === "doubly robust" ? `Estimated (doubly robust) on ${on}, worth ${number(loaded.effective_requests)}` : `On ${on} for which every candidate's outcome is known`;
    return `${how}. Bands hold 95%.${loaded.simulated ? " Simulated traffic." : ""}`;
  }

  const legend = () => h("ul", { class: "legend", "aria-hidden": "true" },
    [["line sweep", "router along the slider, with band"], ["dot", "one candidate for everything"], ["diamond certified", "certified point, by its target"], ["diamond", "another operating point"], ["ring", "what is chosen"]]
      .filter(([kind]) => kind !== "diamond" || loaded.points.some((one) => !one.certified)).map(([kind, text]) => h("li", {}, h("span", { class: `key ${kind}` }), text)));

  function now() {
    const point = knob.point && loaded.points.find((one) => one.name === knob.point.name);
    const figures = point?.test ?? point?.calibration;
    if (!figures) return { ...onSweep(loaded.sweep, knob.place), from: "the sweep, on test requests" };
    return { ...point.calibration, ...figures, certified: point.certified ? point.calibration?.saving : null, from: point.test ? "test requests" : "calibration requests" };
  }

  function draw(svg, width, height) {
    const box = { left: 46, right: width - 14, top: 26, bottom: height - 42 };
    const sweep = loaded.sweep.filter((one) => one.quality !== null && one.cost_usd !== null).sort((a, b) => a.cost_usd - b.cost_usd);
    const all = [...sweep, ...loaded.singles, ...loaded.points.map((one) => one.test ?? one.calibration)].filter((one) => one && one.cost_usd > 0);
    const costs = all.map((one) => thousand(one.cost_usd)), qualities = all.flatMap((one) => [one.quality, one.quality_low, one.quality_high]).filter(known);
    const [least, most] = [Math.min(...costs), Math.max(...costs)];
    const log = most / least > 12;
    const x = log ? logarithmic(least / 1.35, most * 1.35, box.left, box.right, width < 500 ? 5 : 8) : linear(0, most * 1.06, box.left, box.right, width < 500 ? 4 : 8);
    const low = Math.min(...qualities), high = Math.max(...qualities), spare = (high - low) * 0.08 || 0.02;
    const y = linear(Math.max(0, low - spare), Math.min(1, high + spare), box.bottom, box.top, 5);
    axes(svg, { x, y, box, yText: (value) => percent(value, 0), xText: (value) => (value < 1 && !Number.isInteger(value * 100) ? usd(value, 3) : usd(value, value >= 10 || Number.isInteger(value) ? 0 : 2)),
      xLabel: `USD per 1,000 requests${log ? ", logarithmic" : ""}`, yLabel: "acceptable answers" });
    const at = (one) => [x(thousand(one.cost_usd)), y(one.quality)];
    svg.append(s("path", { class: "band", d: band(sweep.filter((one) => known(one.quality_low)).map((one) => [x(thousand(one.cost_usd)), y(one.quality_low), y(one.quality_high)])) }),
      s("path", { class: "curve", d: path(sweep.map(at)) }));
    const words = [], taken = [], line = [];
    sweep.map(at).forEach(([toX, toY], place, all) => {
      const [fromX, fromY] = all[Math.max(0, place - 1)], steps = Math.ceil(Math.hypot(toX - fromX, toY - fromY) / 8) || 1;
      for (let step = 1; step <= steps; step += 1) line.push({ x: fromX + ((toX - fromX) * step) / steps, y: fromY + ((toY - fromY) * step) / steps, w: 1, h: 1 });
    });
    for (const point of loaded.points) {
      const figures = point.test ?? point.calibration;
      if (!figures || !(figures.cost_usd > 0) || figures.quality === null) continue;
      const [cx, cy] = at(figures);
      svg.append(diamond(cx, cy, point.certified ? 7 : 5, point.certified ? "point certified" : "point"));
      taken.push({ x: cx - 8, y: cy - 8, w: 16, h: 16 });
      const { name, quality_target: target } = point, text = !target || name.includes(target) ? name : `${name} (${target})`;
      words[name === knob.point?.name ? "unshift" : "push"]({ x: cx, y: cy, text, kind: "strong" });
    }
    for (const one of loaded.singles) {
      if (!(one.cost_usd > 0) || one.quality === null) continue;
      const [cx, cy] = at(one);
      if (known(one.quality_low)) svg.append(s("line", { class: "whisker", x1: cx, x2: cx, y1: y(one.quality_low), y2: y(one.quality_high) }));
      svg.append(s("circle", { class: `single ${colour(one.candidate)}`, cx, cy, r: 4.5 }));
      taken.push({ x: cx - 6, y: cy - 6, w: 12, h: 12 });
      words.push({ x: cx, y: cy, text: one.candidate });
    }
    labels(svg, words, box, taken, line);
    const here = now();
    if (here && known(here.quality)) {
      const [cx, cy] = at(here);
      svg.append(s("line", { class: "guide", x1: cx, x2: cx, y1: cy, y2: box.bottom }), s("circle", { class: "here", id: "here", cx, cy, r: 10 }));
    }
  }

  function moved() {
    if (!loaded?.sweep?.length) return;
    plot.again();
    const here = now();
    const volume = loaded.seen?.requests_a_month ?? loaded.month?.requests ?? null;
    // As the report's month: the reference's cost times the saving, a point's where it was certified.
    const share = known(here.certified) ? here.certified : here.saving;
    const each = loaded.month?.reference_usd_per_request ?? (here.saving < 1 && here.cost_usd ? here.cost_usd / (1 - here.saving) : null);
    const all = volume === null || each === null || !known(share) ? null : volume * each;
    replace(reading, card("At this place",
      h("dl", { class: "figures", id: "at-place" },
        figure("Acceptable", percent(here.quality), between(here.quality_low, here.quality_high, percent) === "–" ? null : `95%: ${between(here.quality_low, here.quality_high, percent)}`),
        figure("Per 1,000 requests", dollars(thousand(here.cost_usd))),
        figure(`Saved, on ${here.from === "calibration requests" ? "calibration" : "test"} requests`, percent(here.saving), ["against ", whole(loaded.reference), known(here.saving_low) && `, 95%: ${between(here.saving_low, here.saving_high, percent)}`]),
        known(here.certified) && figure("Saved, where certified", percent(here.certified), "on the calibration requests, as in the report")),
      h("dl", { class: "figures month" },
        figure("A month costs", dollars(all && all * (1 - share)), all && [whole(loaded.reference), `: ${dollars(all)}`]),
        figure("A month saves", dollars(all && all * share), all && `${percent(share)}, ${share === here.certified ? "where certified" : "on test requests"}`, "good")),
      h("p", { class: "muted small" }, volumeSaid(volume), ` Other figures from ${here.from}. ${loaded.basis_note ?? ""}`),
      here.shares && h("div", {}, h("h3", {}, "Who answers"), h("ul", { class: "shares" }, Object.entries(here.shares).sort((a, b) => b[1] - a[1]).map(([name, share]) =>
        h("li", {}, candidate(name), h("span", { class: "num" }, percent(share, 0))))))));
  }

  function volumeSaid(volume) {
    const seen = loaded.seen;
    if (volume === null) return "Too little is known of the volume to say anything of a month: it takes decisions stored over 7 days.";
    if (seen?.from === "store") return `At ${number(volume)} requests a month: ${many(seen.decisions, "decision")}${seen.scope === "key" ? " of your key" : ""} in the last ${seen.days} whole days.`;
    if (seen?.from !== "log") return `At ${number(volume)} requests a month, as in the report.`;
    return `At ${number(volume)} requests a month, as in the log (${day(loaded.log?.first)} to ${day(loaded.log?.last)}).`;
  }

  function points() {
    const rows = loaded.points.map((one) => {
      const figures = one.test ?? one.calibration ?? {};
      return [h("span", { class: "candidate" }, h("span", { class: `swatch diamond ${one.certified ? "certified" : ""}`, "aria-hidden": "true" }), h("span", { class: "nowrap" }, one.name), one.default && h("span", { class: "muted" }, " default")),
        one.certified ? badge("certified", "good") : badge("not certified"), percent(one.bound), share(one.alpha), number(one.requests),
        percent(figures.quality), dollars(thousand(figures.cost_usd)), percent(one.test?.saving), percent(one.calibration?.saving)];
    });
    return card("Operating points", muted(`A certificate bounds how often the choice fails where ${loaded.reference} would not, on average over requests like the log's. Bounds, and the saving that the report begins with, are on calibration requests, the rest is on test requests.`),
      table("Operating points", [["Point", ""], ["State", ""], ["Fails, at most", "num"], ["Allowed", "num"], ["On requests", "num"], ["Acceptable", "num"], ["$ per 1,000", "num"], ["Saved, test", "num"], ["Saved, calibration", "num"]], rows, "This bundle has none."));
  }

  function tables() {
    const costs = decimals(loaded.sweep.map((one) => thousand(one.cost_usd)), 4);
    return details("Figures behind the chart",
      h("h3", {}, "Along the slider"),
      table("Along the slider", [["Place", "num"], ["$ per 1,000", "num"], ["Acceptable", "num"], ["95%", "num"], ["Saved", "num"]], loaded.sweep.map((one) =>
        [number(one.cost_quality, 1), usd(thousand(one.cost_usd), costs), percent(one.quality), between(one.quality_low, one.quality_high, percent), percent(one.saving, 0)])),
      h("h3", {}, "One candidate for everything"),
      table("One candidate for everything", [["Candidate", ""], ["$ per 1,000", "num"], ["Acceptable", "num"], ["95%", "num"], ["Requests", "num"]], loaded.singles.map((one) =>
        [candidate(one.candidate), usd(thousand(one.cost_usd), costs), percent(one.quality), between(one.quality_low, one.quality_high, percent), number(one.requests)])));
  }

  knob.addEventListener("change", () => !panel.hidden && moved());
  return { show: () => (loaded ? moved() : load()) };
}
