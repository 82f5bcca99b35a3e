// Bundles: which there are, two side by side, what the shadow would have decided, and reloading.

import { read } from "./api.js";
import { badge, card, day, dollars, failure, figure, h, loading, meaning, muted, nothing, number, percent, replace, share, table, thousand, titled, whole } from "./dom.js";

const METRICS = { aiq: ["AIQ on its test part", 3], headroom_captured: ["Headroom captured", 3], saving: ["Saving", 3], quality: ["Quality", 3], cost_usd: ["Cost per request, USD", 6], ece: ["Calibration error (ECE)", 3], brier: ["Brier score", 3], test_requests: ["Test requests", 0] };
const two = (low, high) => `${low} → ${high}`;

export function bundlesTab(panel, { me }) {
  let found = null, picked = [];
  const comparison = h("div"), shadow = h("div");

  async function load() {
    replace(panel, loading("Loading bundles…"));
    try {
      found = await read("v1/bundles");
    } catch (problem) {
      return replace(panel, card("Bundles", failure(problem, load)));
    }
    const sound = found.bundles.filter((one) => !one.broken);
    const live = sound.find((one) => one.version === found.live);
    const other = sound.find((one) => one.previous) ?? sound.find((one) => one !== live);
    picked = [live, other].filter(Boolean).map((one) => one.version);
    replace(panel, top(), list(sound), comparison, shadow);
    compare();
    if (me.admin && me.store && found.shadow) shadowed();
    else replace(shadow);
  }

  function top() {
    const reload = h("button", { type: "button", onclick: confirm }, "Reload…");
    return card(null, h("div", { class: "row between" }, h("h2", {}, "Served"), me.admin && reload),
      h("dl", { class: "figures ids" }, figure("Live", whole(found.live)), figure("Shadow", whole(found.shadow ?? "none")), found.source && h("div", { class: "figure" }, h("dt", {}, "From"), h("dd", {}, h("code", { class: "wrap" }, found.source)))),
      h("p", { class: "muted small" }, me.admin ? "Reloading takes over what the source says now. Promoting another bundle is a command: router-train promote." : "A key that may administer (admin = true in the rule file) also sees the other bundles and may reload."));
  }

  function states(one) {
    return [one.version === found.live && badge("live", "good"), one.version === found.shadow && badge("shadow", "accent"), one.previous && badge("previous"), one.broken && badge("broken", "bad"), one.simulated && badge("simulated", "warn")];
  }

  function list(sound) {
    const rows = found.bundles.map((one) => {
      const pick = sound.includes(one) && sound.length > 1 && h("input", { type: "checkbox", class: "pick", value: one.version, checked: picked.includes(one.version), "aria-label": `Compare ${one.version}`, onchange: choose });
      const certified = (one.points ?? []).filter((point) => point.certified);
      return [h("label", { class: "row tight" }, pick, h("code", { class: "name" }, one.version)), h("span", { class: "row tight" }, states(one)), day(one.created), one.broken ? h("span", { class: "bad" }, one.broken) : one.default_point,
        one.broken ? "–" : certified.length ? certified.map((point) => h("span", { class: "block nowrap" }, point.name)) : h("span", { class: "muted" }, "nothing"), number(one.metrics?.aiq, 3)];
    });
    return card("Bundles", muted(sound.length > 1 ? "Two that are marked are compared below. " : "", meaning("AIQ")),
      table("Bundles", [["Version", "nowrap"], ["State", ""], ["Made", "nowrap"], ["Operating point", ""], ["Certified", ""], [titled("AIQ"), "num"]], rows));
  }

  function choose(event) {
    picked = event.target.checked ? [...picked, event.target.value].slice(-2) : picked.filter((one) => one !== event.target.value);
    for (const box of panel.querySelectorAll(".pick")) box.checked = picked.includes(box.value);
    compare();
  }

  function compare() {
    if (picked.length < 2) return replace(comparison, found.bundles.length > 1 ? card("Side by side", nothing("Mark two bundles.")) : null);
    const [a, b] = picked.map((version) => found.bundles.find((one) => one.version === version));
    const same = a.comparable && b.comparable;
    const rows = [["Made", day(a.created), day(b.created)], ["Estimator", a.estimator, b.estimator], ["Reference", a.reference, b.reference], ["Operating point", a.default_point, b.default_point],
      ["Candidates", ...[a, b].map((one) => h("span", {}, one.candidates.map((name) => h("span", { class: "block name" }, name))))]];
    for (const [name, [label, places]] of Object.entries(METRICS)) {
      if (a.metrics?.[name] === undefined && b.metrics?.[name] === undefined) continue;
      rows.push([name === "aiq" ? titled("AIQ", label) : label, number(a.metrics?.[name], places), number(b.metrics?.[name], places)]);
    }
    const names = [...new Set([...(a.points ?? []), ...(b.points ?? [])].map((point) => point.name))];
    const said = (one, name) => {
      const point = (one.points ?? []).find((other) => other.name === name);
      if (!point) return "–";
      return point.certified ? h("span", {}, badge("certified", "good"), ` fails at most ${percent(point.bound)}, allowed ${share(point.alpha)}`) : badge("not certified");
    };
    for (const name of names) rows.push([whole(name), said(a, name), said(b, name)]);
    replace(comparison, card("Side by side",
      !same && h("p", { class: "notice warn" }, "Trained on different logs: each figure is on its own test part, so they are no comparison. The shadow, or router-train compare, is one."),
      table("Side by side", [["", ""], [a.version, ""], [b.version, ""]], rows, "", true)));
  }

  async function shadowed() {
    replace(shadow, card("Shadow", loading()));
    let came;
    try {
      came = await read("v1/shadow?hours=24");
    } catch (problem) {
      return replace(shadow, card("Shadow", problem.status === 404 ? nothing(problem.message) : failure(problem, shadowed)));
    }
    const line = (one, name) => [name, number(one.decisions), percent(one.agreement, 0), two(dollars(thousand(one.live_cost_usd)), dollars(thousand(one.shadow_cost_usd))), two(percent(one.live_confidence), percent(one.shadow_confidence))];
    const rows = came.total ? [...came.workflows.map((one) => line(one, one.workflow ?? "none")), line(came.total, h("strong", {}, "All"))] : [];
    replace(shadow, card("Shadow", muted(`What ${came.shadow ?? "the shadow"} would have decided over the last ${number(came.hours)} hours; live → shadow. It never answers. ${meaning("P(acceptable)")}`),
      table("Shadow against live", [["Workflow", ""], ["Decisions", "num"], ["Same choice", "num"], ["Expected $ per 1,000", "num"], [titled("P(acceptable)"), "num"]], rows, "Nothing to compare yet.")));
  }

  function confirm() {
    const result = h("div", { role: "status" });
    const go = h("button", { type: "button", class: "primary", onclick: reload }, "Reload");
    const close = h("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, "Cancel");
    const dialog = h("dialog", { "aria-labelledby": "reload-title" }, h("h2", { id: "reload-title" }, "Reload every worker?"),
      h("p", {}, `Each takes over the bundle, the shadow and the rule file as ${found.source ?? "the source"} has them now. What is refused stays as it is.`), result, h("div", { class: "row end" }, close, go));
    dialog.addEventListener("close", () => dialog.remove());
    document.body.append(dialog);
    dialog.showModal();

    async function reload() {
      go.disabled = true;
      replace(result, muted("Reloading…"));
      try {
        const came = await read("v1/admin/reload", { method: "POST" });
        replace(result, h("p", {}, came.changed ? "Something is another now." : "Nothing has changed."),
          h("ul", {}, came.workers.map((one) => h("li", {}, `Worker ${one.worker}: ${one.bundle}${one.shadow ? `, shadow ${one.shadow}` : ""}`))));
        go.remove();
        close.textContent = "Close";
        dialog.addEventListener("close", load);
      } catch (problem) {
        go.disabled = false;
        replace(result, problem.status === 409 ? h("div", { class: "failure", role: "alert" }, h("h3", {}, "Refused; what was there stays"), h("p", {}, problem.message)) : failure(problem));
      }
    }
  }

  return { show: load };
}
