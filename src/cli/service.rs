//! The process as a service: what the service manager is told, and what signals mean.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use sd_notify::NotifyState;
use standin::config::NodeConfig;
use standin::node::actions::LevelControl;
use standin::node::{AuthHandle, Certificate, NodeHandle};
use standin_auth::actor::AskClusters;
use standin_stage::CallError;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Failure;

/// An auth node has heard by then whether its register can be reached.
const REGISTER_WITHIN: Duration = Duration::from_secs(10);
/// How often the service manager is told how the node stands.
const TOLD_EVERY: Duration = Duration::from_secs(1);

/// Whoever runs as a service.
pub(super) enum Served {
    Member(Box<NodeHandle>),
    Auth(Box<AuthHandle>),
}

impl Served {
    /// One line on how it stands; none if its actors do not answer.
    async fn stands(&self) -> Option<String> {
        match self {
            Self::Member(node) => {
                let status = node.status().await.ok()?;
                let role = if status.speaks { "holds the seat" } else { "follows" };
                let connected = status.peers.values().filter(|(_, up)| *up).count();
                let (cluster, height, view) = (&node.cluster, status.executed, status.status.view);
                Some(format!(
                    "cluster {cluster}: {role}; block {height}, view {view}, {connected} other seats connected"
                ))
            }
            // The register may stand in an etcd that is away: that does not come back by a new start of this process.
            Self::Auth(auth) => match auth.auth.ask(AskClusters, REGISTER_WITHIN).await {
                Ok(clusters) => Some(format!("register of {} clusters", clusters.len())),
                Err(CallError::Disconnected { .. }) => Some("the register cannot be reached".to_owned()),
                Err(_) => None,
            },
        }
    }
}

fn tell(states: &[NotifyState<'_>]) {
    // Without a service manager there is nobody to tell.
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager cannot be told");
    }
}

/// Tells the service manager that the node runs, how it stands from then on, and that its actors answer: a watchdog that is not told so
/// starts the process anew. A node runs when it serves; when the others are there is not in its hands.
pub(super) fn tell_of(served: Served) {
    tell(&[NotifyState::Ready]);
    let every = sd_notify::watchdog_enabled().map_or(TOLD_EVERY, |within| TOLD_EVERY.min(within / 3));
    actix::spawn(async move {
        let mut ticks = tokio::time::interval(every);
        loop {
            ticks.tick().await;
            match served.stands().await {
                Some(stands) => tell(&[NotifyState::Status(&stands), NotifyState::Watchdog]),
                None => tell(&[NotifyState::Status("its actors do not answer")]),
            }
        }
    });
}

/// Tells it that the node stops.
pub(super) fn tell_stopping() {
    tell(&[NotifyState::Stopping]);
}

/// A second signal ends the process at once: what is durable is durable.
pub(super) fn end_on_second_signal(mut terminate: Signal, mut interrupt: Signal) {
    actix::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::warn!("told a second time: the process ends at once");
        std::process::exit(130);
    });
}

/// Reads the configuration anew on SIGHUP: the log's level and the bridge's certificate take effect; whatever else has changed is named, and needs a new
/// start. `certificate` is there once the node runs.
pub(super) fn reload_on_hangup(
    path: &Path,
    config: &NodeConfig,
    control: impl LevelControl + 'static,
    certificate: Rc<OnceCell<Certificate>>,
) -> Result<(), Failure> {
    let (path, mut running): (PathBuf, _) = (path.to_owned(), config.clone());
    let mut hangup = signal(SignalKind::hangup())?;
    actix::spawn(async move {
        while hangup.recv().await.is_some() {
            let read = match NodeConfig::read(&path) {
                Ok(read) => read,
                Err(error) => {
                    tracing::error!(%error, "nothing is changed: the configuration cannot be read");
                    continue;
                }
            };
            match control.set(&read.log_level) {
                Ok(()) => tracing::info!(level = read.log_level, "the configuration was read anew"),
                Err(error) => tracing::error!(error, level = read.log_level, "the log's level is not changed"),
            }
            match certificate.get().map(|certificate| (certificate.replace(&read), certificate.days_left())) {
                Some((Ok(_), days)) => tracing::info!(days, "new connections use the certificate as it is on disk"),
                Some((Err(error), _)) => tracing::error!(%error, "the certificate is not changed"),
                None => {}
            }
            running.log_level.clone_from(&read.log_level);
            if format!("{running:?}") != format!("{read:?}") {
                tracing::warn!("the configuration has other changes: they take effect when the node is started anew");
            }
        }
    });
    Ok(())
}
