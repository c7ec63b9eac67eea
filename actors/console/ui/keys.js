// Keys: each does what the view that is open has for it. They are typed outside of fields, and without another key held. Whoever dictates, or types
// without looking, turns them off: the browser keeps that.
import { signal } from "@preact/signals";

const doing = new Map();
export const keysOn = signal(localStorage.getItem("standin-keys") !== "off");

export function toggleKeys() {
  keysOn.value = !keysOn.value;
  localStorage.setItem("standin-keys", keysOn.value ? "on" : "off");
}

// Has a key do something, until what is given back is called.
export function onKey(key, run) {
  doing.set(key, run);
  return () => { if (doing.get(key) === run) doing.delete(key); };
}

addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("input, select, textarea, dialog");
  if (typing || !keysOn.value || event.repeat || event.ctrlKey || event.metaKey || event.altKey || !doing.has(event.key)) return;
  event.preventDefault();
  doing.get(event.key)();
});
