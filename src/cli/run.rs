//! `run`: the node process.

use std::path::PathBuf;

use actix_web::{App, HttpServer};
use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use standin::config::NodeConfig;
use standin::{Node, api};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::Failure;

/// HTTP connections that a node takes at one time.
const HTTP_CONNECTIONS_MAX: usize = 2_048;
/// Open files that all connections, the log and the store may need.
const FILES_MIN: u64 = 4_096;

#[derive(Debug, Args)]
pub(super) struct RunArguments {
    /// The node's configuration.
    #[arg(short, long)]
    config: PathBuf,
    /// End when the process that started this one ends.
    #[arg(long, hide = true)]
    die_with_parent: bool,
}

pub(super) async fn run(arguments: RunArguments) -> Result<(), Failure> {
    if arguments.die_with_parent {
        let signal = Some(rustix::process::Signal::KILL);
        rustix::process::set_parent_process_death_signal(signal).map_err(std::io::Error::from)?;
    }
    let config = NodeConfig::read(&arguments.config)?;
    start_logging(&config)?;
    raise_file_limit();
    // The port is taken before the store is touched: a second start of the same node ends here.
    let listener = standin::node::listen(config.http_listen, "HTTP")?;
    let node = Node::start(&config)?;
    let handle = node.handle().clone();
    let server = HttpServer::new(move || App::new().configure(api::routes(handle.clone())))
        .workers(1)
        .max_connections(HTTP_CONNECTIONS_MAX)
        .disable_signals()
        .shutdown_timeout(1)
        .listen(listener)?
        .run();
    let http = server.handle();
    let serving = actix::spawn(server);
    tracing::info!(name = config.name, seat = node.handle().seat.0, http = %config.http_listen, "node runs");
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let failed = tokio::select! {
        biased;
        error = node.failed() => Some(error),
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
    };
    tracing::info!("node stops");
    http.stop(true).await;
    // The server's task has ended with the stop.
    drop(serving.await);
    node.shutdown().await;
    match failed {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}

/// Connections share their limit with the log and the store: strangers must not use it up.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, current = limit.current, "the limit of open files cannot be raised");
    }
    if limit.maximum.is_some_and(|maximum| maximum < FILES_MIN) {
        tracing::warn!(limit = limit.maximum, needed = FILES_MIN, "few open files are allowed: raise the hard limit");
    }
}

fn start_logging(config: &NodeConfig) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(&config.log_level)
        .map_err(|error| Failure::new(78, format!("`log.level`: `{}`: {error}", config.log_level)))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    if config.log_json {
        builder.json().init();
    } else {
        builder.with_ansi(false).init();
    }
    Ok(())
}
