// How fast it is: what the node measured, second by second, for as long as the page is open, and fifteen minutes at most. What is older is
// kept by whoever scrapes /metrics.
import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import { html } from "../html.js";
import { history, HISTORY_S } from "../store.js";

const CHARTS = [
  { id: "tps", title: "Transactions a second", unit: "", series: [["transactions", "tps"]] },
  { id: "commit", title: "From submission to outcome, at this node", unit: "ms", series: [["p50", "commit.p50"], ["p95", "commit.p95"], ["p99", "commit.p99"]] },
  { id: "interval", title: "From block to block", unit: "ms", series: [["p50", "block_interval.p50"], ["p99", "block_interval.p99"]] },
  { id: "sync", title: "Syncs of the log", unit: "ms", series: [["p50", "log_sync.p50"], ["p99", "log_sync.p99"]] },
  { id: "mailboxes", title: "Messages that wait in the node's mailboxes", unit: "", series: [["messages", "mailboxes"]] },
];
const COLOURS = ["--good", "--warn", "--bad"];

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
// The canvas knows no light-dark(): the browser is asked what a colour is now.
function resolved(name) {
  const probe = document.body.appendChild(document.createElement("i"));
  probe.style.color = colour(name);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

const shown = (value, unit) => (value == null ? "–" : `${value >= 100 ? Math.round(value).toLocaleString("en") : value.toFixed(1)}${unit && ` ${unit}`}`);

function options(chart, width) {
  const axis = { stroke: resolved("--soft"), grid: { stroke: resolved("--line"), width: 1 }, ticks: { stroke: resolved("--line"), width: 1 } };
  return {
    width, height: 170, cursor: { y: false }, legend: { show: false }, padding: [8, 8, 0, 0],
    scales: { y: { range: (_, __, max) => [0, Math.max(1, (max ?? 0) * 1.15)] } },
    axes: [{ ...axis, values: (_, times) => times.map((time) => new Date(time * 1000).toLocaleTimeString("en-GB")), space: 90, size: 34 }, { ...axis, size: 52 }],
    series: [{}, ...chart.series.map(([label], n) => ({ label, stroke: resolved(COLOURS[n]), width: 1.5, spanGaps: false, points: { show: false } }))],
  };
}

function Chart({ chart }) {
  const place = useRef(null);
  const plot = useRef(null);
  useEffect(() => {
    const at = place.current;
    // Another view was opened before this one was drawn.
    if (!at) return undefined;
    const draw = () => {
      plot.current?.destroy();
      plot.current = new uPlot(options(chart, at.clientWidth), dataOf(chart), at);
    };
    draw();
    const dark = matchMedia("(prefers-color-scheme: dark)");
    const sized = new ResizeObserver(() => plot.current?.setSize({ width: at.clientWidth, height: 170 }));
    sized.observe(at);
    dark.addEventListener("change", draw);
    return () => {
      dark.removeEventListener("change", draw);
      sized.disconnect();
      plot.current.destroy();
      plot.current = null;
    };
  }, []);
  const samples = history.value;
  useEffect(() => plot.current?.setData(dataOf(chart)), [samples]);
  const last = samples.at(-1)?.values ?? {};
  return html`<figure class="card chart" data-chart=${chart.id}><figcaption>${chart.title}
      <span>${chart.series.map(([label, key], n) => html`<b class="key-${n}">${label} ${shown(last[key], chart.unit)}</b>`)}</span></figcaption>
    <div ref=${place} role="img" aria-label=${`${chart.title}: ${chart.series.map(([label, key]) => `${label} ${shown(last[key], chart.unit)}`).join(", ")}`}></div></figure>`;
}

function dataOf(chart) {
  const samples = history.peek();
  return [samples.map(({ at }) => at), ...chart.series.map(([, key]) => samples.map(({ values }) => values[key] ?? null))];
}

export function Performance() {
  return html`<section aria-labelledby="performance"><h2 id="performance">Performance</h2>
    <div class="charts">${CHARTS.map((chart) => html`<${Chart} key=${chart.id} chart=${chart} />`)}</div>
    <p class="why">Measured by this node while the page is open: ${history.value.length} of at most ${HISTORY_S} seconds. Earlier times are kept by whoever scrapes <code>/metrics</code>.</p></section>`;
}
