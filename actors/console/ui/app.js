// The page: a header, the navigation, the view that is open, and the dialog of actions.
import { render } from "preact";
import { computed, effect, signal } from "@preact/signals";
import { html } from "./html.js";
import { clusters, connection, gaps, height, hello, members, nodes, notice, own } from "./store.js";
import { logIn, logOut, want } from "./socket.js";
import { keysOn, onKey, toggleKeys } from "./keys.js";
import { always, views } from "./views/index.js";
import { askToFind } from "./views/chain.js";
import { ActionDialog } from "./actions.js";

const STATES = {
  connecting: "connecting…",
  live: "live",
  reconnecting: "reconnecting…",
  "logged out": "not logged in",
};

// The view that is open stands in the address: it can be kept, and the browser's buttons work.
const address = signal(location.hash);
addEventListener("hashchange", () => { address.value = location.hash; });
const offered = computed(() => views.filter((view) => !view.fits || view.fits(hello.value?.topics ?? [])));
const view = computed(() => offered.value.find((one) => address.value === `#/${one.id}`) ?? offered.value[0]);
effect(() => want([...always, ...view.value.topics]));

// From anywhere: the box that finds anything.
onKey("/", () => {
  if (!offered.value.some((one) => one.id === "chain")) return;
  location.hash = "#/chain";
  askToFind();
});

function Header() {
  const { state, why } = connection.value;
  return html`<header>
    <h1><span class="mark" aria-hidden="true"></span>Standin <small>${hello.value?.node ?? ""}</small></h1>
    ${hello.value && state !== "logged out" && html`<nav aria-label="Views">${offered.value.map((one) => html`<a key=${one.id} href=${`#/${one.id}`} aria-current=${one === view.value ? "page" : undefined}>${one.title}</a>`)}</nav>`}
    <p class="connection ${state.replace(" ", "-")}" role="status" title=${why}>
      <span class="dot" aria-hidden="true"></span>${STATES[state]}</p>
    ${hello.value && state !== "logged out" && html`<button type="button" class="small" onClick=${logOut} title=${`${hello.value.user.name}, ${hello.value.user.role}`}>Log out</button>`}
  </header>`;
}

function Summary() {
  const live = nodes.value.filter((node) => node.state === "live").length;
  const held = clusters.value.filter((cluster) => cluster.held).length;
  const rate = Math.max(0, ...members.value.map((node) => node.tps ?? 0));
  const all = clusters.value.length;
  return html`<dl class="summary">
    <div class=${live < nodes.value.length ? "warn" : ""}><dt>nodes live</dt><dd>${live}<small> of ${nodes.value.length}</small></dd></div>
    <div class=${held < all ? "bad" : ""}><dt>seats held</dt><dd>${held}<small> of ${all}</small></dd></div>
    <div><dt>height</dt><dd>${height.value.toLocaleString("en")}</dd></div>
    <div><dt>transactions a second</dt><dd>${Math.round(rate).toLocaleString("en")}</dd></div>
  </dl>`;
}

// What an operator has set at this node, and must not forget.
function Modes() {
  const { draining, paused, read_only: readOnly } = own.value ?? {};
  const set = [draining && "out of service", paused && "says nothing to other seats", readOnly && "takes no transactions"].filter(Boolean);
  return set.length > 0 && html`<p class="notice modes" role="status">${hello.value.node} is set so by an operator: ${set.join(", ")}.</p>`;
}

function LoggedOut() {
  return html`<section class="notice"><h2>You are not logged in</h2>
    ${connection.value.why && html`<p>${connection.value.why}</p>`}
    <p>Whoever may write to the node's folder makes a link, which opens once:</p>
    <pre>standin console-token -c NODE.toml</pre></section>`;
}

function App() {
  if (connection.value.state === "logged out") return html`<${Header} /><main><${LoggedOut} /></main>`;
  if (!hello.value) return html`<${Header} /><main><p class="empty">Waiting for the node… ${connection.value.why}</p></main>`;
  const stale = connection.value.state !== "live";
  return html`<${Header} />
    <main class=${stale ? "stale" : ""}>
      ${stale && html`<p class="notice" role="alert">The connection to ${hello.value.node} is lost: what you see is what it last told. ${connection.value.why}</p>`}
      ${notice.value && html`<p class="notice" role="alert">${notice.value}</p>`}
      <${Modes} />
      <${Summary} />
      <${view.value.component} />
    </main>
    <${ActionDialog} />
    <footer>${hello.value.user.name}, ${hello.value.user.role} · standin ${hello.value.version} · gaps in the feed: ${gaps} · keys: ${keysOn.value ? html`<kbd>/</kbd> find, <kbd>p</kbd> hold what runs` : "off"} <button type="button" class="small" onClick=${toggleKeys}>${keysOn.value ? "Turn keys off" : "Turn keys on"}</button></footer>`;
}

render(html`<${App} />`, document.body);
logIn();
