// The nodes' actors: what waits for them, and how often they fell.
import { computed } from "@preact/signals";
import { useRef } from "preact/hooks";
import { html } from "../html.js";
import { nameOf, own, tables } from "../store.js";
import { ActionButton } from "../actions.js";

const actors = computed(() =>
  Object.entries(tables.actors.value)
    .map(([key, row]) => ({ key, node: key.slice(0, key.indexOf("/")), name: key.slice(key.indexOf("/") + 1), ...row }))
    .sort((a, b) => `${nameOf(a.node)}/${a.name}`.localeCompare(`${nameOf(b.node)}/${b.name}`, "en", { numeric: true })));

// What an operator should look at: messages that were turned away, restarts, an end.
const isTroubled = (actor) => actor.shed > 0 || actor.restarts > 0 || actor.ended;

function condition(actor) {
  if (actor.ended) return "ended";
  if (actor.restarts > 0) return `${actor.restarts} restarts`;
  if (actor.shed > 0) return `${actor.shed} turned away`;
  return "runs";
}

// A node with its actors below it. What is in trouble is open, and the node whose page this is.
function Node({ id, all }) {
  const troubled = all.filter(isTroubled).length;
  const waiting = all.reduce((sum, actor) => sum + (actor.depth ?? 0), 0);
  const oldest = Math.max(0, ...all.map((actor) => actor.oldest_ms ?? 0));
  // What was opened is not closed under whoever reads it.
  const opened = useRef(id === own.value?.id);
  opened.current ||= troubled > 0;
  return html`<details class="tree" open=${opened.current}>
    <summary><strong>${nameOf(id)}</strong> ${all.length} actors · ${waiting} waiting, the oldest for ${oldest} ms · ${troubled === 0 ? "none in trouble" : html`<span class="bad">${troubled} to look at</span>`}</summary>
    <div class="scroll" tabindex="0" role="region" aria-label=${`Actors of ${nameOf(id)}`}><table class="rows">
    <thead><tr>${["actor", "condition", "waiting", "oldest, ms", "handled", "turned away", "too late", "last panic", ""].map((title) => html`<th scope="col">${title}</th>`)}</tr></thead>
    <tbody>${all.map((actor) => html`<tr key=${actor.key} class=${isTroubled(actor) ? "event fault" : ""}>
      <th scope="row">${actor.name}</th><td>${condition(actor)}</td><td>${actor.depth}</td><td>${actor.oldest_ms}</td>
      <td>${Number(actor.handled ?? 0).toLocaleString("en")}</td><td>${actor.shed}</td><td>${actor.expired}</td><td>${actor.last_panic ?? ""}</td>
      <td>${id === own.value?.id && actor.restartable && html`<${ActionButton} name="restart-actor" on=${actor.name} label="Restart…" />`}</td>
    </tr>`)}</tbody></table></div></details>`;
}

export function Actors() {
  const all = actors.value;
  const troubled = all.filter(isTroubled).length;
  const ids = [...new Set(all.map((actor) => actor.node))];
  // The node whose page this is comes first.
  ids.sort((a, b) => Number(b === own.value?.id) - Number(a === own.value?.id));
  return html`<section aria-labelledby="actors"><h2 id="actors">Actors</h2>
    ${all.length === 0 ? html`<p class="empty">No node has told of its actors yet.</p>` : html`<p class=${troubled === 0 ? "why" : "notice"}>${all.length} actors of ${ids.length} nodes, ${troubled === 0 ? "none in trouble" : `${troubled} to look at`}</p>
    ${ids.map((id) => html`<${Node} key=${id} id=${id} all=${all.filter((actor) => actor.node === id)} />`)}`}</section>`;
}
