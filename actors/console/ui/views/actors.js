// The nodes' actors: what waits for them, and how often they fell.
import { computed } from "@preact/signals";
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

export function Actors() {
  const all = actors.value;
  const troubled = all.filter(isTroubled).length;
  return html`<section aria-labelledby="actors"><h2 id="actors">Actors</h2>
    ${all.length === 0 ? html`<p class="empty">No node has told of its actors yet.</p>` : html`<p class="why">${all.length} actors, ${troubled === 0 ? "none in trouble" : `${troubled} to look at`}</p>
    <div class="scroll list" tabindex="0" role="region" aria-label="Actors"><table class="rows">
    <thead><tr>${["node", "actor", "condition", "waiting", "oldest, ms", "handled", "turned away", "too late", "last panic", ""].map((title) => html`<th scope="col">${title}</th>`)}</tr></thead>
    <tbody>${all.map((actor) => html`<tr key=${actor.key} class=${isTroubled(actor) ? "event fault" : ""}>
      <td>${nameOf(actor.node)}</td><th scope="row">${actor.name}</th><td>${condition(actor)}</td><td>${actor.depth}</td><td>${actor.oldest_ms}</td>
      <td>${Number(actor.handled ?? 0).toLocaleString("en")}</td><td>${actor.shed}</td><td>${actor.expired}</td><td>${actor.last_panic ?? ""}</td>
      <td>${actor.node === own.value?.id && actor.restartable && html`<${ActionButton} name="restart-actor" on=${actor.name} label="Restart…" />`}</td>
    </tr>`)}</tbody></table></div>`}</section>`;
}
