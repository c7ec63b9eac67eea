//! Transactions that are handed in at nodes once, and never again, while something happens: each must get its outcome all the same.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use standin::client::Client;
use standin_foundation::Height;
use tokio::task::JoinHandle;

use super::super::inputs::Line;
use super::super::submit::unique_nonce;
use super::{Drill, Failure};

/// One comes every so many ms.
const EVERY: Duration = Duration::from_millis(2);
/// A node is given so long to tell the outcome: whoever waits as long does not ask again.
const OUTCOME_WAIT: Duration = Duration::from_secs(20);

/// What was handed in at a node, and whether it got an outcome.
type Asked = (Client, Vec<JoinHandle<bool>>);

/// Transactions that are handed in until it is asked what became of them.
pub(super) struct HandedIn {
    stops: Rc<Cell<bool>>,
    tasks: Vec<JoinHandle<Asked>>,
}

impl Drill {
    /// Hands transactions in at these nodes, from now on.
    pub(super) async fn hand_in(&self, nodes: &[usize]) -> Result<HandedIn, Failure> {
        let stops = Rc::new(Cell::new(false));
        let mut tasks = Vec::new();
        for node in nodes {
            let client = self.network.client(*node)?.clone();
            let (genesis, key) = (self.network.files().genesis.clone(), self.network.client_key()?);
            let (mut nonce, height, stops) = (unique_nonce(), client.status().await?.height, Rc::clone(&stops));
            tasks.push(actix_rt::spawn(async move {
                let (mut tick, mut asked) = (tokio::time::interval(EVERY), Vec::new());
                while !stops.get() {
                    tick.tick().await;
                    nonce = nonce.wrapping_add(1);
                    asked.extend(signed(&genesis, &key, nonce, height).map(|transaction| {
                        let client = client.clone();
                        actix_rt::spawn(async move {
                            let told = client.submit(&[transaction], OUTCOME_WAIT).await;
                            told.is_ok_and(|told| told.iter().all(|told| told.outcome.is_some()))
                        })
                    }));
                }
                (client, asked)
            }));
        }
        Ok(HandedIn { stops, tasks })
    }

    /// Hands in no more, and checks that all has got an outcome.
    pub(super) async fn all_told(&mut self, HandedIn { stops, tasks }: HandedIn) -> Result<(), Failure> {
        stops.set(true);
        let (mut count, mut untold) = (0, Vec::new());
        for task in tasks {
            let (client, asked) = task.await.map_err(|error| Failure::new(1, error.to_string()))?;
            count += asked.len();
            for told in asked {
                if !told.await.unwrap_or_default() {
                    untold.push(client.base().to_owned());
                }
            }
        }
        let detail = match untold.first() {
            None => format!("{count} of {count}"),
            Some(first) => {
                format!("{} of {count}, the first at {first}, were handed in and never heard of", untold.len())
            }
        };
        self.check(
            "whatever others were handed meanwhile has an outcome, without being asked again",
            untold.is_empty(),
            detail,
        );
        Ok(())
    }
}

fn signed(
    genesis: &standin_ledger::Genesis,
    key: &standin_foundation::SecretKey,
    nonce: u64,
    height: Height,
) -> Option<standin_ledger::Transaction> {
    let title = "demo".parse().ok()?;
    let line = Line::Put { title, key: format!("handed-{}", nonce % 64), value: nonce.to_string() };
    line.sign(genesis, key, nonce, height).ok()
}
