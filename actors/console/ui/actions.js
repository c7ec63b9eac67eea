// What can be done at this node: a list, and the dialog that shows the effect first, and then asks for a reason and a confirmation.
import { computed, effect, signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { html } from "./html.js";
import { api, byName, clusters, hello, members, own, tables } from "./store.js";

const RANK = { viewer: 0, operator: 1, admin: 2 };
const offered = signal({ enabled: false, actions: [] });
// The action whose dialog is open, with what was filled in.
const open = signal(null);
const shown = signal({});

effect(() => {
  if (hello.value) api("actions").then(({ ok, body }) => { if (ok) offered.value = body; });
});

export const find = (name) => offered.value.actions.find((action) => action.name === name);

// Why this user cannot order it; empty if they can.
function hindrance(action) {
  if (!offered.value.enabled) return "This node carries out no actions: set console.actions = true in its configuration.";
  const role = hello.value?.user.role;
  if (RANK[role] < RANK[action.role]) return `You are logged in as ${role}: this needs ${action.role}.`;
  return "";
}

const targets = computed(() => ({
  node: own.value ? [own.value.name] : [],
  cluster: own.value?.cluster ? [own.value.cluster] : clusters.value.map((cluster) => cluster.name),
  actor: Object.entries(tables.actors.value).filter(([key, row]) => own.value && key.startsWith(`${own.value.id}/`) && row.restartable)
    .map(([key]) => key.slice(key.indexOf("/") + 1)),
}));

export function begin(name, on, args = {}) {
  const action = find(name);
  if (!action) return;
  open.value = { action, on: on ?? targets.value[action.on]?.[0] ?? "", args, reason: "", confirm: "", id: newId(), busy: false, asked: 0 };
  shown.value = {};
}

// One id for one order: pressed twice, it is carried out once.
const newId = () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

const change = (what) => { open.value = { ...open.value, ...what, id: newId(), result: undefined }; };

// The effect is what the node says it is, whenever what is to be done changes.
const order = computed(() => open.value && JSON.stringify({ action: open.value.action.name, on: open.value.on, args: open.value.args, asked: open.value.asked }));
effect(() => {
  if (!order.value) return;
  const { action, on, args } = JSON.parse(order.value);
  const asked = order.value;
  api(`actions/${action}/preview`, { on, args }).then(({ ok, body }) => {
    if (asked === order.peek()) shown.value = ok ? body : { refused: body };
  });
});

async function carryOut(event) {
  event.preventDefault();
  const { action, on, args, reason, confirm, id } = open.value;
  open.value = { ...open.value, busy: true };
  const { ok, body } = await api(`actions/${action.name}`, { id, order: { on, args }, reason, confirm, seen: shown.value.seen });
  // The dialog may be closed by now, or be another one's.
  if (open.peek()?.id !== id) return;
  // After a refusal the effect is asked for again: something may have changed.
  open.value = { ...open.value, busy: false, ...(ok ? { result: { done: body.done } } : { result: { refused: body }, id: newId(), asked: open.peek().asked + 1 }) };
}

const Refused = ({ what }) => html`<p class="notice" role="alert"><strong>Refused${what.code ? ` by the rule ${what.code}` : ""}.</strong> ${what.error}${what.hint ? `: ${what.hint}` : ""}</p>`;

export function ActionDialog() {
  const dialog = useRef(null);
  const isOpen = open.value != null;
  useEffect(() => {
    if (isOpen && !dialog.current.open) dialog.current.showModal();
    if (!isOpen && dialog.current.open) dialog.current.close();
  }, [isOpen]);
  const close = () => { open.value = null; };
  return html`<dialog ref=${dialog} aria-labelledby="act" onClose=${close}>${isOpen && html`<${Form} close=${close} />`}</dialog>`;
}

function Argument({ argument: { name, what, needed, kind, one_of: oneOf }, value, set }) {
  const mates = () => members.value.filter((node) => node.cluster === own.value?.cluster).map((node) => ({ value: node.id, text: node.name }));
  const choices = kind === "member" ? mates() : kind === "one_of" ? oneOf.map((text) => ({ value: text, text })) : null;
  const change = (event) => set(event.target.value);
  return html`<label>${name}${needed ? "" : " (may be empty)"}
    ${choices ? html`<select value=${value} onChange=${change}><option value=""></option>${choices.map((choice) => html`<option value=${choice.value}>${choice.text}</option>`)}</select>`
      : html`<input value=${value} autocomplete="off" spellcheck=${false} onInput=${change} />`}<small>${what}</small></label>`;
}

function Form({ close }) {
  const { action, on, args, reason, confirm, busy, result } = open.value;
  const { effect: effects, confirm: wanted, refused } = shown.value;
  const choices = targets.value[action.on] ?? [];
  const hindered = hindrance(action);
  const byKey = effects && wanted === "";
  const ready = effects && !byKey && !hindered && !busy && reason.trim() && confirm.trim() === wanted && !result?.done;
  return html`<form onSubmit=${carryOut}><h2 id="act">${action.name} <small>at ${hello.value?.node}</small></h2>
    <p>${action.what}</p>
    ${choices.length > 1 && html`<label>${action.on}<select value=${on} onChange=${(event) => change({ on: event.target.value })}>${choices.map((choice) => html`<option>${choice}</option>`)}</select></label>`}
    ${action.arguments.map((argument) => html`<${Argument} key=${argument.name} argument=${argument} value=${args[argument.name] ?? ""} set=${(value) => change({ args: { ...args, [argument.name]: value } })} />`)}
    <h3>What it does</h3>
    <div aria-live="polite">${refused ? html`<${Refused} what=${refused} />` : effects ? html`<ul class="effect">${effects.map((line) => html`<li>${byName(line)}</li>`)}</ul>` : html`<p class="why">…</p>`}</div>
    ${hindered && html`<p class="notice">${hindered}</p>`}
    ${effects && !byKey && !hindered && html`
      <label>Why<input value=${reason} maxlength="512" placeholder="stands in the audit log" autocomplete="off" onInput=${(event) => change({ reason: event.target.value })} /></label>
      <label><span>Type <code>${wanted}</code> to confirm</span><input value=${confirm} autocomplete="off" spellcheck=${false} onInput=${(event) => change({ confirm: event.target.value })} /></label>`}
    ${result?.done && html`<p class="done" role="status">${byName(result.done)}.</p>`}
    ${result?.refused && html`<${Refused} what=${result.refused} />`}
    <p class="buttons"><button type="button" onClick=${close}>${result?.done ? "Close" : "Cancel"}</button>
      ${!byKey && !result?.done && html`<button class="primary" disabled=${!ready}>${busy ? "…" : action.name}</button>`}</p></form>`;
}

// A button for one action, where the node has it.
export function ActionButton({ name, on, args, label }) {
  const action = find(name);
  if (!action) return null;
  return html`<button type="button" class="small" title=${hindrance(action) || action.what} onClick=${() => begin(name, on, args)}>${label ?? name}</button>`;
}

export function ActionList() {
  const { enabled, actions } = offered.value;
  return html`<section aria-labelledby="actions"><h2 id="actions">Actions at ${hello.value?.node}</h2>
    ${!enabled && html`<p class="empty">This node carries out no actions, and shows what they would do. To turn them on, set <code>console.actions = true</code> in its configuration.</p>`}
    <ul class="actions">${actions.map((action) => html`<li key=${action.name}><${ActionButton} name=${action.name} /><span>${action.what} <small>${action.role}</small></span></li>`)}</ul>
    <p class="why">Each shows its effect first. A node acts for itself and its cluster; other nodes have consoles of their own.</p></section>`;
}
