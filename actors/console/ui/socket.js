// The websocket: subscribes, resumes where it was, and comes back by itself.
import * as store from "./store.js";

const BACK_OFF_MS = [300, 10000];
// What the views that are open need.
let wanted = [];
let socket = null;
let waited = 0;
let back = 0;
// By the clock that nobody can set.
let heard = 0;
let next = 1;

const say = (message) => socket?.readyState === WebSocket.OPEN && socket.send(JSON.stringify(message));

function subscribe(topic, anew) {
  const since = anew ? undefined : store.reached[topic];
  say({ t: "sub", id: next++, topic, ...(since?.epoch ? { since } : {}) });
}

// Subscribes to what is needed from now on, and ends what is not.
export function want(topics) {
  const offered = (topic) => store.hello.peek()?.topics.includes(topic);
  wanted.filter((topic) => !topics.includes(topic)).forEach((topic) => say({ t: "unsub", topic }));
  const added = topics.filter((topic) => !wanted.includes(topic));
  wanted = topics;
  added.filter(offered).forEach((topic) => subscribe(topic, false));
}

export function connect() {
  const address = new URL("ws", location.href);
  address.protocol = address.protocol.replace("http", "ws");
  address.hash = "";
  const own = new WebSocket(address, "standin-console.v1");
  socket = own;
  own.onmessage = ({ data }) => {
    heard = performance.now();
    take(JSON.parse(data));
  };
  own.onclose = ({ code, reason }) => {
    if (socket === own) closed(code, reason);
  };
}

function take(message) {
  switch (message.t) {
    case "hello":
      waited = 0;
      store.notice.value = "";
      store.hello.value = message;
      store.offset.value = message.now_ms - Date.now();
      store.connection.value = { state: "live", why: "" };
      wanted.filter((topic) => message.topics.includes(topic)).forEach((topic) => subscribe(topic, false));
      break;
    case "snap":
      store.snap(message);
      break;
    case "frame":
      store.frame(message).forEach((topic) => subscribe(topic, true));
      break;
  }
}

async function closed(code, reason) {
  if (code === 4401 || !(await isLoggedIn())) {
    store.connection.value = { state: "logged out", why: reason };
    return;
  }
  waited = Math.min(BACK_OFF_MS[1], Math.max(BACK_OFF_MS[0], waited * 2));
  store.connection.value = { state: "reconnecting", why: reason || "the connection to the node was lost" };
  back = setTimeout(connect, waited * (0.5 + Math.random()));
}

// Ends the login at the node, and with it every page that has it.
export async function logOut() {
  const answer = await fetch("logout", { method: "POST" }).catch(() => null);
  if (!answer?.ok) {
    const why = answer ? (await answer.json().catch(() => ({}))).error ?? `it answers ${answer.status}` : "it does not answer";
    store.notice.value = `You are still logged in: the node could not end the login: ${why}.`;
    return;
  }
  clearTimeout(back);
  const own = socket;
  socket = null;
  own?.close();
  store.connection.value = { state: "logged out", why: "You have logged out." };
}

// A node that does not answer may have the login still.
async function isLoggedIn() {
  try {
    return (await fetch("me")).status !== 401;
  } catch {
    return true;
  }
}

// A connection that says nothing, not even an answer, is dead.
setInterval(() => {
  if (socket?.readyState !== WebSocket.OPEN) return;
  if (performance.now() - heard > 25000) socket.close();
  else say({ t: "ping", id: next++ });
}, 8000);

// A link's token is in the address's fragment, which no server and no log sees. It opens one login, and goes.
export async function logIn() {
  const token = new URLSearchParams(location.hash.slice(1)).get("t");
  if (token) {
    history.replaceState(null, "", location.pathname);
    const answer = await fetch("login", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ token }),
    });
    if (!answer.ok && (await fetch("me")).status === 401) {
      store.connection.value = { state: "logged out", why: (await answer.json()).error };
      return;
    }
  } else if (!(await isLoggedIn())) {
    store.connection.value = { state: "logged out", why: "" };
    return;
  }
  connect();
}
