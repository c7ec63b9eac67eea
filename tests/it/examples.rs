//! Every example runs, and says what its text promises.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::network::ended_within;

/// Longer than any example takes.
const WITHIN: Duration = Duration::from_secs(120);

/// What an example prints.
fn run(name: &str, arguments: &[&str]) -> String {
    // Cargo puts examples beside the programs.
    let path = PathBuf::from(env!("CARGO_BIN_EXE_standin")).parent().unwrap().join("examples").join(name);
    let output = ended_within(Command::new(&path).args(arguments), WITHIN);
    let (said, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name}: {said}\n{told}");
    said.into_owned()
}

#[test]
fn a_state_machine_of_ones_own_runs_on_a_chain() {
    let said = run("custom_state_machine", &[]);
    for line in ["ann paid bob 30", "insufficient funds", "bob has 130", "Transfer { from: \"ann\""] {
        assert!(said.contains(line), "{said}");
    }
}

#[test]
fn a_web_shop_keeps_its_orders_in_a_chain() {
    let said = run("web_shop", &["--once"]);
    assert!(said.contains("201 Created") && said.contains("409 Conflict book is sold out"), "{said}");
    assert!(said.contains("the chain is ok"), "{said}");
}

#[test]
fn an_application_is_tested_against_a_network_that_loses_a_holder() {
    let said = run("test_network", &[]);
    assert!(said.contains("held the first seat, and node") && said.contains("counts 10"), "{said}");
}

#[test]
fn actors_of_two_processes_ask_each_other_and_are_told_of_a_death() {
    let said = run("remote_actors", &[]);
    for line in
        ["it adds 2: Add(2)", "13 is unlucky", "begun anew, and adds 3: Add(3)", "told of its death: Unreachable"]
    {
        assert!(said.contains(line), "{said}");
    }
}
