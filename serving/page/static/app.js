// The page: its tabs, the key, and what all tabs need to know of the service.

import { key, Problem, read, told } from "./api.js";
import { bundlesTab } from "./bundles.js";
import { failure, h, loading, replace, setCandidates } from "./dom.js";
import { frontierTab } from "./frontier.js";
import { Knob } from "./knob.js";
import { liveTab } from "./live.js";
import { tryTab } from "./try.js";

const TABS = { try: ["Try", tryTab], frontier: ["Frontier", frontierTab], live: ["Live", liveTab], bundles: ["Bundles", bundlesTab] };
const byId = (id) => document.getElementById(id);
const main = byId("main"), dialog = byId("key-dialog"), notice = byId("notice");
let open = {}; // name -> {panel, view, button}
let shown = null;

function say(text) {
  notice.textContent = text ?? "";
  notice.hidden = !text;
}

function askForKey(why) {
  byId("key-forget").hidden = !key.get();
  byId("key-error").hidden = !why;
  byId("key-error").textContent = why ?? "";
  if (!dialog.open) dialog.showModal();
  byId("key-input").focus();
}

function keyButton(me) {
  byId("key-button").textContent = me?.key ? `Key: ${me.key}` : key.get() ? "API key set" : "API key";
  byId("key-button").hidden = me !== null && me !== undefined && !me.keys && !key.get();
}

function select(name, focus = false) {
  if (!open[name]) name = Object.keys(open)[0];
  if (shown === name || !name) return;
  if (shown) open[shown].view?.hide?.();
  for (const [other, { panel, button }] of Object.entries(open)) {
    panel.hidden = other !== name;
    button.setAttribute("aria-selected", String(other === name));
    button.tabIndex = other === name ? 0 : -1;
  }
  shown = name;
  const tab = open[name];
  tab.view ??= TABS[name][1](tab.panel, tab.context);
  tab.view.show?.();
  if (focus) tab.button.focus();
  document.title = `${TABS[name][0]} · outcome-router`;
  if (location.hash !== `#${name}`) history.replaceState(null, "", `#${name}`);
}

function moveAmongTabs(event) {
  const names = Object.keys(open), at = names.indexOf(shown);
  const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: names.length - 1 }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  select(names[(to + names.length) % names.length], true);
}

async function start() {
  for (const { view } of Object.values(open)) view?.hide?.();
  open = {};
  shown = null;
  replace(byId("tabs"));
  replace(main, loading());
  let me, bundle, candidates;
  try {
    [me, bundle, candidates] = await Promise.all([read("v1/me"), read("v1/bundle"), read("v1/candidates")]);
  } catch (problem) {
    keyButton(null);
    replace(main, failure(problem instanceof Problem ? problem : new Problem(0, String(problem)), problem.status === 401 ? () => askForKey() : start));
    if (problem.status === 401) main.querySelector("button").textContent = "Enter a key";
    return;
  }
  keyButton(me);
  setCandidates(candidates.candidates.map((one) => one.name));
  byId("version").textContent = `bundle ${bundle.version}`;
  byId("simulated").hidden = !bundle.simulated;
  const context = { me, bundle, candidates, knob: new Knob(bundle), say };
  replace(main);
  for (const name of me.page_tabs.filter((one) => one in TABS)) {
    const button = h("button", { type: "button", role: "tab", id: `tab-${name}`, "aria-controls": `panel-${name}`, onclick: () => select(name) }, TABS[name][0]);
    const panel = h("div", { role: "tabpanel", id: `panel-${name}`, "aria-labelledby": `tab-${name}`, class: "panel", hidden: true });
    byId("tabs").append(button);
    main.append(panel);
    open[name] = { button, panel, context, view: null };
  }
  select(location.hash.slice(1) || "try");
}

byId("tabs").addEventListener("keydown", moveAmongTabs);
addEventListener("hashchange", () => location.hash.slice(1) in open && select(location.hash.slice(1)));
byId("key-button").addEventListener("click", () => askForKey());
byId("key-cancel").addEventListener("click", () => dialog.close());
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key.set(byId("key-input").value.trim());
  byId("key-input").value = "";
  dialog.close();
  start();
});
byId("key-forget").addEventListener("click", () => {
  key.forget();
  byId("key-input").value = "";
  dialog.close();
  start();
});
told.addEventListener("key", (event) => askForKey(event.detail));
told.addEventListener("pause", (event) => say(`${event.detail.why} Waiting ${event.detail.seconds} s.`));
told.addEventListener("resume", () => say(null));
start();
