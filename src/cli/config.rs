//! `config`: what a node's configuration says, and what is wrong with it.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;
use standin::config::{NodeConfig, as_toml, keys};
use standin_foundation::SecretKey;
use standin_ledger::Genesis;

use super::Failure;
use super::output::OutputArguments;

#[derive(Debug, Args)]
pub(super) struct ConfigArguments {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Check a configuration, its key, its certificate and its genesis.
    Check {
        /// The file.
        #[arg(short, long)]
        config: PathBuf,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Tell what a key means, what it takes, and what it is without being set; all keys without one.
    Explain {
        /// The key, such as `cluster.keep_alive_ms`.
        #[arg(conflicts_with = "markdown")]
        key: Option<String>,
        /// Print `docs/configuration.md`.
        #[arg(long, hide = true)]
        markdown: bool,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Show the configuration as it is understood, defaults included, and where each key is set: as TOML, which a node would read in the same folder.
    Show {
        /// The file.
        #[arg(short, long)]
        config: PathBuf,
        #[command(flatten)]
        output: OutputArguments,
    },
}

pub(super) fn config(arguments: &ConfigArguments) -> Result<(), Failure> {
    match &arguments.command {
        ConfigCommand::Check { config, output } => {
            let read = NodeConfig::read(config)?;
            let genesis = read.genesis()?;
            let key = SecretKey::read(&read.key_file).map_err(|error| Failure::new(78, error.to_string()))?;
            standin_stage::bridge::TlsIdentity::read(&read.certificate_file, &read.certificate_key_file)
                .map_err(|error| Failure::new(78, error.to_string()))?;
            let place = place_in(&genesis, &read, &key)?;
            for warning in genesis.warnings() {
                eprintln!("warning: {warning}");
            }
            let (path, chain, digest) = (config.display(), &genesis.chain, genesis.digest());
            let told = json!({ "chain": chain, "genesis": digest, "node": place, "warnings": genesis.warnings() });
            output.one(&told, |_| println!("{path}: sound; {place} of chain `{chain}`, genesis {digest}"));
        }
        ConfigCommand::Explain { markdown: true, .. } => print!("{}", keys::as_markdown()),
        ConfigCommand::Explain { key: None, output, .. } => output.all(keys::KEYS, |keys| {
            for key in keys {
                println!("{:<32} {}", key.name, key.about);
            }
        }),
        ConfigCommand::Explain { key: Some(name), output, .. } => {
            let unknown = |near: &str| Failure::new(4, format!("there is no key `{name}`; did you mean `{near}`?"));
            let key = keys::find(name).map_err(unknown)?;
            let default =
                key.default.map_or_else(|| "nothing: it must be set, or is not needed".to_owned(), str::to_owned);
            let variable = key.name.to_uppercase().replace('.', "__");
            output.one(key, |key| {
                println!(
                    "{}\n  {}\n  takes:      {}\n  without it: {default}\n  environment: STANDIN__{variable}",
                    key.name, key.about, key.takes
                );
            });
        }
        ConfigCommand::Show { config, output } => {
            let (read, settings) = NodeConfig::read_with_settings(config)?;
            let told = json!({ "settings": settings, "peers": read.peers });
            output.one(&told, |_| print!("{}", as_toml(&settings, &read.peers)));
        }
    }
    Ok(())
}

fn place_in(genesis: &Genesis, config: &NodeConfig, key: &SecretKey) -> Result<String, Failure> {
    let wrong = |what: String| Failure::new(78, what);
    if let Some(auth) = &config.auth {
        let grants = SecretKey::read(&auth.key_file).map_err(|error| wrong(error.to_string()))?;
        let is_named = genesis.auth == Some(grants.public());
        return match (is_named, auth.successor) {
            (true, _) => Ok("auth node".to_owned()),
            (false, true) => Ok("auth node, when the chain has named its key,".to_owned()),
            (false, false) => Err(wrong(format!("{}: the genesis names another auth key", auth.key_file.display()))),
        };
    }
    let of_genesis = genesis.seat_of_member(&key.public().node_id()).and_then(|seat| genesis.seats.get(seat.index()));
    match (of_genesis, &config.cluster_name) {
        (Some(seat), _) => Ok(format!("a member of cluster `{}`", seat.cluster)),
        (None, Some(cluster)) => Ok(format!("a member of cluster `{cluster}` that joined after the genesis")),
        (None, None) => {
            Err(wrong("the node's key is in no cluster of the genesis, and `node.cluster` is not set".to_owned()))
        }
    }
}
