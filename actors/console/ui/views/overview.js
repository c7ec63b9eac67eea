// What an operator looks at first: who holds which seat, and what happened to it.
import { html } from "../html.js";
import { Topology } from "./topology.js";
import { Timeline } from "./timeline.js";
import { ActionList } from "../actions.js";

export function Overview() {
  return html`<${Topology} /><${Timeline} /><${ActionList} />`;
}
