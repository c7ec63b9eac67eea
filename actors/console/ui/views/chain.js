// The order as it is made: phases and votes of the newest places, the newest blocks, and one box that finds anything.
import { computed, signal, useSignalEffect } from "@preact/signals";
import { html } from "../html.js";
import { useEffect, useRef } from "preact/hooks";
import { api, loaded, nodes, own, tables } from "../store.js";
import { onKey } from "../keys.js";
import { condition } from "./topology.js";

const rowsOf = (table, prefix) =>
  Object.entries(tables[table].value)
    .filter(([key]) => own.value && key.startsWith(`${own.value.id}/${prefix}`))
    .map(([, row]) => row);

const state = computed(() => tables.consensus.value[`${own.value?.id}/state`]);
const slots = computed(() => rowsOf("consensus", "slot/").sort((a, b) => b.height - a.height));
const blocks = computed(() => rowsOf("blocks", "").sort((a, b) => b.height - a.height));
const transactions = computed(() => rowsOf("transactions", "").sort((a, b) => b.height - a.height || a.place - b.place));
// Whoever reads a line does not want it to run away: while the pointer is on it, or as long as it is held by the key.
const held = signal(null);
const stopped = signal(false);
const hold = () => { held.value ??= { blocks: blocks.value, transactions: transactions.value }; };
const goOn = () => { if (!stopped.value) held.value = null; };
function toggle() {
  stopped.value = !stopped.value;
  if (stopped.value) hold();
  else held.value = null;
}
const holding = { onMouseEnter: hold, onMouseLeave: goOn, onFocusIn: hold, onFocusOut: goOn };
const found = signal(null);
// Whether the box is wanted: it may not be drawn yet, and takes the keys as soon as it is.
const boxWanted = signal(false);
export const askToFind = () => { boxWanted.value = true; };

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
  const member = nodes.value.find((node) => node.name === wanted || (wanted.length >= 8 && node.id.startsWith(wanted)));
  if (member) {
    found.value = { wanted, member: member.id };
    return;
  }
  found.value = { wanted, busy: true };
  const kinds = /^\d{1,20}$/.test(wanted) ? ["block"] : ["transaction", "block"];
  let error = "";
  for (const kind of kinds) {
    const { ok, body } = await api(`${kind}s/${encodeURIComponent(wanted)}`);
    if (found.peek()?.wanted !== wanted) return;
    if (ok) {
      found.value = { wanted, [kind]: body };
      return;
    }
    error ||= body.error;
  }
  found.value = { wanted, error: kinds.length > 1 ? `No transaction, block or node is known by that: ${error}` : error };
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
  const { wanted, busy, error, block, transaction, member } = found.value;
  const node = member && nodes.value.find((one) => one.id === member);
  const height = block?.height ?? transaction?.header.proposal.height;
  return html`<article class="card" aria-live="polite"><h3>${busy ? `Looking for ${wanted}…` : error ? `Nothing found for ${wanted}` : block ? `Block ${height}` : node ? `Node ${node.name}` : `Transaction ${wanted}`}
      <button type="button" class="link" onClick=${() => { found.value = null; }}>close</button></h3>
    ${error && html`<p>${error}</p>`}
    ${node && html`<dl class="facts"><div><dt>id</dt><dd><code>${node.id}</code></dd></div>
      <div><dt>place</dt><dd>${node.kind === "auth" ? "auth node" : `${node.role ?? "member"} of cluster ${node.cluster ?? "?"}`}, at site ${node.site ?? "?"}</dd></div>
      <div><dt>condition</dt><dd>${condition(node).word}</dd></div>
      ${node.height != null && html`<div><dt>height</dt><dd>${node.height.toLocaleString("en")}, view ${node.view}, term ${node.term ?? "?"}</dd></div>`}</dl>`}
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
  const shown = held.value?.blocks ?? blocks.value;
  const skipped = held.value ? blocks.value.filter((block) => block.height > (held.value.blocks[0]?.height ?? 0)).length : 0;
  return html`<div class="scroll list" tabindex="0" role="region" aria-label="Blocks" ...${holding}>
    <table class="rows"><thead><tr>${["height", "made", "seat", "view", "transactions", "refused", "batches", "bytes", "hash"].map((title) => html`<th scope="col">${title}</th>`)}</tr></thead>
    <tbody>${shown.map((block) => html`<tr key=${block.height}><th scope="row"><button type="button" class="link" onClick=${() => find(String(block.height))}>${block.height.toLocaleString("en")}</button></th>
      <td>${time(block.at_ms)}</td><td>${block.seat}</td><td>${block.view}</td><td>${block.transactions}</td><td>${block.refused}</td><td>${block.batches}</td>
      <td>${Number(block.bytes).toLocaleString("en")}</td><td><code>${block.hash.slice(0, 16)}</code></td></tr>`)}</tbody></table></div>
    <p class="why">${stopped.value ? `Held: ${skipped} newer. The key p lets them go on.` : held.value ? `Held while you read: ${skipped} newer.` : `The newest ${shown.length}. They stand still while the pointer is on them, or with the key p.`}</p>`;
}

function Transactions() {
  const shown = held.value?.transactions ?? transactions.value;
  if (shown.length === 0) return html`<p class="empty">${loaded.value.has("transactions") ? "The newest blocks have no transaction." : "…"}</p>`;
  return html`<div class="scroll list" tabindex="0" role="region" aria-label="Newest transactions" ...${holding}>
    <table class="rows"><thead><tr>${["block", "transaction", "title", "by", "outcome"].map((title) => html`<th scope="col">${title}</th>`)}</tr></thead>
    <tbody>${shown.map((one) => html`<tr key=${`${one.height}/${one.place}`} class=${one.outcome === "refused" ? "event refused" : ""}><td>${one.height.toLocaleString("en")}</td>
      <th scope="row"><button type="button" class="link" onClick=${() => find(one.id)}>${one.id.slice(0, 16)}</button></th><td>${one.title}</td>
      <td title=${one.sender}>${one.sender ? `${one.sender.slice(0, 12)}…` : "anybody"}</td><td>${one.outcome}${one.why ? `: ${one.why}` : ""}</td></tr>`)}</tbody></table></div>
    <p class="why">${held.value ? "Held, as the blocks are. " : ""}Of each block the first ten; a block that was found shows all of its own.</p>`;
}

export function Chain() {
  const box = useRef(null);
  useEffect(() => onKey("p", toggle), []);
  useSignalEffect(() => {
    if (!boxWanted.value) return;
    boxWanted.value = false;
    box.current.focus();
  });
  return html`<section aria-labelledby="find"><h2 id="find">Find</h2>
      <form class="find" role="search" onSubmit=${(event) => { event.preventDefault(); find(event.target.elements.what.value); }}>
        <input ref=${box} name="what" type="search" aria-label="Height or hash of a block, id of a transaction, or a node" placeholder="height or hash of a block, id of a transaction, or a node" autocomplete="off" />
        <button>Find</button></form><${Found} /></section>
    <section aria-labelledby="consensus"><h2 id="consensus">Consensus</h2><${Strip} /></section>
    <section aria-labelledby="blocks"><h2 id="blocks">Blocks</h2>${blocks.value.length > 0 ? html`<${Blocks} />` : html`<p class="empty">${loaded.value.has("blocks") ? "The node has executed no block yet." : "…"}</p>`}</section>
    <section aria-labelledby="transactions"><h2 id="transactions">Transactions</h2><${Transactions} /></section>`;
}
