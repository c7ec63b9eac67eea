// Reads a Dockerfile, a compose file and rules of alerts as their tools do, and says what is wrong with them.
//   node lint.mjs dockerfile|compose|alerts FILE
// Ends with 1 if something is.
import { readFileSync } from "node:fs";
import { validate } from "dockerfile-utils";
import { parseDocument } from "yaml";

const [kind, path] = process.argv.slice(2);
const text = readFileSync(path, "utf8");
const faults = [];
const fault = (condition, what) => { if (condition) faults.push(what); };
const unknown = (where, object, known) =>
  Object.keys(object ?? {}).filter((key) => !known.includes(key)).forEach((key) => faults.push(`${where}: \`${key}\` is not known`));

function yaml() {
  const document = parseDocument(text, { strict: true, uniqueKeys: true });
  [...document.errors, ...document.warnings].forEach((error) => faults.push(error.message));
  return document.toJS() ?? {};
}

const READERS = {
  dockerfile() {
    for (const { message, range } of validate(text)) faults.push(`line ${range.start.line + 1}: ${message}`);
    fault(!/^USER\s+(?!root)/m.test(text), "it runs as root: no USER");
    const stages = new Set();
    for (const [, image, stage] of text.matchAll(/^FROM\s+(\S+)(?:\s+AS\s+(\S+))?/gim)) {
      fault(!stages.has(image) && image !== "scratch" && !/@sha256:|:(?!latest$)[^/]+$/.test(image), `base image ${image} has no version`);
      if (stage) stages.add(stage);
    }
  },
  // As in the specification of compose, as far as it is used here.
  compose() {
    const file = yaml();
    unknown("top", file, ["name", "services", "networks", "volumes", "configs", "secrets"]);
    fault(Object.keys(file.services ?? {}).length === 0, "no services");
    const volumes = Object.keys(file.volumes ?? {});
    const ports = new Map();
    for (const [name, service] of Object.entries(file.services ?? {})) {
      unknown(name, service, ["image", "build", "command", "entrypoint", "volumes", "ports", "environment", "restart", "depends_on", "network_mode", "networks", "healthcheck", "user", "stop_grace_period", "init", "read_only", "working_dir", "ulimits", "logging"]);
      fault(!service.image && !service.build, `${name}: neither an image nor a build`);
      fault(service.command != null && !Array.isArray(service.command) && typeof service.command !== "string", `${name}: command`);
      for (const volume of service.volumes ?? []) {
        const [from, to] = String(volume).split(":");
        fault(!to?.startsWith("/"), `${name}: volume ${volume} has no place in the container`);
        fault(!/^[./~]/.test(from) && !volumes.includes(from), `${name}: volume ${from} is not declared`);
      }
      for (const port of service.ports ?? []) {
        const host = String(port).split(":").slice(0, -1).join(":");
        fault(ports.has(host), `${name}: port ${host} is ${ports.get(host)}'s`);
        ports.set(host, name);
      }
      const needs = Array.isArray(service.depends_on) ? service.depends_on : Object.keys(service.depends_on ?? {});
      needs.forEach((need) => fault(!file.services[need], `${name}: depends on ${need}, which is not there`));
    }
  },
  // As Prometheus reads rules.
  alerts() {
    const file = yaml();
    unknown("top", file, ["groups"]);
    const names = new Set();
    for (const group of file.groups ?? []) {
      unknown(group.name, group, ["name", "interval", "rules", "limit"]);
      fault(!group.name || !(group.rules?.length > 0), "a group without a name or rules");
      for (const rule of group.rules ?? []) {
        unknown(rule.alert, rule, ["alert", "expr", "for", "keep_firing_for", "labels", "annotations"]);
        fault(!rule.alert || names.has(rule.alert), `${rule.alert}: no name, or that of another`);
        names.add(rule.alert);
        fault(!rule.expr?.trim(), `${rule.alert}: no expression`);
        fault([..."()[]{}"].some((_, at, all) => at % 2 === 0 && rule.expr.split(all[at]).length !== rule.expr.split(all[at + 1]).length), `${rule.alert}: brackets`);
        fault(rule.for != null && !/^(\d+(ms|[smhdwy]))+$/.test(rule.for), `${rule.alert}: for ${rule.for}`);
        fault(!rule.labels?.severity || !rule.annotations?.summary, `${rule.alert}: no severity, or no summary`);
      }
    }
    fault(names.size === 0, "no rules");
  },
};

READERS[kind]();
faults.forEach((what) => console.error(`${path}: ${what}`));
process.exitCode = faults.length > 0 ? 1 : 0;
