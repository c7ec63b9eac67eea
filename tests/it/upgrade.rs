//! A live network goes from the version of the newest tag to this one, node by node, under load.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::network::{TestNetwork, data, ended_within, run, told};
use crate::skips::skipped;

/// A build of everything takes a third of this on two cores.
const BUILT_WITHIN: Duration = Duration::from_secs(20 * 60);
/// What the changelog says of a version that cannot read what one before has written.
const BREAK: &str = "of before are not read";

/// This project's folder.
fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").arg("-C").arg(project()).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The newest tag that this version comes from, and is not itself.
fn newest_tag() -> Result<String, &'static str> {
    git(&["rev-parse", "HEAD"]).ok_or("this is no working tree of git")?;
    let tag = git(&["describe", "--tags", "--abbrev=0"]).ok_or("there is no tag yet")?;
    match git(&["rev-parse", &format!("{tag}^{{commit}}")]) == git(&["rev-parse", "HEAD"]) {
        true => Err("the newest tag is this version"),
        false if breaks_formats() => {
            Err("the changelog says of this version that it does not read the formats of before")
        }
        false => Ok(tag),
    }
}

/// Whether what is not released yet breaks formats, by its own word.
fn breaks_formats() -> bool {
    let changelog = std::fs::read_to_string(project().join("CHANGELOG.md")).unwrap();
    let unreleased = changelog.split("\n## ").nth(1).unwrap_or_default();
    unreleased.contains(BREAK)
}

/// A second working tree, gone when dropped. What was compiled stays beside what this one compiles.
struct WorkTree(tempfile::TempDir);

impl WorkTree {
    fn at(tag: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tree");
        git(&["worktree", "add", "--detach", path.to_str().unwrap(), tag]).expect("a working tree of the tag");
        Self(folder)
    }

    /// Builds the program; gives where it is.
    fn build(&self) -> PathBuf {
        let target = project().join("target/upgrade");
        // By the toolchain that the tag names, and not by the one that runs this test.
        let mut build = Command::new("cargo");
        build.env_remove("RUSTUP_TOOLCHAIN").current_dir(self.0.path().join("tree"));
        build.args(["build", "--release", "--locked", "--bin", "standin", "--target-dir"]).arg(&target);
        let built = ended_within(&mut build, BUILT_WITHIN);
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        target.join("release/standin")
    }
}

impl Drop for WorkTree {
    fn drop(&mut self) {
        git(&["worktree", "remove", "--force", self.0.path().join("tree").to_str().unwrap()]);
    }
}

#[test]
fn a_live_network_is_upgraded_from_the_newest_tag_node_by_node() {
    let tag = match newest_tag() {
        Ok(tag) => tag,
        Err(why) => {
            skipped("tag", "the upgrade of a live network", &format!("{why}, so there is no version to upgrade from"));
            return;
        }
    };
    let tree = WorkTree::at(&tag);
    let before = tree.build();
    let mut network = TestNetwork::start_by(&before);
    // At the node after this one: it runs.
    let put = |network: &TestNetwork, seat: usize, number: usize| {
        let (node, key) = (network.url(seat % 4).to_owned(), network.key());
        let line = format!("{{\"put\":{{\"title\":\"test\",\"key\":\"k{number}\",\"value\":\"{number}\"}}}}");
        let output = run(&["submit", "--node", &node, "--key", key.to_str().unwrap(), &line]);
        assert_eq!(told(&output).0, 0, "{tag}: {}", told(&output).1);
    };
    put(&network, 0, 0);
    for seat in 1..=4 {
        network.stop(seat);
        network.wait_stopped();
        put(&network, seat, 2 * seat - 1);
        network.start_node(seat);
        network.wait_all_ready();
        put(&network, seat, 2 * seat);
    }
    for number in 0..=8 {
        let (node, key) = (network.url(number % 4).to_owned(), format!("k{number}"));
        let found = run(&["query", "--node", &node, "--title", "test", "--key", &key]);
        assert!(data(&found).contains(&number.to_string()), "{tag}: {key} at {node}: {}", data(&found));
    }
    network.stop(1);
    network.wait_stopped();
    let verified = run(&["verify", "-c", network.config(1).to_str().unwrap()]);
    assert_eq!(told(&verified).0, 0, "{tag}: {}", told(&verified).1);
}
