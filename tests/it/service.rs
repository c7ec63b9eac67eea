//! A node as a service: what it tells the service manager, what signals do, and what the command line says of itself.

use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::network::{TestNetwork, data, ended_within, run, standin, told};
use crate::skips::skipped;

/// Longer than anything here takes.
const WITHIN: Duration = Duration::from_secs(60);

fn next(socket: &UnixDatagram) -> String {
    let mut bytes = [0; 4096];
    let count = socket.recv(&mut bytes).expect("the node tells the service manager");
    String::from_utf8_lossy(&bytes[..count]).into_owned()
}

#[test]
fn the_service_manager_is_told_and_signals_are_obeyed() {
    let mut network = TestNetwork::files();
    for seat in 2..=4 {
        network.start_node(seat);
    }
    let path = network.path("notify.socket");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(WITHIN)).unwrap();
    let (config, log) = (network.config(1), network.path("served.log"));
    let mut node = standin()
        .args(["run", "--die-with-parent", "-c", config.to_str().unwrap()])
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "300000")
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    assert_eq!(next(&socket).trim(), "READY=1");
    let stands = next(&socket);
    assert!(stands.contains("STATUS=cluster c1: ") && stands.contains("WATCHDOG=1"), "{stands}");
    while !next(&socket).contains("3 other seats connected") {}

    let logged = |text: &str| {
        let begun = std::time::Instant::now();
        while !std::fs::read_to_string(&log).unwrap().contains(text) {
            assert!(begun.elapsed() < WITHIN, "{text} is not in the log");
            std::thread::yield_now();
        }
    };
    let signal = |signal| kill_process(Pid::from_child(&node), signal).unwrap();
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("level = \"info\"", "level = \"debug\"")).unwrap();
    signal(Signal::HUP);
    logged("the configuration was read anew level=\"debug\"");
    std::fs::write(&config, text.replace("name = \"s1\"", "name = \"other\"")).unwrap();
    signal(Signal::HUP);
    logged("the configuration has other changes");
    std::fs::write(&config, "no configuration").unwrap();
    signal(Signal::HUP);
    logged("nothing is changed: the configuration cannot be read");
    signal(Signal::TERM);
    while next(&socket).trim() != "STOPPING=1" {}
    assert!(node.wait().unwrap().success());
}

#[test]
fn the_command_line_tells_of_itself() {
    let page = data(&run(&["man"]));
    for section in [".TH standin 1", "SUBCOMMANDS", "Exit codes"] {
        assert!(page.contains(section), "{page}");
    }
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(told(&run(&["man", folder.path().to_str().unwrap()])).0, 0);
    let pages: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(pages.iter().any(|page| page == "standin-switch.1"), "{pages:?}");
    for shell in ["bash", "zsh", "fish"] {
        assert!(data(&run(&["completions", shell])).contains("console-token"), "{shell}");
    }
    let explained = data(&run(&["config", "explain", "cluster.keep_alive_ms"]));
    assert!(explained.contains("STANDIN__CLUSTER__KEEP_ALIVE_MS") && explained.contains("50"), "{explained}");
    let (code, near) = told(&run(&["config", "explain", "cluster.keepalive_ms"]));
    assert_eq!((code, near.contains("did you mean `cluster.keep_alive_ms`")), (4, true), "{near}");
    assert!(data(&run(&["config", "explain"])).lines().count() > 30);
}

#[test]
fn units_are_written_for_the_nodes_of_a_layout() {
    let folder = tempfile::tempdir().unwrap();
    let made = folder.path().join("net");
    let output = run(&["init", made.to_str().unwrap(), "--layout", "two-sites", "--chain", "test-units", "--systemd"]);
    assert_eq!(told(&output).0, 0, "{}", told(&output).1);
    let unit = std::fs::read_to_string(made.join("auth").join("standin-auth.service")).unwrap();
    assert!(!unit.contains('@') && unit.contains("Type=notify") && unit.contains("WatchdogSec="), "{unit}");
    let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let parts: Vec<_> = start.split(' ').collect();
    let checked = ended_within(Command::new(parts[0]).args(["config", "check", "-c", parts[3]]), WITHIN);
    assert!(checked.status.success(), "what the unit starts is sound: {checked:?}");
}

#[test]
fn a_compose_file_is_written_that_compose_takes() {
    let folder = tempfile::tempdir().unwrap();
    let made = folder.path().join("net");
    let output =
        run(&["init", made.to_str().unwrap(), "--layout", "two-sites", "--chain", "test-compose", "--compose"]);
    assert_eq!(told(&output).0, 0, "{}", told(&output).1);
    let text = std::fs::read_to_string(made.join("compose.yml")).unwrap();
    for node in std::fs::read_dir(&made).unwrap().map(|entry| entry.unwrap()).filter(|entry| entry.path().is_dir()) {
        let name = node.file_name().into_string().unwrap();
        assert!(text.contains(&format!("/net/{name}/node.toml")), "{name}: {text}");
    }
    let compose = ["compose", "-f", made.join("compose.yml").to_str().unwrap(), "config", "--quiet"].map(str::to_owned);
    match Command::new("docker").args(["compose", "version"]).output() {
        Ok(version) if version.status.success() => {
            let checked = ended_within(Command::new("docker").args(compose), WITHIN);
            assert!(checked.status.success(), "{checked:?}");
        }
        _ => skipped("docker", "the compose file", "there is no docker compose that could read it"),
    }
}
