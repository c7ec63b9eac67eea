// Hand-overs step by step, in milliseconds, and everything else that happened.
import { computed } from "@preact/signals";
import { html } from "../html.js";
import { byName, nameOf, streams } from "../store.js";

const STEPS = ["suspected", "asked", "granted", "fenced", "active", "first block"];
const SHOWN = 8;
const LISTED = 200;

// The steps that tell one term belong together, with the suspicion and the request that ended the one before. What no suspicion
// and no resignation began, as when a network starts, took nobody's place. Each node counts its ms from its own suspicion: those of whoever has taken
// the seat stand on one line, and others tell of a step that it has not told.
const handOvers = computed(() => {
  const found = new Map();
  for (const event of streams.events.value) {
    if (!event.cluster || event.term == null) continue;
    const ends = event.kind === "suspected" || event.kind === "asked";
    const term = ends ? event.term + 1 : event.term;
    const key = `${event.cluster}/${term}`;
    const handOver = found.get(key) ?? { key, cluster: event.cluster, term, at: event.at_ms, told: [] };
    if (STEPS.includes(event.kind)) handOver.told.push(event);
    handOver.at = Math.min(handOver.at, event.at_ms);
    found.set(key, handOver);
  }
  return [...found.values()].map(({ told, ...one }) => ({ ...one, steps: stepsOf(told) }))
    .filter((one) => one.steps.active?.ms != null).sort((a, b) => b.at - a.at).slice(0, SHOWN);
});

function stepsOf(told) {
  const first = (events) => events.reduce((first, event) => (first && first.at_ms <= event.at_ms ? first : event), undefined);
  const taker = first(told.filter((event) => event.kind === "active"))?.node;
  return Object.fromEntries(STEPS.map((step) => {
    const events = told.filter((event) => event.kind === step);
    return [step, first(events.filter((event) => event.node === taker)) ?? first(events)];
  }).filter(([, event]) => event));
}

const time = (ms) => new Date(ms).toLocaleTimeString("en-GB") + "." + String(ms % 1000).padStart(3, "0");

function HandOver({ one }) {
  const active = one.steps.active;
  const first = one.steps["first block"];
  const last = first?.ms ?? active.ms ?? 0;
  const steps = STEPS.filter((step) => one.steps[step]).map((step) => ({ step, ms: one.steps[step].ms ?? 0 }));
  return html`<li class="hand-over" data-cluster=${one.cluster} data-term=${one.term}>
    <h3>${one.cluster} <small>term ${one.term} · to ${nameOf(active.node)} · ${time(one.at)}</small>
      <strong>${last} ms</strong></h3>
    <ol class="steps">${steps.map(({ step, ms }) => html`<li style=${`--at:${last ? Math.min(1, ms / last) : 0}`}>
      <span>${step}</span><b>${ms} ms</b></li>`)}</ol>
    <p class="why">${one.steps.suspected?.detail ?? ""}</p></li>`;
}

function Events() {
  const newest = [...streams.events.value].sort((a, b) => b.at_ms - a.at_ms).slice(0, LISTED);
  if (newest.length === 0) return html`<p class="empty">Nothing has happened since the nodes began to tell.</p>`;
  return html`<div class="scroll list" tabindex="0" role="region" aria-label="Events"><table class="rows"><thead><tr>
    ${["when", "node", "what", "cluster", "term", "ms", "more"].map((title) => html`<th scope="col">${title}</th>`)}</tr></thead>
    <tbody>${newest.map((event) => html`<tr class="event ${event.kind.replace(" ", "-")}">
      <td>${time(event.at_ms)}</td><td>${nameOf(event.node)}</td><th scope="row">${event.kind}</th>
      <td>${event.cluster ?? ""}</td><td>${event.term ?? ""}</td><td>${event.ms ?? ""}</td><td>${byName(event.detail)}</td></tr>`)}
    </tbody></table></div>`;
}

export function Timeline() {
  return html`<section aria-labelledby="timeline"><h2 id="timeline">Hand-overs</h2>
    ${handOvers.value.length === 0
      ? html`<p class="empty">No seat has changed hands since the nodes began to tell. When one does, its steps stand here, in milliseconds.</p>`
      : html`<ul class="hand-overs">${handOvers.value.map((one) => html`<${HandOver} key=${one.key} one=${one} />`)}</ul>`}
    <h2>Events</h2><${Events} /></section>`;
}
