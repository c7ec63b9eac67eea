//! `run`: the node process.

use std::cell::OnceCell;
use std::future::Future;
use std::net::TcpListener;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use actix_web::dev::ServerHandle;
use actix_web::middleware::from_fn;
use actix_web::web::ServiceConfig;
use actix_web::{App, HttpServer};
use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use standin::api::RequestLimit;
use standin::config::{NodeConfig, NodeRole};
use standin::node::{AuthNode, Candidate, MemberNode, Misbehaviour};
use standin::{NodeError, api};
use standin_ledger::builtin::Builtin;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

use super::Failure;
use super::logging::Logging;
use super::service::{self, Served};

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
    /// Misbehave: `wrong-result`, `wrong-vote` or `stalled-publisher`. Only on a chain named `drill-…`.
    #[arg(long, hide = true, value_name = "KIND")]
    misbehave: Option<Misbehaviour>,
}

pub(super) async fn run(arguments: RunArguments) -> Result<(), Failure> {
    if arguments.die_with_parent {
        let signal = Some(rustix::process::Signal::KILL);
        rustix::process::set_parent_process_death_signal(signal).map_err(std::io::Error::from)?;
    }
    let config = NodeConfig::read(&arguments.config)?;
    let logging = Logging::start(&config)?;
    let certificate = Rc::new(OnceCell::new());
    service::reload_on_hangup(&arguments.config, &config, logging.control(), Rc::clone(&certificate))?;
    raise_file_limit();
    // The port is taken before the store is touched: a second start of the same node ends here.
    let listener = standin::node::listen(config.http_listen, "HTTP")?;
    match config.role {
        NodeRole::Member => {
            let started = || MemberNode::start_with(&config, Arc::new(Builtin), arguments.misbehave);
            let (node, listener) = match started() {
                Err(NodeError::Unseated { .. }) => match wait_for_place(&config, listener).await? {
                    Some(listener) => (started()?, listener),
                    None => return Ok(()),
                },
                started => (started?, listener),
            };
            let handle = node.handle().clone();
            let _ = certificate.set(handle.certificate.clone());
            let console = handle.console.clone();
            logging.show_at(&console, &config.name);
            let leaving = handle.clone();
            let (seat, cluster) = (handle.seat.0, handle.cluster.as_str());
            tracing::info!(name = config.name, seat, cluster, http = %config.http_listen, "node runs");
            service::tell_of(Served::Member(Box::new(handle.clone())));
            let http = serve(&config, listener, move || api::routes(handle.clone()))?;
            let failed = until_stopped(node.failed()).await?;
            if failed.is_none() {
                leaving.hand_over().await;
            }
            console.stop();
            http.stop().await;
            node.shutdown().await;
            failed
        }
        NodeRole::Auth => {
            let started = || AuthNode::start(&config);
            let (node, listener) = match started() {
                Err(NodeError::Unnamed { .. }) => match wait_for_place(&config, listener).await? {
                    Some(listener) => (started()?, listener),
                    None => return Ok(()),
                },
                started => (started?, listener),
            };
            let handle = node.handle().clone();
            let _ = certificate.set(handle.certificate.clone());
            let console = handle.console.clone();
            logging.show_at(&console, &config.name);
            tracing::info!(name = config.name, http = %config.http_listen, "auth node runs");
            service::tell_of(Served::Auth(Box::new(handle.clone())));
            let http = serve(&config, listener, move || api::auth_routes(handle.clone()))?;
            let failed = until_stopped(node.failed()).await?;
            console.stop();
            http.stop().await;
            node.shutdown().await;
            failed
        }
    }
    .map_or(Ok(()), |error| Err(error.into()))
}

/// Waits until the chain gives the node its place; gives the HTTP port back. None if the node is told to stop.
async fn wait_for_place(config: &NodeConfig, listener: TcpListener) -> Result<Option<TcpListener>, Failure> {
    let candidate = Candidate::start(config)?;
    let handle = candidate.handle().clone();
    tracing::warn!(name = config.name, "{}: waits for an order of the chain", handle.wanted);
    let http = serve(config, listener.try_clone()?, move || api::candidate_routes(handle.clone()))?;
    let given = stopped_or(candidate.given()).await?;
    http.stop().await;
    candidate.shutdown(config).await?;
    Ok(given.map(|()| listener))
}

/// Waits until the node fails, or is told to stop.
async fn until_stopped(failed: impl Future<Output = NodeError>) -> Result<Option<NodeError>, Failure> {
    let failed = stopped_or(failed).await?;
    tracing::info!("node stops");
    service::tell_stopping();
    service::end_on_second_signal(signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(failed)
}

/// What comes of it, unless the process is told to stop before.
async fn stopped_or<T>(result: impl Future<Output = T>) -> Result<Option<T>, Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        biased;
        result = result => Some(result),
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
    })
}

/// A running HTTP server.
struct Http {
    handle: ServerHandle,
    serving: JoinHandle<std::io::Result<()>>,
}

impl Http {
    async fn stop(self) {
        self.handle.stop(true).await;
        // The server's task has ended with the stop.
        drop(self.serving.await);
    }
}

fn serve<R: FnOnce(&mut ServiceConfig)>(
    config: &NodeConfig,
    listener: TcpListener,
    routes: impl Fn() -> R + Clone + Send + 'static,
) -> Result<Http, Failure> {
    let limit = RequestLimit::new(config.requests_per_second);
    let app = move || {
        let limit = limit.clone();
        App::new().wrap(from_fn(move |request, next| limit.clone().check(request, next))).configure(routes())
    };
    let server = HttpServer::new(app)
        .workers(1)
        .max_connections(HTTP_CONNECTIONS_MAX)
        .disable_signals()
        .shutdown_timeout(1)
        .listen(listener)?
        .run();
    Ok(Http { handle: server.handle(), serving: actix::spawn(server) })
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
