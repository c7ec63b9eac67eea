// What people did at this node.
import { computed } from "@preact/signals";
import { html } from "../html.js";
import { byName, streams } from "../store.js";

const newest = computed(() => [...streams.audit.value].reverse());

export function Audit() {
  const acts = newest.value;
  return html`<section aria-labelledby="audit"><h2 id="audit">What people did at this node</h2>
    ${acts.length === 0
      ? html`<p class="empty">Nobody has done anything here yet.</p>`
      : html`<div class="scroll list" tabindex="0" role="region" aria-label="Audit log"><table class="rows"><thead><tr>${["when", "who", "as", "what", "on", "why", "outcome"].map((title) => html`<th scope="col">${title}</th>`)}</tr></thead>
        <tbody>${acts.map((act) => html`<tr class=${act.outcome.startsWith("refused") ? "event refused" : ""}><td>${new Date(act.at_ms).toLocaleString("en-GB")}</td>
          <td title=${act.user}>${act.user.length > 24 ? `${act.user.slice(0, 20)}…` : act.user}</td><td>${act.role ?? ""}</td><th scope="row">${act.action}</th><td>${act.on ?? ""}</td><td>${act.reason ?? ""}</td><td>${byName(act.outcome)}</td></tr>`)}</tbody></table></div>`}
    <p class="why">The newest. All of it is in the node's folder, each line with the hash of the one before: <code>standin audit verify -c NODE.toml</code> checks it, <code>standin audit export -c NODE.toml</code> prints it.</p></section>`;
}
