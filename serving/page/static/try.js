// Try: one request, what would be decided, and why. Nothing is recorded.

import { key, open, Problem } from "./api.js";
import { badge, bar, candidate, card, decimals, details, failure, figure, h, helped, muted, nothing, number, percent, replace, share, table, titled, usd, whole, words } from "./dom.js";
import { knobView } from "./knob.js";

const EXAMPLES = {
  "A summary": "Summarise this ticket in one line: the invoice of May was charged twice.",
  "A query": "Write SQL: monthly revenue per region, last year.",
  "A proof": "Prove that the sum of two odd numbers is even.",
};
const CAPABILITIES = ["tools", "vision", "json_schema", "audio", "pdf", "video"];
const PRIVACY = { zero_retention: "zero retention", self_hosted: "self-hosted", no_training: "no training" };
const REASONS = {
  best_value: "Best value at this setting.",
  only_eligible: "The only candidate that the rules leave.",
  reference: "This operating point always uses it: nothing else could be certified for the target.",
  uncertified: "Nothing could be certified for the target; it is estimated to be kept, which is no promise.",
  session: "The conversation is on it, and nothing else is worth enough more.",
  novel: "Unlike anything in the log, so the reference answers.",
  low_confidence: "The best candidate is not sure enough to be acceptable, so the reference answers.",
  budget: "A budget made it this one instead of a dearer one.",
  explore: "Chosen at random, to learn.",
  held_back: "Held back: who would have answered without the router does.",
  no_candidate: "Nobody is left by the rules, and one of them names who answers then.",
  timeout: "Embedding the prompt took too long.",
  fault: "The decision failed; the service's log says why.",
};
const RULES = {
  not_allowed: "is not among those allowed",
  denied: "is denied",
  context_window: "cannot read a request that long",
  max_output_tokens: "cannot write an answer that long",
  tools: "cannot call tools",
  vision: "cannot see pictures",
  json_schema: "cannot keep to a JSON schema",
  audio: "cannot hear audio",
  pdf: "cannot read PDFs",
  video: "cannot watch video",
  zero_retention: "keeps what it is sent",
  self_hosted: "is not self-hosted",
  region: "is in none of the regions asked for",
  no_training: "may train on what it is sent",
  max_cost_usd: "would cost more than the limit",
  max_latency_ms: "would take longer than the limit",
  max_price: "has a price above the limit",
};
const ruled = (rule) => (RULES[rule] ? `It ${RULES[rule]}.` : words(rule));
const list = (text) => text.split(/[,\s]+/).filter(Boolean);

export function tryTab(panel, { bundle, candidates, knob, me, say }) {
  const field = (label, input, note) => h("label", { class: "field" }, h("span", {}, label), input, note && h("small", { class: "muted" }, note));
  const text = h("textarea", { rows: "6", "aria-label": "Prompt", placeholder: "Type or paste a prompt", spellcheck: "true" });
  const kinds = ["prompt", "messages"].map((name, place) => h("label", { class: "segment" },
    h("input", { type: "radio", name: "kind", value: name, checked: place === 0, onchange: rekind }), h("span", {}, name === "prompt" ? "Prompt" : "Messages, JSON")));
  const workflow = h("input", { list: "workflows", autocomplete: "off", placeholder: "none" });
  const known = me.workflows?.length ? me.workflows : bundle.head?.workflows ?? [];
  const inputs = {
    allow: h("input", { placeholder: "acme/*, open/*" }), deny: h("input", { placeholder: "acme/*" }),
    cost: h("input", { type: "number", min: "0", step: "any", inputmode: "decimal" }),
    latency: h("input", { type: "number", min: "1", step: "any", inputmode: "decimal" }),
    room: h("input", { type: "number", min: "1", step: "1", inputmode: "numeric" }),
    regions: h("input", { placeholder: "eu, us" }),
  };
  const checks = (names) => Object.fromEntries(names.map((name) => [name, h("input", { type: "checkbox" })]));
  const requires = checks(CAPABILITIES), privacy = checks(Object.keys(PRIVACY));
  const boxes = (title, made, label) => h("fieldset", {}, h("legend", {}, title),
    h("div", { class: "checks" }, Object.entries(made).map(([name, input]) => h("label", { class: "check" }, input, h("span", {}, label(name))))));
  const view = knobView(knob);
  const answer = h("div", { class: "answer" });
  const summary = h("p", { class: "unseen", role: "status" });
  const wrong = h("p", { class: "bad", id: "wrong-messages", role: "alert", tabindex: "-1", hidden: true });
  const ask = h("button", { type: "submit", class: "primary" }, "Ask");
  const copy = h("button", { type: "button", onclick: copyCurl }, "Copy as curl");
  const form = h("form", { class: "stack", onsubmit: (event) => (event.preventDefault(), decide(0, true)) },
    h("div", { class: "segments", role: "group", "aria-label": "What is asked" }, kinds), text,
    h("div", { class: "row examples" }, h("small", { class: "muted" }, "Examples"), Object.entries(EXAMPLES).map(([label, one]) => h("button", { type: "button", class: "chip", onclick: () => use(one) }, label))),
    field("Workflow", workflow), h("datalist", { id: "workflows" }, known.map((name) => h("option", { value: name }))),
    details("Constraints", h("div", { class: "grid two" },
      field("Allow only", inputs.allow, "Globs, with commas"), field("Deny", inputs.deny, "Globs; wins over allow"),
      field("Most cost, USD", inputs.cost), field("Most p95 latency, ms", inputs.latency),
      field("Room for the answer, tokens", inputs.room), field("Regions", inputs.regions)),
      boxes("Needs", requires, words), boxes("Privacy", privacy, (name) => PRIVACY[name])),
    view.element,
    h("div", { class: "row" }, ask, copy, wrong, h("small", { class: "muted" }, "Nothing is sent to an LLM, stored or charged.")));
  replace(panel, h("div", { class: "columns" }, card("Request", form), h("div", { class: "stack" }, summary, answer)));

  let asking = null, timer = 0;
  form.addEventListener("input", (event) => event.target.type !== "range" && event.target.type !== "radio" && decide(400));
  text.addEventListener("keydown", (event) => (event.ctrlKey || event.metaKey) && event.key === "Enter" && decide(0, true));
  knob.addEventListener("change", () => !panel.hidden && decide(120));
  nothingYet();

  function rekind() {
    const json = kinds[1].querySelector("input").checked;
    text.setAttribute("aria-label", json ? "Messages, JSON" : "Prompt");
    text.placeholder = json ? '[{"role": "user", "content": "…"}]' : "Type or paste a prompt";
    if (json && text.value.trim() && !text.value.trim().startsWith("[")) text.value = JSON.stringify([{ role: "user", content: text.value }], null, 2);
    decide(0);
  }

  function use(example) {
    kinds[0].querySelector("input").checked = true;
    text.setAttribute("aria-label", "Prompt");
    text.value = example;
    decide(0);
  }

  function nothingYet() {
    view.show([]);
    replace(answer, card("Decision", nothing("Type a prompt, or take an example: here is then who would answer, what it would cost, and where on the slider the choice flips.")));
  }

  function body() {
    const said = {};
    if (kinds[1].querySelector("input").checked) {
      try {
        said.messages = JSON.parse(text.value);
      } catch (error) {
        throw Object.assign(new Problem(422, `Messages are no JSON: ${error.message}`), { written: true });
      }
    } else said.prompt = text.value;
    if (workflow.value.trim()) said.workflow = workflow.value.trim();
    for (const name of ["allow", "deny"]) if (list(inputs[name].value).length) said[name] = list(inputs[name].value);
    if (inputs.cost.value) said.max_cost_usd = Number(inputs.cost.value);
    if (inputs.latency.value) said.max_latency_ms = Number(inputs.latency.value);
    if (inputs.room.value) said.max_output_tokens = Math.round(Number(inputs.room.value));
    const needs = CAPABILITIES.filter((name) => requires[name].checked);
    if (needs.length) said.requires = needs;
    const demands = Object.fromEntries(Object.keys(PRIVACY).filter((name) => privacy[name].checked).map((name) => [name, true]));
    if (list(inputs.regions.value).length) demands.regions = list(inputs.regions.value);
    if (Object.keys(demands).length) said.privacy = demands;
    return { ...said, ...knob.body(), explain: true, dry_run: true };
  }

  // Beside the button; focused for who pressed it, not for who still writes.
  function misspelt(problem, pressed) {
    wrong.textContent = problem?.message ?? "";
    wrong.hidden = !problem;
    if (!problem) return text.removeAttribute("aria-invalid"), text.removeAttribute("aria-describedby");
    text.setAttribute("aria-invalid", "true");
    text.setAttribute("aria-describedby", wrong.id);
    nothingYet();
    if (pressed) wrong.focus();
  }

  function decide(after, pressed = false) {
    clearTimeout(timer);
    misspelt(null);
    asking?.abort();
    if (!text.value.trim()) return nothingYet();
    timer = setTimeout(async () => {
      const mine = (asking = new AbortController());
      answer.setAttribute("aria-busy", "true");
      try {
        const response = await open("v1/route", { method: "POST", body: body(), signal: mine.signal });
        show(await response.json());
      } catch (problem) {
        if (problem.name === "AbortError") return;
        problem.written ? misspelt(problem, pressed) : refused(problem);
      } finally {
        if (asking === mine) answer.removeAttribute("aria-busy");
      }
    }, after);
  }

  function refused(problem) {
    view.show([]);
    summary.textContent = "";
    const out = problem.document?.ruled_out;
    if (!out) return replace(answer, card("Decision", failure(problem, problem.status ? null : () => decide(0))));
    replace(answer, card("No candidate is left", h("p", {}, "Every candidate is ruled out. Loosen a constraint."),
      table("Why each is out", [["Candidate", ""], ["Why it is out", ""]], Object.entries(out).map(([name, rule]) => [candidate(name), ruled(rule)]))));
  }

  function show(decision) {
    const why = decision.explanation ?? {};
    const cost = usd(decision.expected_cost_usd);
    summary.textContent = `${decision.model}, P(acceptable) ${percent(decision.confidence, 0)}, expected cost ${cost}`;
    view.show(why.flips, why.points);
    replace(answer, verdict(decision, why), everyone(decision, why), nearest(why, decision.unexplained));
  }

  function verdict(decision, why) {
    const { certificate } = decision, other = why.counterfactual;
    const overrides = (why.overrides ?? []).filter((one) => one !== decision.reason).map((one) => badge(words(one), "warn"));
    const against = other && other.model !== decision.model && Number.isFinite(other.saving_usd) && muted(
      `${other.model} would be expected to cost ${usd(other.expected_cost_usd)}, ${usd(Math.abs(other.saving_usd))} ${other.saving_usd < 0 ? "less" : "more"}.`);
    return card("Decision",
      h("p", { class: "verdict", id: "choice" }, candidate(decision.model)),
      h("p", { class: "row tight" }, certificate ? badge("Certified", "good") : badge("Not certified", ""), badge(words(decision.reason)), overrides),
      h("dl", { class: "figures" },
        figure(helped("P(acceptable)"), percent(decision.confidence)), figure("Expected cost", usd(decision.expected_cost_usd)),
        figure("Saved", other && other.model !== decision.model ? percent(other.saving, 0) : "–", other && (other.model === decision.model ? "this is the reference" : ["against ", whole(other.model)]))),
      h("p", {}, REASONS[decision.reason] ?? words(decision.reason)),
      certificate && muted(`Certificate: the choice fails where the reference would not in at most ${percent(certificate.bound)} of requests (allowed ${share(certificate.alpha)}), with confidence ${share(1 - certificate.delta)}, on ${number(certificate.requests)} requests.`),
      (decision.warnings ?? []).map((one) => h("p", { class: "notice warn" }, one)),
      details("The whole answer", h("pre", { tabindex: "0" }, JSON.stringify(decision, null, 2))));
  }

  function everyone(decision, why) {
    const costs = decision.candidates.map((one) => one.expected_cost_usd), dearest = Math.max(...costs.filter(Number.isFinite), 0);
    const places = decimals(costs);
    const scopes = Object.fromEntries((why.rules ?? []).map((one) => [one.model, one.scopes]));
    const rows = decision.candidates.map((one) => {
      const out = one.ruled_out && h("span", { class: "out" }, `Out: ${ruled(one.ruled_out)}${scopes[one.model]?.length ? ` (${scopes[one.model].join(", ")})` : ""}`);
      const mark = one.model === decision.model ? badge("chosen", "accent") : one.model === candidates.reference ? h("span", { class: "muted" }, "reference") : null;
      return [h("span", { class: one.ruled_out ? "is-out" : "" }, candidate(one.model), h("span", { class: "under" }, mark, out)),
        h("span", { class: "measure" }, percent(one.confidence), bar(one.confidence, "chance")),
        h("span", { class: "measure" }, usd(one.expected_cost_usd, places), bar(one.expected_cost_usd / dearest, "cost"))];
    });
    return card("Candidates", table("Candidates on this request", [["Candidate", ""], [titled("P(acceptable)"), "num"], ["Expected cost", "num"]], rows));
  }

  function nearest(why, unexplained) {
    const title = "Nearest logged requests";
    if (!why.nearest?.length) return card(title, nothing(why.why_none ?? unexplained ?? "None in this bundle."));
    const rows = why.nearest.map((one) => h("li", { class: "near" },
      h("div", { class: "row between" }, h("span", {}, h("strong", {}, one.workflow ?? "no workflow"), one.id && h("code", {}, one.id)), h("span", { class: "muted num" }, `similarity ${number(one.similarity, 2)}`)),
      one.text && h("p", { class: "quote" }, one.text),
      h("ul", { class: "outcomes" }, one.outcomes.map((came) => h("li", {}, outcome(came), h("span", { class: "name" }, came.model), h("span", { class: "muted num" }, usd(came.cost_usd)))))));
    return card(title, muted(`The ${number(rows.length)} nearest of ${number(why.searched)} kept`, why.of > why.searched ? ` (${number(why.of)} in the log)` : "", ", and what came of them.", why.nearest.every((one) => one.text) ? "" : " Text that is missing was not kept, or is not shown to this key."), h("ol", { class: "plain" }, rows));
  }

  function outcome(came) {
    if (came.error) return badge("error", "bad");
    if (came.acceptable === null || came.acceptable === undefined) return badge("not judged");
    return came.acceptable ? badge("acceptable", "good") : badge("not acceptable", "bad");
  }

  const quoted = (words_) => `'${words_.replaceAll("'", "'\\''")}'`;

  async function copyCurl() {
    let said;
    try {
      said = body();
    } catch (problem) {
      return misspelt(problem, true);
    }
    const authorization = me.keys || key.get() ? ' \\\n  -H "Authorization: Bearer $ROUTER_API_KEY"' : "";
    const address = new URL("v1/route", document.baseURI).href;
    const command = `curl -sS ${quoted(address)}${authorization} \\\n  -H 'Content-Type: application/json' \\\n  -d ${quoted(JSON.stringify(said))}`;
    try {
      await navigator.clipboard.writeText(command);
      say("Copied. Without dry_run the decision is recorded, as a request of yours is.");
    } catch {
      say("The browser does not let the page copy; the command is below.");
    }
    form.querySelector(".command")?.remove();
    form.append(h("pre", { class: "command", tabindex: "0", "aria-label": "The command" }, command));
  }

  return { show: () => text.value.trim() && decide(0), hide: () => (clearTimeout(timer), asking?.abort()) };
}
