//! The console's page in a browser: see `tests/browser/console.mjs`.

use std::path::Path;
use std::process::Command;

use crate::skips::skipped;

/// Why the browser tests cannot run here; nothing if they can.
fn lacking(folder: &Path, chromium: &str) -> Option<&'static str> {
    if Command::new("node").arg("--version").output().is_err() {
        return Some("Node.js is not installed");
    }
    if !Path::new(chromium).exists() {
        return Some("Chromium is not installed (Debian: the package chromium)");
    }
    let has = |package: &str| folder.join("node_modules").join(package).exists();
    let is_complete = has("playwright-core") && has("axe-core");
    (!is_complete).then_some("its packages are not there: run `npm install` in tests/browser")
}

#[test]
fn the_page_in_a_browser() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser");
    let chromium = std::env::var("CHROMIUM").unwrap_or_else(|_| "/usr/bin/chromium".to_owned());
    if let Some(why) = lacking(&folder, &chromium) {
        skipped("browser", "the console's page in a browser", why);
        return;
    }
    let _machine = crate::network::whole_machine();
    let script = folder.join("console.mjs");
    let output = Command::new("node")
        .arg(script)
        .arg(env!("CARGO_BIN_EXE_standin"))
        .env("CHROMIUM", chromium)
        .env_remove("STANDIN_NODE")
        .env_remove("STANDIN_KEY")
        .output()
        .unwrap();
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{complained}");
    println!("{said}");
}
