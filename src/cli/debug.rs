//! `debug bundle`: what somebody needs who is to find out what is wrong, in one file. There is no secret in it.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use standin::client::Client;
use standin::config::NodeConfig;
use standin_console::actor::unix_ms;
use standin_console::audit;
use standin_console::protocol::Role;

use super::files::at;
use super::output::json as pretty;
use super::{ClientArguments, Failure, chain_of};

/// What is asked of every node.
const PAGES: [&str; 9] = [
    "/livez",
    "/readyz",
    "/metrics",
    "/api/v1/status",
    "/api/v1/cluster",
    "/api/v1/members",
    "/api/v1/auth",
    "/api/v1/actions",
    "/api/v1/blocks/latest",
];
/// For how many minutes the link to the console can be opened that is made for this.
const LINK_MINUTES: u64 = 1;
/// How long its node may take for an answer.
const ASK_TIME: Duration = Duration::from_secs(10);
/// Entries of an audit log.
const ACTS: usize = 200;

#[derive(Debug, Args)]
pub(super) struct DebugArguments {
    #[command(subcommand)]
    command: DebugCommand,
}

#[derive(Debug, Subcommand)]
enum DebugCommand {
    /// Write down how nodes stand, for whoever is to find out what is wrong: their pages and metrics, and of nodes whose configuration is at
    /// hand that, too, with what people did there. No key and no token is in it.
    Bundle {
        #[command(flatten)]
        client: ClientArguments,
        /// Configurations of nodes on this host.
        #[arg(short, long)]
        config: Vec<PathBuf>,
        /// The file to write; it must not exist.
        #[arg(long)]
        out: PathBuf,
    },
}

pub(super) async fn debug(arguments: DebugArguments) -> Result<(), Failure> {
    let DebugCommand::Bundle { client, config, out } = arguments.command;
    // Before anybody is asked: nothing is overwritten.
    // And nobody else reads what nodes have logged.
    let mut file = std::fs::OpenOptions::new();
    let mut file = file.write(true).create_new(true).mode(0o600).open(&out).map_err(at(&out))?;
    let mut nodes = Map::new();
    for client in client.clients() {
        nodes.insert(client.base().to_owned(), pages_of(&client).await);
    }
    let mut configs = Map::new();
    for path in &config {
        configs.insert(path.display().to_string(), configured(path).await);
    }
    let (at_ms, version) = (unix_ms(), env!("CARGO_PKG_VERSION"));
    let bundle = json!({ "at_ms": at_ms, "version": version, "nodes": nodes, "configurations": configs });
    writeln!(file, "{}", pretty(&bundle)).map_err(at(&out))?;
    println!("{}: {} nodes, {} configurations", out.display(), nodes.len(), configs.len());
    Ok(())
}

async fn pages_of(client: &Client) -> Value {
    let mut pages = Map::new();
    for page in PAGES {
        let said = match client.text(page).await {
            // Members and auth nodes have different ones.
            Ok((404, _)) => continue,
            Ok((status, text)) => match serde_json::from_str::<Value>(&text) {
                Ok(value) => json!({ "status": status, "json": value }),
                Err(_) => json!({ "status": status, "text": text }),
            },
            Err(error) => json!({ "error": chain_of(&error) }),
        };
        pages.insert(page.to_owned(), said);
    }
    Value::Object(pages)
}

/// A configuration names files, and holds no secret. Whoever has it at hand may read the node's console: what it logged, and what happened.
async fn configured(path: &std::path::Path) -> Value {
    match NodeConfig::read_with_settings(path) {
        Err(error) => json!({ "error": chain_of(&error) }),
        Ok((config, settings)) => json!({
            "settings": settings,
            "peers": config.peers,
            "console": console_of(&config).await,
            "audit": match audit::newest(&config.data_dir, ACTS) {
                Ok(acts) => json!(acts),
                Err(error) => json!({ "error": chain_of(&error) }),
            },
        }),
    }
}

/// What the node's console holds of its log and of what happened; why not, where the node does not run.
async fn console_of(config: &NodeConfig) -> Value {
    let client = Client::new(&format!("http://{}", config.http_listen), ASK_TIME);
    // Before a link is made that nobody opens.
    if let Err(error) = client.text("/livez").await {
        return json!({ "error": chain_of(&error) });
    }
    let link = super::console::make(&config.data_dir, "debug bundle", Role::Viewer, LINK_MINUTES);
    match link {
        Err(error) => json!({ "error": chain_of(&error) }),
        Ok(link) => match client.console_streams(&link, &["events", "logs"]).await {
            Ok(streams) => Value::Object(streams),
            Err(error) => json!({ "error": chain_of(&error) }),
        },
    }
}
