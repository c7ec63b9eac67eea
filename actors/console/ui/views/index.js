// The console's views, in the order of the navigation. A view has an id (its place in the address), a title, the topics that it needs, and a
// component. `fits` says whether the node has anything to show in it, by the topics that it offers. A new system adds a line here.
import { Overview } from "./overview.js";
import { Chain } from "./chain.js";
import { Publication } from "./publication.js";
import { Performance } from "./performance.js";
import { Actors } from "./actors.js";
import { Logs } from "./logs.js";
import { Audit } from "./audit.js";

export const views = [
  { id: "overview", title: "Overview", topics: [], component: Overview },
  { id: "chain", title: "Chain", topics: ["blocks", "transactions"], component: Chain, fits: (topics) => topics.includes("blocks") },
  { id: "publication", title: "Publication", topics: ["topics", "terminals"], component: Publication, fits: (topics) => topics.includes("topics") },
  { id: "performance", title: "Performance", topics: [], component: Performance, fits: (topics) => topics.includes("consensus") },
  { id: "actors", title: "Actors", topics: [], component: Actors },
  { id: "logs", title: "Logs", topics: ["logs"], component: Logs },
  { id: "audit", title: "Audit", topics: ["audit"], component: Audit },
];

// What every view needs: the summary, the badges of the navigation, and what the charts remember while another view is open.
export const always = ["nodes", "events", "actors", "consensus"];
