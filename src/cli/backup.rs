//! `backup`, `restore`, `snapshot`: the state of a chain as a file.

use std::fs::{self, File};
use std::io::{BufReader, IsTerminal, Write};
use std::path::PathBuf;

use clap::Args;
use futures_util::StreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use standin::config::{NodeConfig, read_genesis};
use standin_ledger::Genesis;
use standin_ledger::backup::{BackupError, Restored};

use super::Failure;
use super::chain_of;
use super::files::at;
use super::output::OutputArguments;
use super::read::ReadingArguments;

#[derive(Debug, Args)]
pub(super) struct BackupArguments {
    #[command(flatten)]
    node: ReadingArguments,
    /// The new file.
    #[arg(long)]
    out: PathBuf,
    /// The chain's genesis, from a source that you trust; without it the node is asked.
    #[arg(long)]
    genesis: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct RestoreArguments {
    /// The backup.
    file: PathBuf,
    /// Configuration of a node that has no data yet.
    #[arg(short, long, required_unless_present = "check")]
    config: Option<PathBuf>,
    /// Check the backup against this genesis, and restore nothing; ends with 3 if it does not hold.
    #[arg(long, value_name = "GENESIS", conflicts_with = "config")]
    check: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArguments,
}

fn failed(error: &BackupError) -> Failure {
    let code = if matches!(error, BackupError::Io(_)) { 1 } else { 3 };
    Failure::new(code, chain_of(error))
}

/// Takes a backup of a node's chain, and checks it before it is called one.
pub(super) async fn backup(arguments: BackupArguments) -> Result<(), Failure> {
    let BackupArguments { node, out, genesis } = arguments;
    if out.exists() {
        return Err(Failure::new(6, format!("{} exists: nothing is overwritten", out.display())));
    }
    let client = node.first()?;
    let genesis = match genesis {
        Some(path) => read_genesis(&path)?,
        None => client.genesis().await?,
    };
    let mut pieces = client.backup().await?;
    let part = out.with_extension("part");
    let begun = File::options().write(true).create_new(true).open(&part);
    let mut file = begun.map_err(|error| {
        Failure::new(6, format!("{}: {error}: remove what an earlier try has left", part.display()))
    })?;
    let received = async {
        let bar = progress("received");
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|error| Failure::new(69, format!("the node stopped sending: {error}")))?;
            file.write_all(&piece).map_err(at(&part))?;
            bar.inc(piece.len() as u64);
        }
        file.sync_all().map_err(at(&part))?;
        bar.finish_and_clear();
        let restored = check(&part, &genesis)?;
        fs::rename(&part, &out).map_err(at(&out))?;
        Ok(restored.snapshot.header.height())
    };
    let height = received.await.inspect_err(|_: &Failure| {
        // What did not come whole is of no use.
        let _ = fs::remove_file(&part);
    })?;
    println!("{}: the state at block {height}, genesis {}", out.display(), genesis.digest());
    Ok(())
}

pub(super) fn restore(arguments: &RestoreArguments) -> Result<(), Failure> {
    if let Some(genesis) = &arguments.check {
        let genesis = read_genesis(genesis)?;
        let restored = check(&arguments.file, &genesis)?;
        let (height, entries) = (restored.snapshot.header.height(), restored.snapshot.state.len());
        let digest = genesis.digest();
        arguments.output.one(&json!({ "height": height, "entries": entries, "genesis": digest }), |_| {
            println!("sound: the state at block {height}, {entries} entries, of the chain with genesis {digest}");
        });
        return Ok(());
    }
    let path = arguments.config.as_ref().ok_or_else(|| Failure::new(2, "--config or --check is needed"))?;
    let config = NodeConfig::read(path)?;
    let restored = check(&arguments.file, &config.genesis()?)?;
    standin::node::restore(&config, &restored).map_err(|error| match error {
        standin::node::RestoreFailed::NotEmpty(_) => Failure::new(6, error.to_string()),
        error => Failure::new(1, chain_of(&error)),
    })?;
    let height = restored.snapshot.header.height();
    arguments.output.one(&json!({ "height": height, "node": config.name }), |_| {
        println!("{} goes on from block {height}; its seat's log begins anew, as after a lost disk", config.name);
    });
    Ok(())
}

fn check(path: &std::path::Path, genesis: &Genesis) -> Result<Restored, Failure> {
    let file = File::open(path).map_err(|error| Failure::new(1, format!("{}: {error}", path.display())))?;
    let bar = progress("checked");
    let restored = Restored::read(&mut bar.wrap_read(BufReader::new(file)), genesis);
    bar.finish_and_clear();
    restored.map_err(|error| failed(&error))
}

/// On a terminal, how far it is.
fn progress(what: &'static str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{spinner} {bytes} {msg}, {bytes_per_sec}");
    ProgressBar::new_spinner().with_message(what).with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()))
}
