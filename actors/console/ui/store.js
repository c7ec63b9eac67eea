// What the page knows: one signal a topic, changed by what the websocket brings.
import { batch, computed, signal } from "@preact/signals";

const EVENTS_MAX = 2000;

export const hello = signal(null);
// "connecting", "live", "reconnecting", "logged out", or "refused".
export const connection = signal({ state: "connecting", why: "" });
// Node's clock minus the browser's, in ms: ages are told by the node's clock.
export const offset = signal(0);
export const gaps = signal(0);
// What was asked for, and could not be done.
export const notice = signal("");
export const tables = { nodes: signal({}), actors: signal({}), blocks: signal({}), transactions: signal({}), consensus: signal({}), topics: signal({}), terminals: signal({}) };
export const streams = { events: signal([]), logs: signal([]), audit: signal([]) };
// Topics of which all has come once.
export const loaded = signal(new Set());
export const now = signal(Date.now());
setInterval(() => {
  now.value = Date.now() + offset.peek();
  sample();
}, 1000);

// How far each topic is, for a websocket that comes back.
export const reached = {};

export function snap({ topic, seq, data }) {
  reached[topic] = { epoch: hello.peek()?.epoch, seq };
  if (tables[topic]) tables[topic].value = data;
  if (streams[topic]) streams[topic].value = data;
  if (!loaded.peek().has(topic)) loaded.value = new Set([...loaded.peek(), topic]);
}

// Applies a frame; names the topics of which something is missing.
export function frame({ at_ms, d }) {
  const missing = [];
  batch(() => {
    offset.value = at_ms - Date.now();
    for (const delta of d) {
      const at = reached[delta.topic];
      if (!at || at.seq + 1 !== delta.from) {
        missing.push(delta.topic);
        gaps.value += 1;
        continue;
      }
      at.seq = delta.to;
      if (delta.patch) patch(tables[delta.topic], delta.patch);
      if (delta.add) add(streams[delta.topic], delta.add);
    }
  });
  return missing;
}

function patch(table, changes) {
  const rows = { ...table.peek() };
  for (const [key, change] of Object.entries(changes)) {
    if (change === null) {
      delete rows[key];
      continue;
    }
    const row = { ...rows[key] };
    for (const [field, value] of Object.entries(change)) {
      if (value === null) delete row[field];
      else row[field] = value;
    }
    rows[key] = row;
  }
  table.value = rows;
}

function add(stream, entries) {
  const all = [...stream.peek(), ...entries];
  stream.value = all.length > EVENTS_MAX ? all.slice(all.length - EVENTS_MAX) : all;
}

// Asks the node over HTTP; posts where there is a body.
export async function api(path, body) {
  const options = body && { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  try {
    const answer = await fetch(`../api/v1/${path}`, options);
    return { ok: answer.ok, body: await answer.json() };
  } catch {
    return { ok: false, body: { error: "the node does not answer" } };
  }
}

// Nodes with their ids, by name.
export const nodes = computed(() =>
  Object.entries(tables.nodes.value)
    .map(([id, row]) => ({ id, ...row, name: row.name ?? id.slice(0, 8) }))
    .sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true })));

export const nameOf = (id) => tables.nodes.value[id]?.name ?? (id ? id.slice(0, 8) : "nobody");

// Nodes are told by the beginnings of their ids: people know them by name.
export const byName = (text) => text.replace(/\b[0-9a-f]{8}\b/g, (short) => nodes.value.find((node) => node.id.startsWith(short))?.name ?? short);

export const members = computed(() => nodes.value.filter((node) => node.kind !== "auth"));

// Seats with their members: who holds a seat is the word of the newest term.
export const clusters = computed(() => {
  const found = new Map();
  for (const node of members.value) {
    const name = node.cluster ?? "?";
    const cluster = found.get(name) ?? { name, seat: node.seat, nodes: [], term: -1 };
    cluster.nodes.push(node);
    if (node.state === "live" && (node.term ?? -1) > cluster.term) {
      cluster.term = node.term;
      cluster.holder = node.holder;
      cluster.in_sync = node.in_sync ?? [];
    }
    found.set(name, cluster);
  }
  for (const cluster of found.values()) {
    const holder = cluster.nodes.find((node) => node.id === cluster.holder);
    cluster.held = holder?.state === "live" && holder.role === "active";
  }
  return [...found.values()].sort((a, b) => (a.seat ?? 0) - (b.seat ?? 0));
});

export const height = computed(() => Math.max(0, ...members.value.map((node) => node.height ?? 0)));

// The node whose page this is.
export const own = computed(() => nodes.value.find((node) => node.id === hello.value?.id));

// What the charts show, second by second.
export const HISTORY_S = 900;
export const history = signal([]);

function sample() {
  const id = hello.peek()?.id;
  if (!id || connection.peek().state !== "live" || !tables.consensus.peek()[`${id}/state`]) return;
  const values = { tps: tables.nodes.peek()[id]?.tps, mailboxes: 0 };
  for (const [key, row] of Object.entries(tables.actors.peek())) {
    if (key.startsWith(`${id}/`)) values.mailboxes += row.depth;
  }
  for (const name of ["commit", "block_interval", "log_sync"]) {
    const times = tables.consensus.peek()[`${id}/times/${name}`];
    for (const at of ["p50", "p95", "p99"]) values[`${name}.${at}`] = times?.[at];
  }
  history.value = [...history.peek(), { at: Math.round(now.peek() / 1000), values }].slice(-HISTORY_S);
}
