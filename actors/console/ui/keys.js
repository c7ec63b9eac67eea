// Keys: each does what the view that is open has for it. They are typed outside of fields, and without another key held.
const doing = new Map();

// Has a key do something, until what is given back is called.
export function onKey(key, run) {
  doing.set(key, run);
  return () => { if (doing.get(key) === run) doing.delete(key); };
}

addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("input, select, textarea, dialog");
  if (typing || event.ctrlKey || event.metaKey || event.altKey || !doing.has(event.key)) return;
  event.preventDefault();
  doing.get(event.key)();
});
