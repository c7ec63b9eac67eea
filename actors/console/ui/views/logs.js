// What the process logs, as it does.
import { computed, signal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { html } from "../html.js";
import { onKey } from "../keys.js";
import { loaded, streams } from "../store.js";
import { ActionButton } from "../actions.js";

const LEVELS = ["error", "warn", "info", "debug", "trace"];
const SHOWN = 300;
const upTo = signal("trace");
const text = signal("");
const held = signal(null);

const fitting = computed(() => {
  const rank = LEVELS.indexOf(upTo.value);
  const wanted = text.value.toLowerCase();
  const fits = (line) => LEVELS.indexOf(line.level) <= rank && (!wanted || `${line.target} ${line.text}`.toLowerCase().includes(wanted));
  return (held.value ?? streams.logs.value).filter(fits).slice(-SHOWN).reverse();
});

const time = (ms) => new Date(ms).toLocaleTimeString("en-GB") + "." + String(ms % 1000).padStart(3, "0");

const toggle = () => { held.value = held.value ? null : streams.logs.value; };

export function Logs() {
  useEffect(() => onKey("p", toggle), []);
  const lines = fitting.value;
  return html`<section aria-labelledby="logs"><h2 id="logs">Log of this node</h2>
    <div class="bar"><label>up to <select value=${upTo.value} onChange=${(event) => { upTo.value = event.target.value; }}>${LEVELS.map((level) => html`<option>${level}</option>`)}</select></label>
      <input type="search" aria-label="Text in the line" placeholder="text in the line" value=${text.value} onInput=${(event) => { text.value = event.target.value; }} />
      <button type="button" aria-pressed=${held.value != null} onClick=${toggle}>${held.value ? "Go on" : "Hold"}</button>
      <${ActionButton} name="log-level" label="Set the level…" /></div>
    ${lines.length === 0
      ? html`<p class="empty">${loaded.value.has("logs") ? html`No line fits. What the process logs may be too little: set it with <code>log-level</code>.` : "…"}</p>`
      : html`<div class="scroll list" tabindex="0" role="region" aria-label="Log"><table class="rows log"><thead><tr>${["when", "level", "from", "what"].map((title) => html`<th scope="col">${title}</th>`)}</tr></thead>
        <tbody>${lines.map((line) => html`<tr class="level-${line.level}"><td>${time(line.at_ms)}</td><th scope="row">${line.level}</th><td>${line.target}</td><td>${line.text}</td></tr>`)}</tbody></table></div>`}
  </section>`;
}
