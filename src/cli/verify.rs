//! `verify`: checks a stopped node's log and store, offline.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde::Serialize;
use standin::config::NodeConfig;
use standin_foundation::Height;
use standin_ledger::builtin::Builtin;
use standin_ledger::log::{Log, LogOptions};
use standin_ledger::store::{Store, StoreOptions, StoredBlock};
use standin_ledger::{Batch, Chain, Genesis, GrantBook};
use standin_publisher::Topics;

use super::Failure;
use super::output::OutputArguments;

#[derive(Debug, Args)]
pub(super) struct VerifyArguments {
    /// The node's configuration.
    #[arg(short, long)]
    config: PathBuf,
    #[command(flatten)]
    output: OutputArguments,
}

/// What was found.
#[derive(Debug, Serialize)]
pub(super) struct Verified {
    /// The head.
    pub(super) height: Height,
    /// Blocks that were checked.
    pub(super) blocks: u64,
    /// Records in the log.
    pub(super) records: usize,
    /// Checkpoints whose proof was checked.
    pub(super) checkpoints: u64,
}

pub(super) fn verify(arguments: &VerifyArguments) -> Result<(), Failure> {
    let config = NodeConfig::read(&arguments.config)?;
    arguments.output.one(&verify_node(&config)?, |found| {
        let Verified { height, blocks, records, checkpoints } = found;
        println!("height {height}: {blocks} blocks, {checkpoints} checkpoints and {records} log records are sound");
    });
    Ok(())
}

/// Checks everything that can be checked without the other nodes: each certificate, each link, each payload and, from
/// genesis or from the snapshot that the store began with, each result by executing again.
pub(super) fn verify_node(config: &NodeConfig) -> Result<Verified, Failure> {
    let genesis = config.genesis()?;
    let unsound = |what: String| Failure::new(3, what);
    let options = LogOptions { segment_bytes: config.segment_bytes, chain: genesis.digest() };
    let (_, recovered) = Log::open(&config.data_dir.join("log"), options).map_err(|e| unsound(e.to_string()))?;
    let store_options = StoreOptions {
        path: config.data_dir.join("store"),
        chain: genesis.digest(),
        reserve_bytes: 0,
        index_transactions: config.index_transactions,
        keep_blocks: None,
    };
    let store = Store::open(store_options, &genesis.state()).map_err(|error| unsound(error.to_string()))?;
    let book = GrantBook::open(&config.data_dir.join("grants"), genesis.grant_table())
        .map_err(|error| unsound(error.to_string()))?;
    let mut check = Check { genesis: &genesis, seats: book, checkpoints: 0 };
    let blocks = check.blocks(&store).map_err(unsound)?;
    Ok(Verified { height: store.head(), blocks, records: recovered.records.len(), checkpoints: check.checkpoints })
}

struct Check<'a> {
    genesis: &'a Genesis,
    seats: GrantBook,
    checkpoints: u64,
}

impl Check<'_> {
    fn blocks(&mut self, store: &Store) -> Result<u64, String> {
        let first = store.first().map_err(|error| error.to_string())?;
        let mut chain = (first == Height(1))
            .then(|| Chain::new(self.genesis, Arc::new(Topics::new(Arc::new(self.genesis.clone()), Builtin))));
        let mut parent = (first == Height(1)).then(|| self.genesis.header().hash());
        let mut count = 0;
        for height in (first.0..=store.head().0).map(Height) {
            let block = store.block(height).map_err(|error| error.to_string())?;
            let block = block.ok_or_else(|| format!("block {height} is missing"))?;
            self.block(&block, height, parent).map_err(|what| format!("block {height}: {what}"))?;
            parent = Some(block.hash);
            if let Some(chain) = &mut chain {
                self.execute(chain, store, &block).map_err(|what| format!("block {height}: {what}"))?;
            }
            count += 1;
        }
        Ok(count)
    }

    fn block(
        &self,
        block: &StoredBlock,
        height: Height,
        parent: Option<standin_foundation::Digest>,
    ) -> Result<(), String> {
        if block.header.height() != height || block.header.hash() != block.hash {
            return Err("the header is not the one that was stored".to_owned());
        }
        if parent.is_some_and(|parent| parent != block.header.parent) {
            return Err("the parent's hash is another one".to_owned());
        }
        if block.certificate.digest != block.header.proposal.digest() || block.certificate.height != height {
            return Err("the certificate is for another proposal".to_owned());
        }
        block.certificate.verify(&self.seats).map_err(|error| format!("certificate: {error}"))
    }

    fn execute(&mut self, chain: &mut Chain, store: &Store, block: &StoredBlock) -> Result<(), String> {
        let batches: Result<Vec<_>, _> =
            block.payloads.iter().map(|payload| Batch::parse(payload.clone()).map(Arc::new)).collect();
        let batches = batches.map_err(|error| error.to_string())?;
        let executed = chain.execute(block.header.proposal.clone(), &batches).map_err(|error| error.to_string())?;
        if executed.hash != block.hash || executed.receipts != block.receipts {
            return Err("execution gives another result than the one that was stored".to_owned());
        }
        if executed.checkpoint.is_some() {
            self.seats.begin(chain.epoch_tables());
        }
        let Some(result) = executed.checkpoint else { return Ok(()) };
        let stored = store.checkpoint_covering(result.height).map_err(|error| error.to_string())?;
        let Some(stored) = stored.filter(|stored| stored.result.height == result.height) else { return Ok(()) };
        if stored.result != result {
            return Err("the checkpoint's result is another one".to_owned());
        }
        if let Some(certificate) = stored.certificate {
            certificate.verify(&self.seats).map_err(|error| format!("checkpoint certificate: {error}"))?;
            self.checkpoints += 1;
        }
        Ok(())
    }
}
