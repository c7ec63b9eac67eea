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

// How long a word takes between nodes, both ways, in ms as people read it.
function ms(us) {
  return us < 10_000 ? (us / 1000).toFixed(us < 1000 ? 2 : 1) : String(Math.round(us / 1000));
}

// What is known of the links from nodes to nodes: times, and how many of those that should be there are not.
function between(from, to) {
  const times = [];
  let cut = 0;
  for (const a of from) {
    if (a.state !== "live" || !a.links) continue;
    for (const b of to) {
      if (a.id === b.id || b.state === "unreachable") continue;
      if (a.links[b.id] == null) cut += 1;
      else times.push(a.links[b.id]);
    }
  }
  return { times: times.sort((x, y) => x - y), cut };
}

function Link({ from, to }) {
  const { times, cut } = between(from, to);
  if (times.length === 0 && cut === 0) return html`<td class="none">–</td>`;
  const range = times.length === 0 ? "" : times[0] === times.at(-1) ? ms(times[0]) : `${ms(times[0])} – ${ms(times.at(-1))}`;
  return html`<td class=${cut > 0 ? "cut" : ""}>${range}${cut > 0 && html` <span class="why">✕ ${cut} cut</span>`}</td>`;
}

// Sites in a circle, and how long a word takes between each two of them: what the table below says, at a glance.
const AROUND = { width: 620, height: 380, x: 220, y: 132 };

function SiteMap({ all, at }) {
  const place = (number) => {
    const angle = (number / all.length) * 2 * Math.PI - Math.PI / 2;
    return { x: AROUND.width / 2 + AROUND.x * Math.cos(angle), y: AROUND.height / 2 + AROUND.y * Math.sin(angle) };
  };
  const pairs = all.flatMap((from, a) => all.slice(a + 1).map((to, rest) => ({ from, to, a, b: a + 1 + rest })));
  const lines = pairs.map(({ from, to, a, b }) => {
    const there = between(at(from), at(to));
    const back = between(at(to), at(from));
    const times = [...there.times, ...back.times].sort((x, y) => x - y);
    const cut = there.cut + back.cut;
    const state = times.length === 0 ? (cut > 0 ? "gone" : "none") : cut > 0 ? "late" : "live";
    const [p, q] = [place(a), place(b)];
    // Where no other line crosses: of an odd number that is the middle, of an even one beside it.
    const part = all.length % 2 === 1 ? 0.5 : 0.42;
    const label = { x: p.x + (q.x - p.x) * part, y: p.y + (q.y - p.y) * part };
    const said = times.length > 0 ? `${ms(times[times.length >> 1])} ms` : cut > 0 ? "cut" : "";
    return { key: `${from}/${to}`, p, q, label, state, said: cut > 0 && times.length > 0 ? `${said} ✕${cut}` : said };
  });
  return html`<svg class="map" viewBox=${`0 0 ${AROUND.width} ${AROUND.height}`} role="img" aria-label="Links between sites: the table says the same">
    ${lines.filter((line) => line.state !== "none").map(({ key, p, q, state }) => html`<line key=${key} class=${state} x1=${p.x} y1=${p.y} x2=${q.x} y2=${q.y} />`)}
    ${lines.filter((line) => line.said).map(({ key, label, state, said }) => html`<g key=${key} class=${`label ${state}`}><text x=${label.x} y=${label.y} dy="0.35em">${said}</text></g>`)}
    ${all.map((site, number) => {
      const { x, y } = place(number);
      const here = at(site);
      const live = here.filter((node) => node.state === "live").length;
      const held = clusters.value.filter((cluster) => cluster.held && here.some((node) => node.id === cluster.holder)).map((cluster) => cluster.name);
      return html`<g key=${site} class=${`site ${live === here.length ? "live" : live > 0 ? "late" : "gone"}`}>
        <rect x=${x - 72} y=${y - 27} width="144" height="54" rx="10" />
        <text x=${x} y=${y - 6}>${site}</text><text class="small" x=${x} y=${y + 14}>${live} of ${here.length} live${held.length > 0 ? ` · holds ${held.join(" ")}` : ""}</text></g>`;
    })}</svg>`;
}

function Links() {
  const all = sites();
  const at = (site) => nodes.value.filter((node) => (node.site ?? "?") === site);
  if (!nodes.value.some((node) => node.links)) return null;
  return html`<h3>Links: round trips in ms</h3>
    <div class="beside">${all.length > 1 && html`<${SiteMap} all=${all} at=${at} />`}
    <div class="scroll" tabindex="0" role="region" aria-label="Links between sites"><table class="rows links">
    <thead><tr><th scope="col">from \ to</th>${all.map((site) => html`<th scope="col">${site}</th>`)}</tr></thead>
    <tbody>${all.map((from) => html`<tr key=${from}><th scope="row">${from}</th>
      ${all.map((to) => html`<${Link} key=${to} from=${at(from)} to=${at(to)} />`)}</tr>`)}</tbody></table></div></div>
    <details><summary>Links between all nodes</summary>
    <div class="scroll" tabindex="0" role="region" aria-label="Links between nodes"><table class="rows links">
    <thead><tr><th scope="col">from \ to</th>${nodes.value.map((node) => html`<th scope="col">${node.name}</th>`)}</tr></thead>
    <tbody>${nodes.value.map((from) => html`<tr key=${from.id}><th scope="row">${from.name}</th>
      ${nodes.value.map((to) => html`<${Link} key=${to.id} from=${[from]} to=${[to]} />`)}</tr>`)}</tbody></table></div></details>`;
}

export function Topology() {
  return html`<section aria-labelledby="topology"><h2 id="topology">Seats and sites</h2><${Picture} /><${Links} /><${Table} /></section>`;
}
