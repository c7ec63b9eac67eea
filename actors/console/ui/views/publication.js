// What is published: topics with their locks and queues, who follows them where, and who took whose place.
import { computed } from "@preact/signals";
import { html } from "../html.js";
import { byName, loaded, nameOf, own, streams, tables } from "../store.js";

const SHOWN = 100;

const topics = computed(() =>
  Object.entries(tables.topics.value)
    .filter(([key]) => own.value && key.startsWith(`${own.value.id}/`))
    .map(([key, row]) => ({ name: key.slice(key.indexOf("/") + 1), ...row }))
    .sort((a, b) => b.waiting - a.waiting || a.name.localeCompare(b.name, "en", { numeric: true })));

const followed = computed(() =>
  Object.entries(tables.terminals.value)
    .map(([key, row]) => ({ key, node: key.slice(0, key.indexOf("/")), topic: key.slice(key.indexOf("/") + 1), ...row }))
    .sort((a, b) => b.behind - a.behind || a.topic.localeCompare(b.topic, "en", { numeric: true }) || nameOf(a.node).localeCompare(nameOf(b.node), "en", { numeric: true })));

const handOvers = computed(() =>
  streams.events.value.filter((event) => event.kind === "publishes").sort((a, b) => b.at_ms - a.at_ms).slice(0, SHOWN));

const number = (value) => Number(value ?? 0).toLocaleString("en");
const time = (ms) => new Date(ms).toLocaleTimeString("en-GB") + "." + String(ms % 1000).padStart(3, "0");
const head = (titles) => html`<thead><tr>${titles.map((title) => html`<th scope="col">${title}</th>`)}</tr></thead>`;

function Topics() {
  if (topics.value.length === 0) {
    return html`<p class="empty">${loaded.value.has("topics") ? "There is no topic yet: it begins with its first datum (standin publish TOPIC), or operators make it." : "…"}</p>`;
  }
  const free = topics.value.filter((topic) => topic.owner == null).length;
  return html`<p class=${free > 0 ? "notice" : "why"}>${topics.value.length === 1 ? "One topic" : `${topics.value.length} topics`}, ${free === 0 ? "with a server that publishes each" : `${free} that nobody publishes now`}</p>
    <div class="scroll list" tabindex="0" role="region" aria-label="Topics"><table class="rows topics">${head(["topic", "published by", "fence", "queued", "published", "waiting", "lease"])}
    <tbody>${topics.value.map((topic) => html`<tr key=${topic.name} data-topic=${topic.name} class=${topic.owner == null ? "event fault" : ""}><th scope="row">${topic.name}</th>
      <td>${topic.owner == null ? "nobody" : nameOf(topic.owner)}</td><td>${number(topic.fence)}</td><td>${number(topic.queued)}</td><td>${number(topic.published)}</td>
      <td>${number(topic.waiting)}${topic.lacks ? ", not all of them here" : ""}</td><td>${topic.lease_ms == null ? "" : `${number(topic.lease_ms)} ms`}</td></tr>`)}</tbody></table></div>`;
}

function Followed() {
  if (followed.value.length === 0) return html`<p class="empty">No terminal is connected to a node. One begins with standin follow TOPIC.</p>`;
  return html`<div class="scroll list" tabindex="0" role="region" aria-label="Terminals"><table class="rows">${head(["topic", "at node", "terminals", "behind"])}
    <tbody>${followed.value.map((one) => html`<tr key=${one.key} data-topic=${one.topic}><th scope="row">${one.topic}</th><td>${nameOf(one.node)}</td><td>${one.terminals}</td>
      <td>${one.behind === 0 ? "none" : `${number(one.behind)} data`}</td></tr>`)}</tbody></table></div>
    <p class="why">The terminal that is farthest behind, of those that follow the topic at that node.</p>`;
}

function HandOvers() {
  if (handOvers.value.length === 0) return html`<p class="empty">No server has taken a topic over since the nodes began to tell.</p>`;
  return html`<div class="scroll list" tabindex="0" role="region" aria-label="Hand-overs of topics"><table class="rows">${head(["when", "node", "free for", "what"])}
    <tbody>${handOvers.value.map((event) => html`<tr class="event active" key=${`${event.node}/${event.at_ms}/${event.detail}`}><td>${time(event.at_ms)}</td><th scope="row">${nameOf(event.node)}</th>
      <td>${event.ms == null ? "" : `${number(event.ms)} ms`}</td><td>${byName(event.detail)}</td></tr>`)}</tbody></table></div>`;
}

export function Publication() {
  return html`<section aria-labelledby="topics"><h2 id="topics">Topics</h2><${Topics} /></section>
    <section aria-labelledby="terminals"><h2 id="terminals">Terminals</h2><${Followed} /></section>
    <section aria-labelledby="taken"><h2 id="taken">Hand-overs</h2><${HandOvers} /></section>`;
}
