//! A node that runs on a thread of its own.

use std::sync::Mutex;

use actix_rt::Arbiter;
use tokio::sync::{oneshot, watch};

use crate::node::{AuthNode, MemberNode, NodeError};

/// What runs there.
pub(super) trait Runs: 'static {
    /// Waits until it must not go on; says why.
    fn failed(&self) -> impl Future<Output = NodeError>;

    /// Stops it in order.
    fn shutdown(self) -> impl Future<Output = ()>;
}

impl Runs for MemberNode {
    fn failed(&self) -> impl Future<Output = NodeError> {
        Self::failed(self)
    }

    fn shutdown(self) -> impl Future<Output = ()> {
        Self::shutdown(self)
    }
}

impl Runs for AuthNode {
    fn failed(&self) -> impl Future<Output = NodeError> {
        Self::failed(self)
    }

    fn shutdown(self) -> impl Future<Output = ()> {
        Self::shutdown(self)
    }
}

/// How a node ended: nothing while it runs, then why, if it had to.
type Ended = Option<Option<String>>;

/// A node's thread. The node stops when this goes.
#[derive(Debug)]
pub(super) struct Running {
    stop: Mutex<Option<oneshot::Sender<()>>>,
    ended: watch::Receiver<Ended>,
}

impl Running {
    /// Starts a node there.
    pub(super) async fn start<H: Send + 'static, N: Runs>(
        start: impl FnOnce() -> Result<(H, N), NodeError> + Send + 'static,
    ) -> Result<(H, Self), NodeError> {
        let (stop, stopped) = oneshot::channel();
        let (end, ended) = watch::channel(None);
        let (sender, started) = oneshot::channel();
        let arbiter = Arbiter::new();
        let lives = arbiter.spawn_fn(move || {
            actix_rt::spawn(async move {
                match start() {
                    Ok((handle, node)) => {
                        // Whoever started it may have gone: then nobody has the other end of `stop`, either.
                        drop(sender.send(Ok(handle)));
                        let why = tokio::select! {
                            biased;
                            error = node.failed() => Some(error.to_string()),
                            _ = stopped => None,
                        };
                        node.shutdown().await;
                        end.send_replace(Some(why));
                    }
                    Err(error) => drop(sender.send(Err(error))),
                }
                Arbiter::current().stop();
            });
        });
        let gone = || NodeError::Fatal("the node's thread ended".to_owned());
        if !lives {
            return Err(gone());
        }
        let handle = started.await.map_err(|_| gone())??;
        Ok((handle, Self { stop: Mutex::new(Some(stop)), ended }))
    }

    /// Waits until the node has stopped.
    pub(super) async fn stopped(&self) -> Option<String> {
        let mut ended = self.ended.clone();
        ended.wait_for(Option::is_some).await.ok().and_then(|ended| ended.clone()).flatten()
    }

    /// Stops the node, and waits.
    pub(super) async fn stop(&self) {
        if let Ok(mut stop) = self.stop.lock() {
            drop(stop.take());
        }
        self.stopped().await;
    }
}
