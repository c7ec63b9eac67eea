//! What proofs are checked against.

use std::path::PathBuf;

use clap::Args;
use standin::client::{Client, ClientError};
use standin::config::read_genesis;
use standin_ledger::Genesis;

use super::Failure;

/// What proofs are checked against.
#[derive(Debug, Args)]
pub(super) struct TrustArguments {
    /// The chain's genesis, from a source that you trust; without it the nodes are asked, and must agree.
    #[arg(long)]
    genesis: Option<PathBuf>,
}

impl TrustArguments {
    /// The genesis from the file, or as all nodes that can be reached have it.
    pub(super) async fn genesis(&self, clients: &[Client]) -> Result<Genesis, Failure> {
        if let Some(path) = &self.genesis {
            return Ok(read_genesis(path)?);
        }
        let (mut agreed, mut unreachable) = (None::<Genesis>, None);
        for client in clients {
            let genesis = match client.genesis().await {
                Ok(genesis) => genesis,
                Err(error @ (ClientError::Unreachable { .. } | ClientError::Busy(_))) => {
                    unreachable = Some(error);
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            if agreed.as_ref().is_some_and(|agreed| agreed.digest() != genesis.digest()) {
                return Err(Failure::new(3, format!("{} has another genesis than the node before it", client.base())));
            }
            agreed = Some(genesis);
        }
        let agreed = match (agreed, unreachable) {
            (Some(agreed), _) => agreed,
            (None, Some(error)) => return Err(error.into()),
            (None, None) => return Err(Failure::new(2, "--node needs an address")),
        };
        eprintln!("checked against genesis {} as the nodes have it; --genesis FILE takes yours", agreed.digest());
        Ok(agreed)
    }
}
