// Seats and sites: who holds which seat where, and how each node is.
import { html } from "../html.js";
import { clusters, height, nameOf, nodes, now, own } from "../store.js";
import { ActionButton } from "../actions.js";

const LABEL = { live: "live", late: "late", unreachable: "unreachable" };
// Shapes as well as colours.
const SHAPE = { live: "●", late: "◐", unreachable: "✕" };

export function sites() {
  return [...new Set(nodes.value.map((node) => node.site ?? "?"))].sort();
}

// What an operator calls the node's condition, with the reason.
export function condition(node) {
  if (node.state !== "live") return { word: LABEL[node.state] ?? "unknown", state: node.state };
  if (node.suspicion) return { word: `suspects the holder: ${node.suspicion}`, state: "late" };
  if (node.paused) return { word: "paused: says nothing to other seats", state: "late" };
  if (node.draining) return { word: "out of service", state: "late" };
  if (node.removed) return { word: "removed by the chain", state: "late" };
  if (node.changing_to != null) return { word: `changing to view ${node.changing_to}`, state: "late" };
  const behind = height.value - (node.height ?? 0);
  if (node.kind !== "auth" && behind > 64) return { word: `syncing, ${behind} blocks behind`, state: "late" };
  return { word: "live", state: "live" };
}

// Who holds the seat is the newest grant's word; what a node last said of itself may be older.
function roleOf(node, holds) {
  if (node.kind === "auth") return node.register ?? "";
  if (holds) return node.role === "active" ? "active" : "takes over";
  return node.role === "active" ? "was active" : node.role ?? "";
}

function Node({ node, cluster }) {
  const { word, state } = condition(node);
  const inSync = cluster?.in_sync?.includes(node.id);
  const holds = cluster?.holder === node.id;
  return html`<div class="node ${state} ${holds ? "holds" : ""}" data-node=${node.name} data-state=${node.state}>
    <strong><span class="shape" aria-hidden="true">${SHAPE[state] ?? "?"}</span> ${node.name}</strong>
    <span class="role">${roleOf(node, holds)}${inSync && !holds ? " · in sync" : ""}</span>
    ${state !== "live" && html`<span class="why">${word}</span>`}
  </div>`;
}

function Picture() {
  const columns = sites();
  const others = nodes.value.filter((node) => node.kind === "auth");
  return html`<div class="scroll" tabindex="0" role="region" aria-label="Seats by sites"><table class="picture">
    <thead><tr><th scope="col">seat</th>${columns.map((site) => html`<th scope="col">${site}</th>`)}</tr></thead>
    <tbody>
    ${clusters.value.map((cluster) => html`<tr key=${cluster.name} class=${cluster.held ? "" : "not-held"}>
      <th scope="row">${cluster.name}<small>seat ${cluster.seat} · term ${cluster.term < 0 ? "?" : cluster.term}</small>
        <small class="held">${cluster.held ? `held by ${nameOf(cluster.holder)}` : "not held"}</small>
        ${own.value?.cluster === cluster.name && html`<${ActionButton} name="switch" label="Switch…" />`}</th>
      ${columns.map((site) => html`<td>${cluster.nodes.filter((node) => (node.site ?? "?") === site)
        .map((node) => html`<${Node} key=${node.id} node=${node} cluster=${cluster} />`)}</td>`)}
    </tr>`)}
    ${others.length > 0 && html`<tr><th scope="row">auth<small>grants the seats</small></th>
      ${columns.map((site) => html`<td>${others.filter((node) => (node.site ?? "?") === site)
        .map((node) => html`<${Node} key=${node.id} node=${node} />`)}</td>`)}</tr>`}
    </tbody></table></div>`;
}

function age(node) {
  if (!node.as_of_ms) return "";
  const seconds = Math.max(0, Math.round((now.value - node.as_of_ms) / 1000));
  return seconds < 2 ? "now" : seconds < 120 ? `${seconds} s ago` : `${Math.round(seconds / 60)} min ago`;
}

function Table() {
  return html`<details><summary>All nodes as a table</summary><div class="scroll" tabindex="0" role="region" aria-label="Nodes"><table class="rows">
    <thead><tr>${["node", "site", "cluster", "role", "condition", "term", "height", "behind", "view", "log", "told"].map((title) => html`<th scope="col">${title}</th>`)}</tr></thead>
    <tbody>${nodes.value.map((node) => html`<tr key=${node.id}>
      <th scope="row">${node.name}</th><td>${node.site}</td><td>${node.cluster ?? ""}</td><td>${node.kind === "auth" ? "auth" : node.role}</td>
      <td>${condition(node).word}</td><td>${node.term ?? ""}</td><td>${node.height ?? ""}</td>
      <td>${node.height == null ? "" : height.value - node.height}</td><td>${node.view ?? ""}</td>
      <td>${node.released == null ? "" : `${node.sound} of ${node.released}`}</td><td>${age(node)}</td>
    </tr>`)}</tbody></table></div></details>`;
}

export function Topology() {
  return html`<section aria-labelledby="topology"><h2 id="topology">Seats and sites</h2><${Picture} /><${Table} /></section>`;
}
