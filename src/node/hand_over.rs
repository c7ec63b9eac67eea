//! A node that stops gives its seat up first.

use std::time::{Duration, Instant};

use standin_cluster::actor::{Drain, MemberStatus};

use super::NodeHandle;

/// A seat is handed over within this time, or the node stops without.
const WITHIN: Duration = Duration::from_millis(500);
/// How often it is looked at.
const POLL: Duration = Duration::from_millis(5);

impl NodeHandle {
    /// Gives the seat up before the node goes, as long as somebody can take it: returns when another holds it, at once where the node holds none
    /// or is alone, and after 500 ms at the latest. From its beginning on the node is not ready, and takes no transactions.
    pub async fn hand_over(&self) {
        // Clients go elsewhere while this one still answers.
        self.modes.leave();
        let begun = Instant::now();
        let handed_over = tokio::time::timeout(WITHIN, async {
            let can = |status: MemberStatus| status.view.active && status.view.in_sync.len() > 1;
            if self.genesis.auth.is_none() || !self.cluster().await.is_ok_and(can) {
                return false;
            }
            if self.member.ask(Drain(true), WITHIN).await.is_err() {
                return false;
            }
            while self.cluster().await.is_ok_and(|status| status.view.active) {
                tokio::time::sleep(POLL).await;
            }
            true
        });
        let ms = || begun.elapsed().as_millis() as u64;
        match handed_over.await {
            Ok(true) => tracing::info!(ms = ms(), "the seat is handed over"),
            Ok(false) => {}
            Err(_) => {
                tracing::warn!(ms = ms(), "nobody has taken the seat over: the others will when the node is gone");
            }
        }
    }
}
