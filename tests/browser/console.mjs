// The console's page in a browser, against a network of real node processes.
//   node console.mjs PATH-OF-STANDIN [FOLDER-FOR-SCREENSHOTS]
// Prints what it saw, and ends with 1 at the first thing that is not as it should be.
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { readFileSync, readdirSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { chromium } from "playwright-core";

const [standin, shots] = process.argv.slice(2);
const axe = createRequire(import.meta.url).resolve("axe-core/axe.min.js");
const WITHIN = { timeout: 60_000 };

// A network that ends by itself, and whose console's link is on stderr.
function demo() {
  const child = spawn(standin, ["demo", "--for", "1200", "--rate", "50"], { stdio: ["ignore", "ignore", "pipe"] });
  const link = new Promise((resolve, reject) => {
    let said = "";
    child.stderr.on("data", (data) => {
      said += data;
      const found = said.match(/^console: +(\S+)$/m);
      if (found) resolve(found[1]);
    });
    child.on("exit", () => reject(new Error(`the demo ended: ${said}`)));
  });
  return { child, link };
}

// The process of the demo's node with this name: its number, and its command line.
function processOf(name, parent) {
  for (const pid of readdirSync("/proc").filter((entry) => /^\d+$/.test(entry))) {
    try {
      const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
      const line = readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0").slice(0, -1);
      const isChild = Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]) === parent;
      if (isChild && line.some((part) => part.includes(`/${name}/`) || part.endsWith(`/${name}.toml`))) return { pid: Number(pid), line };
    } catch {
      // It has ended meanwhile.
    }
  }
  throw new Error(`no process of ${name}`);
}

// Its parent may not have asked how it ended.
async function hasEnded(pid) {
  for (;;) {
    try {
      const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
      if (stat.slice(stat.lastIndexOf(")") + 2).startsWith("Z")) return;
    } catch {
      return;
    }
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

const begun = Date.now();

async function step(name, run) {
  const said = await run().catch((error) => {
    error.message = `${name}, ${Date.now() - begun} ms after the begin: ${error.message}`;
    throw error;
  });
  console.log(`ok  ${name}${said ? `: ${said}` : ""}`);
}

async function violations(page) {
  await page.addScriptTag({ path: axe }).catch(() => page.evaluate(readFileSync(axe, "utf8")));
  const found = await page.evaluate(() => globalThis.axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"] }));
  return found.violations.map((one) => `${one.id}: ${one.nodes.map((node) => node.html).slice(0, 3).join(" | ")}`);
}

const network = demo();
let browser;
const kept = [];
try {
  const link = await network.link;
  const origin = new URL(link).origin;
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
  });
  // The policy forbids what the accessibility checker needs to be put into the page; everything else runs under it.
  const page = await browser.newPage({ viewport: { width: 1440, height: 1000 } });
  const [foreign, errors] = [[], []];
  page.on("request", (request) => { if (!request.url().startsWith(origin) && !request.url().startsWith("data:")) foreign.push(request.url()); });
  page.on("pageerror", (error) => errors.push(error.message));
  page.on("console", (message) => { if (message.type() === "error") errors.push(message.text()); });
  // Lets a test lose what the node sends.
  await page.addInitScript(() => {
    const Real = globalThis.WebSocket;
    globalThis.WebSocket = class extends Real {
      set onmessage(take) {
        super.onmessage = (event) => {
          if (globalThis.loseOne && event.data.includes('"t":"frame"')) globalThis.loseOne = false;
          else take(event);
        };
      }
    };
  });

  await step("the page shows all nodes soon after it was opened", async () => {
    const begun = Date.now();
    await page.goto(link);
    await page.waitForSelector('.node[data-state="live"]', WITHIN);
    const first = Date.now() - begun;
    await page.waitForFunction(() => document.querySelectorAll('.node[data-state="live"]').length === 13, null, WITHIN);
    assert.equal(new URL(page.url()).hash, "", "the token is not in the address any more");
    return `first data after ${first} ms`;
  });

  const own = await page.textContent("h1 small");
  // Its process is started again below, and has another parent then.
  const { line: ownLine } = processOf(own, network.child.pid);
  const ownConfig = ownLine[ownLine.indexOf("-c") + 1];
  const VIEWS = ["overview", "chain", "publication", "performance", "actors", "logs", "audit"];
  const open = async (view, on = page) => {
    await on.evaluate((view) => { location.hash = `#/${view}`; }, view);
    await on.waitForSelector(`nav a[href="#/${view}"][aria-current]`, WITHIN);
  };

  await step("light and dark, wide and narrow: nothing that a screen reader cannot tell", async () => {
    const looks = [["light", 1440, 1000], ["dark", 1440, 1000], ["light", 390, 844], ["dark", 390, 844]];
    for (const [scheme, width, height] of looks) {
      await page.emulateMedia({ colorScheme: scheme });
      await page.setViewportSize({ width, height });
      for (const view of VIEWS) {
        await open(view);
        // The charts draw what they have, a second later.
        if (view === "performance") await page.waitForSelector(".chart canvas", WITHIN);
        if (shots) await page.screenshot({ path: `${shots}/${view}-${scheme}-${width}.png`, fullPage: width > 600 });
        const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
        assert.ok(wide <= 0, `${view}, ${width} px: the page is ${wide} px too wide`);
      }
    }
    await page.setViewportSize({ width: 1440, height: 1000 });
    await open("overview");
    const checked = await browser.newContext({ bypassCSP: true, storageState: await page.context().storageState() });
    for (const scheme of ["light", "dark"]) {
      const other = await checked.newPage();
      await other.emulateMedia({ colorScheme: scheme });
      await other.goto(`${origin}/console/`);
      await other.waitForSelector('.node[data-state="live"]', WITHIN);
      for (const view of VIEWS) {
        await open(view, other);
        assert.deepEqual(await violations(other), [], `${view}, ${scheme}`);
      }
      await open("overview", other);
      await other.click(".actions button:text('drain')");
      await other.waitForSelector("dialog .effect", WITHIN);
      assert.deepEqual(await violations(other), [], `the dialog, ${scheme}`);
    }
    await checked.close();
  });

  let gone;
  await step("a killed active is shown, and the hand-over step by step", async () => {
    const holder = await page.getAttribute(".node.holds", "data-node");
    gone = holder;
    const { pid } = processOf(holder, network.child.pid);
    const STEPS = ["suspected", "asked", "granted", "fenced", "active", "first block"];
    // What looks at the page is there before there is anything to see.
    await page.evaluate(([name, all]) => {
      const known = new Set([...document.querySelectorAll(".hand-over")].map((one) => one.dataset.cluster + one.dataset.term));
      const look = () => {
        const isGone = document.querySelector(`.node[data-node="${name}"]`)?.dataset.state === "unreachable";
        const over = [...document.querySelectorAll(".hand-over")].find((one) => !known.has(one.dataset.cluster + one.dataset.term));
        const steps = over ? [...over.querySelectorAll(".steps span")].map((step) => step.textContent) : [];
        const ms = over ? [...over.querySelectorAll(".steps b")].map((step) => parseInt(step.textContent)) : [];
        // Each node tells of its own steps: the last one may be told first. Told by whoever has the seat they stand on one line.
        const isInOrder = ms.every((at, place) => place === 0 || ms[place - 1] <= at);
        if (isGone && isInOrder && all.every((step) => steps.includes(step))) globalThis.handedOver ??= { at: Date.now(), steps };
      };
      new MutationObserver(look).observe(document.body, { subtree: true, childList: true, attributes: true, characterData: true });
    }, [holder, STEPS]);
    const killed = Date.now();
    process.kill(pid, "SIGKILL");
    const shown = await page.waitForFunction(() => globalThis.handedOver, null, WITHIN);
    const { at, steps } = await shown.jsonValue();
    assert.deepEqual(steps, STEPS);
    if (shots) await page.screenshot({ path: `${shots}/console-hand-over.png`, fullPage: true });
    return `${holder} gone and its seat handed over, all shown ${at - killed} ms after the kill`;
  });

  await step("the chain: consensus, blocks as they come, and one of them found with its transactions", async () => {
    await open("chain");
    await page.waitForSelector(".strip .votes.enough", WITHIN);
    const first = page.locator('[aria-label="Blocks"] tbody tr button').first();
    const height = await first.textContent();
    await page.waitForFunction((height) => document.querySelector('[aria-label="Blocks"] tbody button').textContent !== height, height, WITHIN);
    await page.fill('input[name="what"]', height.replace(/,/g, ""));
    await page.keyboard.press("Enter");
    await page.waitForSelector('article [aria-label="Transactions"] button', WITHIN);
    await page.click('article [aria-label="Transactions"] button');
    await page.waitForSelector("article h3:text('Transaction')", WITHIN);
    assert.match(await page.textContent("article"), /applied/);
    await page.fill('input[name="what"]', "999999999");
    await page.keyboard.press("Enter");
    await page.waitForSelector("article h3:text('Nothing found')", WITHIN);
  });

  await step("publication: topics, who follows them where, and a hand-over", async () => {
    await open("publication");
    await page.waitForSelector("text=There is no topic yet", WITHIN);
    const { line } = processOf(own, network.child.pid);
    const key = join(dirname(dirname(line[line.indexOf("-c") + 1])), "client.key");
    const feeds = [];
    // A source that goes on until the end of the step; gives who publishes it.
    const begin = async (topic) => {
      const source = spawn(standin, ["publish", topic, "--node", origin, "--key", key], { stdio: ["pipe", "ignore", "ignore"] });
      kept.push(source);
      feeds.push({ source, timer: setInterval(() => source.stdin.write(`${Date.now()}\n`), 20) });
      const row = `[aria-label="Topics"] tr[data-topic="${topic}"]`;
      await page.waitForFunction((row) => Number(document.querySelector(`${row} td:nth-child(5)`)?.textContent.replace(/,/g, "")) > 50, row, WITHIN);
      const published = await page.waitForFunction((row) => [document.querySelector(`${row} td:nth-child(2)`).textContent].find((name) => name !== "nobody"), row, WITHIN);
      return { topic, row, holder: await published.jsonValue() };
    };
    try {
      // Topics are spread over the nodes. The cluster whose page this is, and the one that has lost a node before, are left as they are.
      const spared = [own, gone].map((name) => name.split("-")[0]);
      let stream;
      for (let count = 1; !stream || spared.includes(stream.holder.split("-")[0]); count += 1) {
        assert.ok(count <= 12, "no topic is published by a node of another cluster");
        stream = await begin(`quotes-${count}`);
      }
      const { topic, row, holder } = stream;
      kept.push(spawn(standin, ["follow", topic, "--node", origin, "--from", "1"], { stdio: "ignore" }));
      await page.waitForSelector(`[aria-label="Terminals"] tr[data-topic="${topic}"]`, WITHIN);
      const lost = processOf(holder, network.child.pid);
      const killed = Date.now();
      process.kill(lost.pid, "SIGKILL");
      await page.waitForFunction(([row, holder]) => {
        const now = document.querySelector(`${row} td:nth-child(2)`)?.textContent;
        return now && now !== "nobody" && now !== holder;
      }, [row, holder], WITHIN);
      const shown = Date.now() - killed;
      const told = `topic ${topic} from`;
      await page.waitForFunction(([told, holder]) => [...document.querySelectorAll('[aria-label="Hand-overs of topics"] td')]
        .some((cell) => cell.textContent.startsWith(told) && cell.textContent.includes(`after ${holder}: `)), [told, holder], WITHIN);
      if (shots) await page.screenshot({ path: `${shots}/publication-hand-over.png`, fullPage: true });
      kept.push(spawn(lost.line[0], lost.line.slice(1), { stdio: "ignore" }));
      await open("overview");
      await page.waitForSelector(`.node[data-node="${holder}"][data-state="live"]:has-text("in sync")`, WITHIN);
      return `${holder} was killed, and another one publishes ${topic}: shown after ${shown} ms`;
    } finally {
      feeds.forEach(({ source, timer }) => { clearInterval(timer); source.stdin.end(); });
    }
  });

  await step("charts of what was measured, all actors, and the log", async () => {
    await open("performance");
    await page.waitForFunction(() => /p99 [0-9.]+ ms/.test(document.querySelector('[data-chart="commit"]')?.textContent ?? "") || /p99 [0-9.]+ ms/.test(document.querySelector('[data-chart="sync"]')?.textContent ?? ""), null, WITHIN);
    if (shots) await page.screenshot({ path: `${shots}/performance.png`, fullPage: true });
    await open("actors");
    await page.waitForFunction(() => document.querySelectorAll('[aria-label^="Actors of"] tbody tr').length >= 36, null, WITHIN);
    await open("logs");
    await page.waitForSelector('.log tr.level-info td:text("node runs")', WITHIN);
  });

  await step("a seat is moved at the page: effect, reason and confirmation first, and the audit log tells", async () => {
    await open("overview");
    await page.click(".actions button:text('switch')");
    await page.waitForSelector("dialog .effect", WITHIN);
    const go = page.locator("dialog button.primary");
    assert.ok(await go.isDisabled(), "neither a reason nor a confirmation is there");
    const cluster = await page.textContent("dialog label code");
    await page.fill('dialog input[placeholder="stands in the audit log"]', "a test");
    await page.fill("dialog label:has(code) input", "something else");
    assert.ok(await go.isDisabled());
    await page.fill("dialog label:has(code) input", cluster);
    // The page keeps the newest hand-overs.
    const newest = (cluster) => Math.max(0, ...[...document.querySelectorAll(`.hand-over[data-cluster="${cluster}"]`)].map((one) => Number(one.dataset.term)));
    const before = await page.evaluate(newest, cluster);
    if (shots) await page.screenshot({ path: `${shots}/action.png` });
    await go.click();
    await page.waitForSelector("dialog .done", WITHIN);
    await page.click("dialog .buttons button");
    await page.waitForFunction(([cluster, before]) => [...document.querySelectorAll(`.hand-over[data-cluster="${cluster}"]`)].some((one) => Number(one.dataset.term) > before), [cluster, before], WITHIN);
    await open("audit");
    await page.waitForSelector('[aria-label="Audit log"] td:text("done:")', WITHIN);
    if (shots) await page.screenshot({ path: `${shots}/audit.png`, fullPage: true });
    await open("overview");
    return `cluster ${cluster}`;
  });

  await step("a viewer sees what an action would do, and cannot do it", async () => {
    const { line } = processOf(own, network.child.pid);
    const made = spawnSync(standin, ["console-token", "-c", line[line.indexOf("-c") + 1], "--user", "eve", "--role", "viewer"], { encoding: "utf8" });
    assert.equal(made.status, 0, made.stderr);
    const viewer = await (await browser.newContext()).newPage();
    await viewer.goto(made.stdout.trim());
    await viewer.click(".actions button:text('read-only')", WITHIN);
    await viewer.selectOption("dialog select", "on");
    await viewer.waitForSelector("dialog .effect", WITHIN);
    assert.match(await viewer.textContent("dialog"), /logged in as viewer: this needs operator/);
    assert.equal(await viewer.locator("dialog button.primary:enabled").count(), 0);
    const answer = await viewer.evaluate(async () => {
      const body = JSON.stringify({ id: "1", order: { on: "", args: { set: "on" } }, reason: "for fun", confirm: "" });
      const answer = await fetch("../api/v1/actions/read-only", { method: "POST", headers: { "content-type": "application/json" }, body });
      return [answer.status, (await answer.json()).code];
    });
    assert.deepEqual(answer, [403, "role_too_low"]);
    await viewer.context().close();
  });

  await step("ages are told by the node's clock, however wrong the browser's is", async () => {
    const hours = await (await browser.newContext({ storageState: await page.context().storageState() })).newPage();
    await hours.addInitScript(() => {
      const real = Date.now.bind(Date);
      globalThis.ahead = 5 * 3600e3;
      globalThis.looked = 0;
      Date.now = () => (globalThis.looked += 1, real() + globalThis.ahead);
    });
    await hours.goto(`${origin}/console/`);
    const shows = async () => {
      await hours.waitForFunction(() => {
        const ages = [...document.querySelectorAll("details table.rows tbody tr")].map((row) => row.lastElementChild.textContent);
        // All but the one that was killed.
        return ages.filter((age) => age === "now" || /^[2-9] s ago$/.test(age)).length >= 11;
      }, null, WITHIN);
      assert.equal(await hours.locator("main.stale").count(), 0);
    };
    await shows();
    // It is set right, and wrong in the other direction, while the page is open.
    for (const ahead of [0, -26 * 3600e3]) {
      await hours.evaluate((ahead) => { globalThis.ahead = ahead; globalThis.looked = 0; }, ahead);
      // It looks once with each frame, which come ten times a second, and once a second for the ages.
      await hours.waitForFunction(() => globalThis.looked > 25, null, WITHIN);
      await shows();
    }
    await hours.context().close();
  });

  await step("what was lost on the way is noticed and had again", async () => {
    const height = () => page.evaluate(() => Number(document.querySelectorAll(".summary dd")[2].textContent.replace(/,/g, "")));
    await page.evaluate(() => { globalThis.loseOne = true; });
    await page.waitForFunction(() => /gaps in the feed: [1-9]/.test(document.querySelector("footer").textContent), null, WITHIN);
    const before = await height();
    await page.waitForFunction((before) => Number(document.querySelectorAll(".summary dd")[2].textContent.replace(/,/g, "")) > before, before, WITHIN);
  });

  await step("a node that starts again is found again, without a new login", async () => {
    const { pid, line } = processOf(own, network.child.pid);
    process.kill(pid, "SIGTERM");
    await page.waitForSelector("main.stale", WITHIN);
    await hasEnded(pid);
    kept.push(spawn(line[0], line.slice(1), { stdio: "ignore" }));
    const started = Date.now();
    await page.waitForSelector("main:not(.stale) .node.holds", WITHIN);
    await page.waitForFunction(() => document.querySelectorAll('.node[data-state="live"]').length === 12, null, WITHIN);
    return `all shown ${Date.now() - started} ms after the start`;
  });

  await step("keys: / finds from anywhere, p holds what runs", async () => {
    await open("overview");
    await page.locator("h1").click();
    await page.keyboard.press("/");
    await page.waitForFunction(() => document.activeElement?.name === "what", null, WITHIN);
    const holder = await page.evaluate(() => document.querySelector("h1 small").textContent);
    await page.keyboard.type(`${holder}/`);
    await page.keyboard.press("Backspace");
    await page.keyboard.press("Enter");
    await page.waitForSelector(`article h3:text("Node ${holder}")`, WITHIN);
    const hash = await page.evaluate(async () => (await (await fetch("../api/v1/blocks/5")).json()).hash);
    await page.fill('input[name="what"]', hash);
    await page.keyboard.press("Enter");
    await page.waitForSelector("article h3:text('Block 5')", WITHIN);
    await page.locator("h1").click();
    await page.keyboard.press("p");
    await page.waitForSelector("text=The key p lets them go on", WITHIN);
    const first = await page.locator('[aria-label="Blocks"] tbody tr button').first().textContent();
    await page.waitForFunction(() => /[1-9]\d* newer/.test(document.body.textContent), null, WITHIN);
    assert.equal(await page.locator('[aria-label="Blocks"] tbody tr button').first().textContent(), first);
    await page.click("button:text('Turn keys off')");
    await page.locator("h1").click();
    await page.keyboard.press("p");
    await page.waitForSelector("text=The key p lets them go on", WITHIN);
    await page.click("button:text('Turn keys on')");
    await page.locator("h1").click();
    await page.keyboard.press("p");
    await page.waitForFunction((first) => document.querySelector('[aria-label="Blocks"] tbody button').textContent !== first, first, WITHIN);
    await page.waitForSelector('[aria-label="Newest transactions"] tbody tr', WITHIN);
    await open("overview");
  });

  await step("logging out ends every page of the login", async () => {
    const made = spawnSync(standin, ["console-token", "-c", ownConfig, "--user", "two-tabs"], { encoding: "utf8" });
    const context = await browser.newContext();
    const [one, two] = [await context.newPage(), await context.newPage()];
    await one.goto(made.stdout.trim());
    await one.waitForSelector('.node[data-state="live"]', WITHIN);
    await two.goto(`${origin}/console/`);
    await two.waitForSelector('.node[data-state="live"]', WITHIN);
    await one.click("button:text('Log out')");
    await one.waitForSelector("text=You have logged out", WITHIN);
    await two.waitForSelector("text=You are not logged in", WITHIN);
    await context.close();
  });

  await step("a console too many is told why, and comes in when there is room", async () => {
    const made = spawnSync(standin, ["console-token", "-c", ownConfig, "--user", "many"], { encoding: "utf8" });
    const context = await browser.newContext();
    const many = await context.newPage();
    await many.goto(made.stdout.trim());
    await many.waitForSelector('.node[data-state="live"]', WITHIN);
    // With the page's own these are as many as one user may have.
    await many.evaluate(() => Promise.all(Array.from({ length: 15 }, () => new Promise((resolve) => {
      const address = new URL("ws", location.href);
      address.protocol = address.protocol.replace("http", "ws");
      address.hash = "";
      const socket = new WebSocket(address, "standin-console.v1");
      (globalThis.sockets ??= []).push(socket);
      socket.onmessage = resolve;
    }))));
    const late = await context.newPage();
    await late.goto(`${origin}/console/`);
    await late.waitForSelector('.connection[title*="too many consoles"]', WITHIN);
    await many.evaluate(() => globalThis.sockets.pop().close());
    await late.waitForSelector('.node[data-state="live"]', WITHIN);
    await context.close();
  });

  await step("whoever is not logged in sees how to, and nothing else", async () => {
    const stranger = await (await browser.newContext()).newPage();
    await stranger.goto(link);
    await stranger.waitForSelector("text=You are not logged in", WITHIN);
    assert.match(await stranger.textContent("main"), /opened before/);
    assert.equal(await stranger.locator(".node").count(), 0);
  });

  await step("nothing was asked of anybody else, and nothing went wrong", async () => {
    assert.deepEqual(foreign, []);
    // The browser tells of each connection that was refused while the node was away.
    assert.deepEqual(errors.filter((error) => !/WebSocket connection|ERR_CONNECTION|Failed to load resource/.test(error)), []);
  });
} catch (error) {
  console.error(error);
  if (network.child.exitCode !== null) console.error(`the demo has ended with ${network.child.exitCode}`);
  for (const context of browser?.contexts() ?? []) {
    for (const open of context.pages()) console.error(`${open.url()}:\n${await open.innerText("body").catch(String)}`);
  }
  process.exitCode = 1;
} finally {
  await browser?.close();
  kept.forEach((child) => child.kill("SIGKILL"));
  network.child.removeAllListeners("exit");
  network.child.kill("SIGINT");
  await new Promise((resolve) => network.child.on("exit", resolve));
}
