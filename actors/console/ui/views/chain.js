// The order as it is made: phases and votes of the newest places, the newest blocks, and one box that finds anything.
import { computed, signal } from "@preact/signals";
import { html } from "../html.js";
import { api, loaded, own, tables } from "../store.js";

const rowsOf = (table, prefix) =>
  Object.entries(tables[table].value)
    .filter(([key]) => own.value && key.startsWith(`${own.value.id}/${prefix}`))
    .map(([, row]) => row);

const state = computed(() => tables.consensus.value[`${own.value?.id}/state`]);
const slots = computed(() => rowsOf("consensus", "slot/").sort((a, b) => b.height - a.height));
const blocks = computed(() => rowsOf("blocks", "").sort((a, b) => b.height - a.height));
// Whoever reads a line does not want it to run away.
const held = signal(null);
const found = signal(null);

const time = (ms) => (ms ? new Date(ms).toLocaleTimeString("en-GB") + "." + String(ms % 1000).padStart(3, "0") : "");

function Votes({ name, votes, quorum, seats }) {
  return html`<td><span class="votes ${votes.length >= quorum ? "enough" : ""}" role="img" aria-label=${`${name}: ${votes.length} of ${quorum} needed, seats ${votes.join(", ") || "none"}`}>
    ${Array.from({ length: seats }, (_, seat) => html`<i class=${votes.includes(seat) ? "voted" : ""} title=${`seat ${seat}`}>${seat}</i>`)}
    </span> <small>${votes.length} of ${quorum}</small></td>`;
}

function Strip() {
  const now = state.value;
  if (!now) return html`<p class="empty">The replica has not told of its order yet.</p>`;
  const changing = now.changing_to != null;
  const said = `View ${now.view}, led by seat ${now.primary}${changing ? `; the seats change to view ${now.changing_to}` : ""} · ${now.quorum} of ${now.seats} seats are needed · waiting: batches ${now.pending_batches}, transactions ${now.waiting}`;
  return html`<p class=${changing ? "notice" : "why"}>${said}</p>
    <div class="scroll" tabindex="0" role="region" aria-label="Consensus"><table class="rows strip">
    <thead><tr>${["place", "view", "prepared", "committed", ""].map((title) => html`<th scope="col">${title}</th>`)}</tr></thead>
    <tbody>${slots.value.map((slot) => html`<tr key=${slot.height}><th scope="row">${slot.height.toLocaleString("en")}</th><td>${slot.view ?? ""}</td>
      ${now.speaks || slot.prepared.length > 0 ? html`<${Votes} name="prepared" votes=${slot.prepared} quorum=${now.quorum} seats=${now.seats} />` : html`<td>–</td>`}
      <${Votes} name="committed" votes=${slot.committed} quorum=${now.quorum} seats=${now.seats} />
      <td>${slot.final ? "final" : "open"}</td></tr>`)}</tbody></table></div>
    ${!now.speaks && html`<p class="why">This node follows its seat's log: it sees what is final, and not each vote. The page of the node that holds the seat shows the phases.</p>`}`;
}

async function find(text) {
  const wanted = text.trim();
  if (!wanted) return;
  const path = /^\d+$/.test(wanted) ? `blocks/${wanted}` : `transactions/${encodeURIComponent(wanted)}`;
  found.value = { wanted, busy: true };
  const { ok, body } = await api(path);
  found.value = { wanted, ...(ok ? (path.startsWith("blocks") ? { block: body } : { transaction: body }) : { error: body.error }) };
}

function outcome(receipt) {
  const [kind, why] = typeof receipt.outcome === "string" ? [receipt.outcome, ""] : Object.entries(receipt.outcome)[0];
  return kind === "Rejected" ? `refused: ${why}` : kind.toLowerCase();
}

function Receipts({ receipts }) {
  if (receipts.length === 0) return html`<p class="why">It has no transactions.</p>`;
  return html`<div class="scroll list" tabindex="0" role="region" aria-label="Transactions"><table class="rows"><thead><tr><th scope="col">transaction</th><th scope="col">outcome</th></tr></thead>
    <tbody>${receipts.map((receipt) => html`<tr><th scope="row"><button type="button" class="link" onClick=${() => find(receipt.transaction)}>${receipt.transaction}</button></th>
      <td>${outcome(receipt)}</td></tr>`)}</tbody></table></div>`;
}

function Found() {
  if (!found.value) return null;
  const { wanted, busy, error, block, transaction } = found.value;
  const height = block?.height ?? transaction?.header.proposal.height;
  return html`<article class="card" aria-live="polite"><h3>${busy ? `Looking for ${wanted}…` : error ? `Nothing found for ${wanted}` : block ? `Block ${height}` : `Transaction ${wanted}`}
      <button type="button" class="link" onClick=${() => { found.value = null; }}>close</button></h3>
    ${error && html`<p>${error}</p>`}
    ${block && html`<dl class="facts"><div><dt>hash</dt><dd><code>${block.hash}</code></dd></div>
      <div><dt>made</dt><dd>${time(block.header.proposal.time_ms)}, by seat ${block.header.proposal.proposer} in view ${block.header.proposal.view}</dd></div>
      <div><dt>certificate</dt><dd>${block.certificate.votes.map((vote) => `seat ${vote.seat} in term ${vote.term}`).join(", ")}</dd></div></dl>
      <${Receipts} receipts=${block.receipts} />`}
    ${transaction && html`<dl class="facts"><div><dt>block</dt><dd><button type="button" class="link" onClick=${() => find(String(height))}>${height}</button></dd></div>
      <div><dt>outcome</dt><dd>${outcome(transaction.receipt)}</dd></div>
      <div><dt>proof</dt><dd>${transaction.receipt_proof ? "its receipt is covered by a proven checkpoint" : "no proven checkpoint covers it yet"}</dd></div></dl>`}
  </article>`;
}

function Blocks() {
  const shown = held.value ?? blocks.value;
  const skipped = held.value ? blocks.value.filter((block) => block.height > (held.value[0]?.height ?? 0)).length : 0;
  return html`<div class="scroll list" tabindex="0" role="region" aria-label="Blocks"
      onMouseEnter=${() => { held.value = blocks.value; }} onMouseLeave=${() => { held.value = null; }}
      onFocusIn=${() => { held.value ??= blocks.value; }} onFocusOut=${() => { held.value = null; }}>
    <table class="rows"><thead><tr>${["height", "made", "seat", "view", "transactions", "refused", "batches", "bytes", "hash"].map((title) => html`<th scope="col">${title}</th>`)}</tr></thead>
    <tbody>${shown.map((block) => html`<tr key=${block.height}><th scope="row"><button type="button" class="link" onClick=${() => find(String(block.height))}>${block.height.toLocaleString("en")}</button></th>
      <td>${time(block.at_ms)}</td><td>${block.seat}</td><td>${block.view}</td><td>${block.transactions}</td><td>${block.refused}</td><td>${block.batches}</td>
      <td>${Number(block.bytes).toLocaleString("en")}</td><td><code>${block.hash.slice(0, 16)}</code></td></tr>`)}</tbody></table></div>
    <p class="why">${held.value ? `Held while you read: ${skipped} newer.` : `The newest ${shown.length}. They stand still while the pointer is on them.`}</p>`;
}

export function Chain() {
  return html`<section aria-labelledby="find"><h2 id="find">Find</h2>
      <form class="find" role="search" onSubmit=${(event) => { event.preventDefault(); find(event.target.elements.what.value); }}>
        <input name="what" type="search" aria-label="Height of a block, or id of a transaction" placeholder="height of a block, or id of a transaction" autocomplete="off" />
        <button>Find</button></form><${Found} /></section>
    <section aria-labelledby="consensus"><h2 id="consensus">Consensus</h2><${Strip} /></section>
    <section aria-labelledby="blocks"><h2 id="blocks">Blocks</h2>${blocks.value.length > 0 ? html`<${Blocks} />` : html`<p class="empty">${loaded.value.has("blocks") ? "The node has executed no block yet." : "…"}</p>`}</section>`;
}
