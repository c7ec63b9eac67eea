//! What is shipped for operations says what nodes say: alerts and dashboard use metrics that exist, the runbook has a part for each alert and
//! each drill.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use serde_json::Value;
use standin::publication::Begin;
use standin::testing::{Shape, TestNetwork};
use standin::{Application, Call, Reject, Store, StoreView};
use standin_publisher::Sequence;
use standin_publisher::frame::Datum;

use crate::network::{data, run, told};
use crate::skips::skipped;

fn shipped(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// Names of metrics in a text.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(|c| !is_part(c)).filter(|word| word.starts_with("standin_")).map(str::to_owned).collect()
}

struct Nothing;

impl Application for Nothing {
    type Command = ();
    type Output = ();
    type Query = ();
    type Answer = ();

    fn apply(&self, _: &Call<'_>, (): (), _: &mut Store<'_, '_>) -> Result<(), Reject> {
        Ok(())
    }

    fn query(&self, _: &StoreView<'_>, (): ()) -> Result<(), Reject> {
        Ok(())
    }
}

#[actix_web::test]
async fn alerts_and_dashboard_use_metrics_that_nodes_have() {
    let network = TestNetwork::start_as(Shape { seats: 1, members: 2 }, || Nothing).await.unwrap();
    let mut registry = Registry::with_prefix("standin");
    network.node(0).unwrap().submit(&()).await.unwrap();
    let mut source = network.node(0).unwrap().publish("rates".parse().unwrap()).await.unwrap();
    source.push(Datum { id: Default::default(), value: "1".into() }).unwrap();
    source.acknowledged().await.unwrap();
    // Each topic has its own series, from when the publisher has heard of it.
    let mut terminal = network.node(0).unwrap().follow("rates".parse().unwrap(), Begin::At(Sequence(1))).await.unwrap();
    terminal.next().await.unwrap();
    network.node(0).unwrap().metrics(&mut registry).await.unwrap();
    let mut told = String::new();
    encode(&mut told, &registry).unwrap();
    let mut registry = Registry::with_prefix("standin");
    network.auth().unwrap().metrics(&mut registry).await.unwrap();
    encode(&mut told, &registry).unwrap();
    let has = metrics_in(&told.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n"));
    for file in ["configs/ops/alerts.yml", "configs/ops/grafana.json"] {
        let used = metrics_in(&shipped(file));
        assert!(used.len() > 10, "{file}: {used:?}");
        let unknown: Vec<_> = used.difference(&has).collect();
        assert!(unknown.is_empty(), "{file} uses {unknown:?}, and nodes have {has:?}");
    }
    let dashboard: Value = serde_json::from_str(&shipped("configs/ops/grafana.json")).unwrap();
    assert!(
        dashboard["panels"].as_array().unwrap().iter().all(|panel| !panel["targets"].as_array().unwrap().is_empty())
    );
    network.shutdown().await;
}

#[test]
fn the_runbook_has_a_part_for_each_alert_and_each_drill() {
    let (rules, runbook) = (shipped("configs/ops/alerts.yml"), shipped("docs/operations.md"));
    let alerts: Vec<_> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 10);
    for alert in &alerts {
        assert!(runbook.contains(&format!("### {alert}\n")), "{alert}");
        assert!(rules.contains(&format!("docs/operations.md#{}\n", alert.to_lowercase())), "{alert}");
    }
    let parts = runbook.lines().filter_map(|line| line.strip_prefix("### ")).collect::<Vec<_>>();
    assert_eq!(parts.len(), alerts.len(), "and none for what is no alert");
    let drills = data(&run(&["drill", "list"]));
    let names: Vec<_> = drills.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(names.len() > 20, "{drills}");
    for name in names {
        assert!(runbook.contains(&format!("`{name}`")), "{name}");
    }
}

/// Whether a file is sound, as its kind's linter reads it; what it says. None where there is none.
fn lint(kind: &str, path: &Path) -> Option<(bool, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser");
    if !folder.join("node_modules/yaml").exists() || Command::new("node").arg("--version").output().is_err() {
        let why = "Node.js is not installed, or the packages that `npm install` puts into tests/browser";
        skipped("lint", &format!("the linter for {kind}"), why);
        return None;
    }
    let checked = Command::new("node").arg(folder.join("lint.mjs")).arg(kind).arg(path).output().unwrap();
    Some((checked.status.success(), String::from_utf8_lossy(&checked.stderr).into_owned()))
}

/// Each of the files is sound; and with a fault in it, it is not.
#[test]
fn dockerfile_alerts_and_compose_are_read_by_linters() {
    let folder = tempfile::tempdir().unwrap();
    let made = folder.path().join("net");
    let init = ["init", made.to_str().unwrap(), "--layout", "two-sites", "--chain", "test-lint", "--compose"];
    assert_eq!(told(&run(&init)).0, 0);
    let ops = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/ops");
    let files = [
        ("dockerfile", ops.join("Dockerfile"), "WORKDIR /net", "WORKDRI /net"),
        ("dockerfile", ops.join("Dockerfile"), "USER standin", ""),
        ("dockerfile", ops.join("Dockerfile"), "FROM debian:stable-slim", "FROM debian"),
        ("dockerfile", ops.join("Dockerfile"), "rust:1.95-slim AS", "rust AS"),
        ("alerts", ops.join("alerts.yml"), "for: 30s", "for: soon"),
        ("alerts", ops.join("alerts.yml"), "        expr:", "       expr:"),
        ("compose", made.join("compose.yml"), "image: standin", "imgae: standin"),
        ("compose", made.join("compose.yml"), ".:/net", "nowhere:/net"),
    ];
    for (kind, path, sound, fault) in files {
        let Some((is_sound, why)) = lint(kind, &path) else { return };
        assert!(is_sound, "{why}");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(sound), "{kind} has `{sound}`");
        let broken = folder.path().join("broken");
        std::fs::write(&broken, text.replacen(sound, fault, 1)).unwrap();
        let (is_sound, why) = lint(kind, &broken).unwrap();
        assert!(!is_sound && !why.is_empty(), "{kind}: `{fault}` in the place of `{sound}` was not found");
    }
}
