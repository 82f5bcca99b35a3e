// Live: what is being decided now, and what it saved; events arrive while this tab is looked at.

import { open, Problem, read, sleep } from "./api.js";
import { badge, bar, between, candidate, card, clock, colour, decimals, details, dollars, failure, figure, h, helped, many, moment, nothing, number, percent, replace, s, table, usd, whole, words } from "./dom.js";
import { axes, chart, linear, widest } from "./draw.js";
import { events, Parser } from "./sse.js";

const HALF_A_MINUTE = 30_000;
const DRIFT = { psi: ["Prompts' mix (PSI)", (value) => number(value, 3)], novel_share: ["Novel prompts", percent], calibration_error: ["Calibration error on feedback", (value) => number(value, 3)] };
const BY = { day: "day", workflow: "workflow", candidate: "candidate", key: "API key" };
const level = (method) => (/^ref/.test(method) ? "95%" : "rough");

export function liveTab(panel, { me }) {
  let stop = null, latest = null, paused = false, summed = { at: 0, of: "", by: "day" };
  const state = h("span", { class: "badge", role: "status" }, "connecting");
  const pause = h("button", { type: "button", class: "quiet", "aria-pressed": "false", onclick: toggle }, "Pause");
  const body = h("div", { class: "stack" });
  const savings = h("div");
  replace(panel, h("div", { class: "row between" }, h("h2", { class: "panel-title" }, "Live"), h("div", { class: "row tight" }, state, pause)), body, savings);
  const per = chart("Decisions a minute over the last hour; the figures are in the table.", drawRate, (width) => (width < 500 ? 170 : 190));
  const money = chart("US dollars a minute over the last hour: actual, expected, and what the reference would be expected to cost; the figures are in the table.", drawMoney, () => 190);

  // What changes where the savings may have.
  const counted = () => `${latest?.total_decisions} ${latest?.cost?.costed}`;

  function toggle() {
    paused = !paused;
    pause.textContent = paused ? "Resume" : "Pause";
    pause.setAttribute("aria-pressed", String(paused));
    paused ? hide() : show();
  }

  function mark(text, kind = "") {
    if (state.textContent === text) return;
    state.textContent = text;
    state.className = `badge ${kind}`;
  }

  async function listen(signal) {
    const parser = new Parser();
    for (let failed = 0; !signal.aborted; ) {
      try {
        const response = await open("v1/live", { signal });
        for await (const { event, data } of events(response, parser)) {
          if (signal.aborted) return;
          if (event === "end") return ended(JSON.parse(data).why);
          if (event !== "snapshot") continue;
          failed = 0;
          mark("live", "good");
          latest = JSON.parse(data);
          draw();
          if (me.store && counted() !== summed.of && Date.now() - summed.at >= HALF_A_MINUTE && !savings.contains(document.activeElement)) saved(summed.by);
        }
      } catch (problem) {
        if (signal.aborted) return;
        if ([401, 403, 404].includes(problem.status)) return refused(problem);
        if (!latest) refused(problem instanceof Problem ? problem : new Problem(0, String(problem)));
      }
      failed += 1;
      mark(`reconnecting${latest ? `, as of ${clock(latest.at)}` : ""}`, "warn");
      await sleep(Math.min(HALF_A_MINUTE, (parser.retry ?? 2000) * 2 ** (failed - 1)), signal).catch(() => {});
    }
  }

  function ended(why) {
    mark("ended", "bad");
    const again = h("button", { type: "button", onclick: () => (hide(), show()) }, "Connect again");
    panel.querySelector(".ended")?.remove();
    body.before(h("div", { class: "notice warn ended row between" }, h("span", {}, why), again));
  }

  function refused(problem) {
    mark("not connected", "bad");
    if (problem.status === 403) problem.needs = "Without a store (ROUTER_STORE) only a key that may administer sees live figures.";
    replace(body, card(null, failure(problem, () => (hide(), show()))));
  }

  function show() {
    if (paused || stop) return;
    panel.querySelector(".ended")?.remove();
    stop = new AbortController();
    mark("connecting");
    listen(stop.signal);
    if (me.store && !summed.at) saved("day");
  }

  function hide() {
    stop?.abort();
    stop = null;
    if (paused) mark(latest ? `paused at ${clock(latest.at)}` : "paused");
  }

  document.addEventListener("visibilitychange", () => !panel.hidden && (document.hidden ? hide() : show()));

  let parts = null;
  function draw() {
    if (!parts || !parts.top.isConnected) {
      parts = Object.fromEntries(["top", "shares", "cost", "budgets", "drift", "abstentions", "faults", "figures"].map((name) => [name, h("div", { class: "stack tight" })]));
      replace(body, parts.top,
        h("div", { class: "columns even" }, card("Decisions a minute", per.element), card("Cost a minute, USD", moneyLegend(), money.element)),
        card(null, details("Figures behind the charts", parts.figures)),
        h("div", { class: "columns thirds" }, card("Who answers", parts.shares), card("Budgets", parts.budgets), card("Drift", parts.drift)),
        h("div", { class: "columns even" }, card("Latest abstentions", parts.abstentions), card("Latest faults", parts.faults)));
    }
    const now = latest, { cost, saved: kept } = now;
    replace(parts.top, card(null, h("dl", { class: "figures wide", id: "live-figures" },
      figure("Decisions a minute", number(now.decisions_per_minute, now.decisions_per_minute < 10 && now.decisions_per_minute > 0 ? 1 : 0)),
      figure("Decisions", h("span", { id: "total" }, number(now.total_decisions)), now.from === "store" ? "in the store" : "since this service started"),
      figure("Actual cost", cost?.costed ? dollars(cost.actual_usd) : "–", cost?.costed ? `of ${number(cost.costed)}; expected of them ${dollars(cost.expected_of_costed_usd)}` : `none told yet; expected ${dollars(cost?.expected_usd)}`),
      figure("Saved so far", kept ? dollars(kept.usd) : "–", kept ? `${level(kept.method)}: ${between(kept.low, kept.high, dollars)}` : now.cost && !cost.costed ? "unknown: no cost told. Tell cost_usd in feedback." : "not known yet", !kept ? "" : kept.usd < 0 ? "bad" : "good"),
      figure("Time of a decision", Number.isFinite(now.latency_ms?.p50) ? `${number(now.latency_ms.p50, 1)} ms` : "–", Number.isFinite(now.latency_ms?.p99) ? `p99 ${number(now.latency_ms.p99, 1)} ms` : null)),
    h("p", { class: "muted small" }, kept ? `Counterfactual: ${kept.counterfactual}. ` : "",
      now.note ? `${now.note} ` : "", now.scope === "key" ? "These are the decisions of your key alone. " : "", cost?.since ? `Costs since ${moment(cost.since)}. ` : "",
      now.queue_rows ? `${many(now.queue_rows, "row")} wait to be written. ` : "", `As of ${clock(now.at)}, bundle `, whole(now.bundle), now.shadow && [", shadow ", whole(now.shadow)], ".")));
    per.again();
    money.again();
    // An open table would scroll away from who reads it.
    if (!parts.figures.closest("details").open) replace(parts.figures, table("The last hour by minute", [["Minute", ""], ["Decisions", "num"], ["Actual, $", "num"], ["Expected, $", "num"], ["Reference, $", "num"]],
      now.series.toReversed().map((one) => [clock(one.minute).slice(0, 5), number(one.decisions), usd(one.actual_usd, 4), usd(one.expected_usd, 4), usd(one.reference_usd, 4)])));
    const shares = Object.entries(now.shares).sort((a, b) => b[1] - a[1]);
    replace(parts.shares, shares.length ? h("ul", { class: "bars" }, shares.map(([name, share]) => h("li", {}, h("div", { class: "row between" }, candidate(name), h("span", { class: "num" }, percent(share, 0))), bar(share, colour(name))))) : nothing("No decision in the last 15 minutes."),
      h("p", { class: "row tight" }, Object.entries(now.reasons ?? {}).sort((a, b) => b[1] - a[1]).map(([reason, count]) => badge(`${words(reason)} ${number(count)}`))));
    replace(parts.budgets, now.budgets?.length ? h("ul", { class: "bars" }, now.budgets.map(budget)) : nothing("The rule file sets no budgets."));
    drift(now.drift);
    const problems = Object.entries(now.problems ?? {});
    replace(parts.abstentions, latestOf(now.abstentions, "None: the router was sure enough each time."));
    replace(parts.faults, latestOf(now.faults, "None."), problems.length ? h("p", { class: "row tight" }, h("span", { class: "muted" }, "Refused requests:"), problems.map(([status, count]) => badge(`${status}: ${number(count)}`, status >= "500" ? "bad" : ""))) : null);
  }

  function budget(one) {
    const used = one.limit_usd > 0 ? (one.spent_usd + one.reserved_usd) / one.limit_usd : 1;
    const kind = used >= 1 ? "bad" : used >= 0.8 ? "warn" : "good";
    return h("li", {}, h("div", { class: "row between" }, h("span", {}, one.scope, h("span", { class: "muted" }, ` a ${one.period}`)), h("span", { class: "num" }, `${usd(one.spent_usd, 2)} of ${usd(one.limit_usd, 2)}`)), bar(used, kind),
      h("p", { class: "muted small" }, `${usd(one.left_usd, 2)} left; at the limit: ${one.at_limit}; resets ${String(one.resets_at).slice(0, 10)}.`));
  }

  function drift(found) {
    if (!found) return replace(parts.drift, nothing("Not measured."));
    replace(parts.drift, h("ul", { class: "bars" }, Object.entries(DRIFT).map(([name, [label, text]]) => {
      const value = found[name], limit = found.thresholds?.[name];
      const over = Number.isFinite(value) && Number.isFinite(limit) && value > limit;
      return h("li", {}, h("div", { class: "row between" }, h("span", {}, name === "psi" ? helped("PSI", label) : label), h("span", { class: "row tight" }, over && badge("above threshold", "warn"), h("span", { class: "num" }, text(value)))),
        Number.isFinite(value) && Number.isFinite(limit) && bar(value / limit, over ? "warn" : "good"), h("p", { class: "muted small" }, Number.isFinite(value) ? (Number.isFinite(limit) ? `Threshold ${text(limit)}.` : "") : "Too little traffic yet."));
    })), h("p", { class: "muted small" }, `Measured by ${found.scope === "all" ? "all workers" : found.scope}.`));
  }

  const latestOf = (rows, none) => table("Latest", [["Time", ""], ["Reason", ""], ["Workflow", ""], ["Answered by", ""], ["Decision", ""]],
    (rows ?? []).map((one) => [clock(one.at), words(one.reason), one.workflow ?? "–", candidate(one.model), h("code", { title: one.id }, String(one.id).slice(0, 8))]), none);

  const moneyLegend = () => h("ul", { class: "legend", "aria-hidden": "true" }, [["line actual", "actual"], ["line expected", "expected"], ["line reference", "reference, expected"]].map(([kind, text]) => h("li", {}, h("span", { class: `key ${kind}` }), text)));

  function frame(svg, width, height, most, textsOf) {
    const series = latest.series, box = { right: width - 8, top: 14, bottom: height - 24 };
    const y = linear(0, most || 1, box.bottom, box.top, 4), yText = textsOf(y.ticks);
    box.left = Math.max(38, widest(y.ticks.map(yText)) + 12);
    const x = linear(0, series.length - 1 || 1, box.left + 4, box.right - 4);
    x.ticks = series.map((_, place) => place).filter((place) => Math.round(series[place].minute / 60) % (width < 420 ? 20 : 10) === 0);
    axes(svg, { x, y, box, yText, xText: (place) => clock(series[place].minute).slice(0, 5) });
    return { series, x, y, box };
  }

  function drawRate(svg, width, height) {
    if (!latest?.series.length) return;
    const most = Math.max(...latest.series.map((one) => one.decisions), 1) * 1.1;
    const { series, x, y, box } = frame(svg, width, height, most, () => (value) => number(value, Number.isInteger(value) ? 0 : 1));
    const wide = Math.max(1.5, (box.right - box.left) / series.length - 1.5);
    series.forEach((one, place) => svg.append(s("rect", { class: "column", x: x(place) - wide / 2, width: wide, y: y(one.decisions), height: Math.max(0, box.bottom - y(one.decisions)), rx: 1 })));
  }

  function drawMoney(svg, width, height) {
    if (!latest?.series.length) return;
    const names = ["reference", "expected", "actual"];
    const most = Math.max(...latest.series.flatMap((one) => names.map((name) => one[`${name}_usd`] ?? 0))) * 1.1;
    const { series, x, y } = frame(svg, width, height, most, (ticks) => {
      const places = ticks.every(Number.isInteger) ? 0 : decimals(ticks, 12);
      return (value) => usd(value, places);
    });
    for (const name of names) svg.append(s("path", { class: `line ${name}`, d: pieces(series.map((one) => one[`${name}_usd`]), x, y) }));
  }

  // A line with gaps where nothing is known; what is known alone is a short one.
  const pieces = (values, x, y) => values.map((value, place) => {
    if (value === null) return "";
    const alone = (values[place - 1] ?? null) === null && (values[place + 1] ?? null) === null;
    return `${(values[place - 1] ?? null) === null ? "M" : "L"}${x(place)} ${y(value)}${alone ? "h2" : ""}`;
  }).join("");

  async function saved(by) {
    const choose = h("select", { "aria-label": "Savings by", onchange: (event) => { event.target.disabled = true; saved(event.target.value); } }, Object.entries(BY).map(([name, label]) => h("option", { value: name, selected: name === by }, label)));
    const mine = (summed = { at: Date.now(), of: counted(), by });
    const put = (...children) => replace(savings, card(null, h("div", { class: "row between" }, h("h2", {}, "Saved over 30 days ", h("small", { class: "muted" }, `as of ${clock(mine.at / 1000)}`)), h("label", { class: "row tight" }, h("span", { class: "muted" }, "by"), choose)), ...children));
    let found;
    try {
      found = await read(`v1/savings?by=${by}`);
      if (mine !== summed) return; // another was asked for since
    } catch (problem) {
      return put(problem.status === 404 ? nothing(problem.message) : failure(problem, () => saved(by)));
    }
    const { total } = found, left = [[total.uncosted, "without a cost in feedback"], [total.without_reference, "stored before the reference's cost was"], [total.held_back, "held back"]].filter(([count]) => count).map(([count, why]) => `${number(count)} ${why}`);
    const compared = left.length ? `${total.compared ? `${number(total.compared)} of` : "None of"} ${number(total.decisions)} compared; left out: ${left.join(", ")}.${total.uncosted ? " Tell cost_usd in feedback." : ""}` : "";
    const all = [...found.lines, total];
    const places = decimals(all.flatMap((one) => [one.compared_usd, one.reference_usd]), 5);
    const money = (one, value) => usd(one.compared ? value : null, places);
    const interval = (one, low, high) => h("small", { class: "muted block" }, one.compared ? between(low, high, (value) => usd(value, places)) : `none of ${number(one.decisions)} compared`);
    const row = (one, name) => [name, number(one.decisions), h("span", {}, money(one, one.compared_usd), h("small", { class: "muted block" }, `of ${number(one.compared)}`)), h("span", {}, money(one, one.reference_usd), interval(one, one.reference_low, one.reference_high)),
      h("span", { class: one.compared && one.saved_usd < 0 ? "bad" : "" }, money(one, one.saved_usd), interval(one, one.saved_low, one.saved_high)),
      usd(Object.entries(one.routing_costs ?? {}).reduce((sum, [name, value]) => sum + (/^un/.test(name) ? 0 : value ?? 0), 0), places), h("span", {}, percent(one.quality), h("small", { class: "muted block" }, one.judged ? between(one.quality_low, one.quality_high, percent) : "none judged"))];
    const reference = found.references.map((one) => one.reference).join(", ");
    put(!total.compared && compared && h("p", { class: "notice warn" }, `So far nothing is known of what was saved. ${compared}`), found.method && h("p", { class: "muted small" }, `Against all to ${reference || "the reference"}, known from ${found.method} (${level(found.method)} intervals). Second answers and judging are taken off; exploring is in the cost. ${total.compared ? compared : ""}`),
      table("Savings", [[`By ${BY[by]}`, ""], ["Decisions", "num"], ["Cost, compared", "num"], ["Reference", "num"], ["Saved", "num"], ["Routing's own", "num"], ["Acceptable", "num"]],
        found.lines.length ? [...found.lines.map((one) => row(one, one.name ?? "none")), found.other && row(found.other, "all others"), row(total, h("strong", {}, "Total"))].filter(Boolean) : [], "No decision in this time."));
  }

  return { show, hide };
}
