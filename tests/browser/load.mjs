// The console's page under load, for as long as one wants: how busy the browser's main thread is, whether its heap stays flat, and the node's
// memory with it. Not part of the gate.
//   RATE=500 LAYOUT=four-sites node load.mjs PATH-OF-STANDIN SECONDS [VIEW] [FILTER-OF-THE-LOG]
// Without a filter the page is open beside a loaded demo. With one, such as `trace`, the node's log goes over the websocket line by line.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readFileSync, readdirSync } from "node:fs";
import { chromium } from "playwright-core";

const [standin, seconds, view = "overview", filter] = process.argv.slice(2);
const RATE = process.env.RATE ?? "500";
const LAYOUT = process.env.LAYOUT ?? "four-sites";
const LASTS = Number(seconds);
const child = spawn(standin, ["demo", "--for", String(LASTS + 60), "--rate", RATE, "--layout", LAYOUT], { stdio: ["ignore", "ignore", "pipe"] });
const link = await new Promise((resolve, reject) => {
  let said = "";
  child.stderr.on("data", (data) => {
    said += data;
    const found = said.match(/^console: +(\S+)$/m);
    if (found) resolve(found[1]);
  });
  child.on("exit", () => reject(new Error(`the demo ended: ${said}`)));
});

// The memory of the process that serves the page, in MB: its own, without the files that it has mapped, which are the disk's cache.
function memory(port) {
  for (const pid of readdirSync("/proc").filter((entry) => /^\d+$/.test(entry))) {
    try {
      const line = readFileSync(`/proc/${pid}/cmdline`, "utf8");
      const config = line.split("\0").find((part) => part.endsWith("node.toml"));
      if (config && readFileSync(config, "utf8").includes(`listen = "127.0.0.1:${port}"`)) {
        return Number(readFileSync(`/proc/${pid}/status`, "utf8").match(/RssAnon:\s+(\d+)/)[1]) / 1024;
      }
    } catch {
      // It has ended meanwhile.
    }
  }
  throw new Error("the node is gone");
}

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});
try {
  const page = await browser.newPage({ viewport: { width: 1440, height: 1000 } });
  let messages = 0;
  page.on("websocket", (socket) => socket.on("framereceived", ({ payload }) => {
    for (const delta of JSON.parse(payload).d ?? []) messages += delta.to - delta.from + 1;
  }));
  await page.goto(link);
  await page.waitForSelector('.node[data-state="live"]');
  if (filter) {
    const done = await page.evaluate(async (filter) => {
      const order = { on: "", args: { filter } };
      const post = async (path, body) => (await fetch(`../api/v1/actions/${path}`, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) })).json();
      const { confirm } = await post("log-level/preview", order);
      return post("log-level", { id: "load", order, reason: "a measurement", confirm });
    }, filter);
    assert.ok(done.done, JSON.stringify(done));
  }
  await page.evaluate((view) => { location.hash = `#/${view}`; }, view);
  const { port } = new URL(link);
  const session = await page.context().newCDPSession(page);
  await session.send("Performance.enable");
  const measured = async () => {
    await session.send("HeapProfiler.collectGarbage");
    const { metrics } = await session.send("Performance.getMetrics");
    const of = (name) => metrics.find((one) => one.name === name).value;
    return { at: Date.now() / 1000, busy: of("TaskDuration"), heap: of("JSHeapUsedSize") / 1e6, node: memory(port), messages };
  };
  let before = await measured();
  const first = before;
  for (let passed = 0; passed < LASTS; passed += Math.min(LASTS, 15)) {
    await page.waitForTimeout(Math.min(LASTS, 15) * 1000);
    const now = await measured();
    const share = (100 * (now.busy - before.busy)) / (now.at - before.at);
    const rate = (now.messages - before.messages) / (now.at - before.at);
    console.log(`${Math.round(now.at - first.at)} s: main thread ${share.toFixed(1)} %, ${Math.round(rate)} changes/s, heap ${now.heap.toFixed(1)} MB, node's own ${now.node.toFixed(0)} MB`);
    before = now;
  }
} finally {
  await browser.close();
  child.removeAllListeners("exit");
  child.kill("SIGINT");
  await new Promise((resolve) => child.on("exit", resolve));
}
