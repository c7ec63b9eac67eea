//! From the disk to a running member.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use standin_foundation::wire::WireError;
use standin_foundation::{Digest, Millis};
use standin_ledger::log::{Log, LogError, LogOptions};
use standin_ledger::seat_log::{FoundLog, LogPiece};
use standin_ledger::{Batch, SignedGrant};
use standin_stage::{Address, Alarm, Reports, Throttle};

use super::links::Links;
use super::log_writer::{self, LogWriter};
use super::{Look, MemberActor, MemberLog, Sink};
use crate::machine::{Describe, Found, Identity, Member};
use crate::messages::{Entry, NodeRecord};
use crate::{Config, Effect, Input};

/// Why a member cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A record that this version does not know.
    #[error("record {sequence} of the log is of no known kind: it was written by another version")]
    UnknownRecord {
        /// Its number.
        sequence: u64,
    },
    /// The log of another cluster's node.
    #[error(
        "{path}: the log is of cluster {found}, and the node is configured as one of {wanted}: a node that changes its cluster begins with \
         an empty data folder"
    )]
    OtherCluster {
        /// The log's folder.
        path: PathBuf,
        /// The cluster whose grants are in it.
        found: String,
        /// The node's.
        wanted: String,
    },
    /// A record that cannot be written.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// What a member is made of.
#[derive(Debug)]
pub struct MemberConfig {
    /// The node and its cluster.
    pub identity: Identity,
    /// The machine's numbers.
    pub config: Config,
    /// How the replica's records are read.
    pub describe: Describe,
    /// Where the log lies.
    pub folder: PathBuf,
    /// Size of a log segment, in bytes.
    pub segment_bytes: u64,
    /// The chain's genesis digest.
    pub chain: Digest,
}

/// An open log, before there is an actor.
#[derive(Debug)]
pub struct Opened {
    log: Log,
    member: Member,
    describe: Describe,
    fixed: bool,
    payloads: BTreeMap<Digest, Arc<Batch>>,
}

impl Opened {
    /// Opens the log, and reads what it holds.
    pub fn open(config: MemberConfig) -> Result<(Self, FoundLog), OpenError> {
        let options = LogOptions { segment_bytes: config.segment_bytes, chain: config.chain };
        let (log, recovered) = Log::open(&config.folder, options)?;
        if let Some((path, offset)) = &recovered.torn_at {
            tracing::warn!(path = %path.display(), offset, "a torn tail of the log was cut: what was in it never left");
        }
        let MemberConfig { identity, config, describe, folder, .. } = config;
        let fixed = identity.fixed;
        let mut records = Vec::with_capacity(recovered.records.len());
        let mut payloads = BTreeMap::new();
        for (sequence, bytes) in &recovered.records {
            let unknown = || OpenError::UnknownRecord { sequence: *sequence };
            let (record, payload) = log_writer::decode(bytes).ok_or_else(unknown)?;
            if let NodeRecord::Entry(entry) = &record
                && describe(&entry.record).is_some_and(|description| description.carries.is_some())
            {
                let batch = Batch::parse(payload).map_err(|_| unknown())?;
                payloads.insert(batch.digest(), Arc::new(batch));
            }
            records.push((*sequence, record));
        }
        let found = Found {
            records,
            next_sequence: log.next(),
            torn: recovered.torn_at.is_some(),
            // Any number that no log of this node had before: a deleted one cannot be asked.
            new_session: fastrand::u64(1..),
        };
        let cluster = identity.cluster.clone();
        let mut member = Member::open(identity, config, describe, found, Millis(0));
        if let Some(granted) = member.facts().grant.as_ref().filter(|granted| granted.grant.cluster != cluster) {
            let (found, wanted) = (granted.grant.cluster.to_string(), cluster.to_string());
            return Err(OpenError::OtherCluster { path: folder, found, wanted });
        }
        let carried = |entry: &Entry| describe(&entry.record).and_then(|description| description.carries);
        let piece = |entry: &Entry| LogPiece {
            record: entry.record.clone(),
            payload: carried(entry).and_then(|(digest, _)| payloads.get(&digest).cloned()),
        };
        let found = FoundLog { pieces: member.entries().map(piece).collect(), next: member.head().lsn + 1 };
        member.forget_contents();
        payloads.retain(|digest, _| member.carries(digest));
        Ok((Self { log, member, describe, fixed, payloads }, found))
    }

    /// The newest grant of the cluster that the node accepted.
    pub fn grant(&self) -> Option<SignedGrant> {
        self.member.facts().grant.clone()
    }

    /// Closes the log again, with the disk's name in it, durably; gives the name. Whoever starts on this disk later has the same.
    pub fn name_disk(mut self) -> Result<u64, OpenError> {
        for effect in self.member.step(Millis(0), Input::Tick) {
            if let Effect::Write { record, .. } = effect {
                self.log.append(&[&log_writer::encode(&record)?])?;
            }
        }
        self.log.sync()?;
        Ok(self.member.facts().disk)
    }

    /// The member's actor, and the replica's way to it. `sink` is told what happens to the log.
    pub fn start(
        self,
        address: Address<MemberActor>,
        links: Links,
        sink: Sink,
    ) -> Result<(MemberActor, MemberLog), OpenError> {
        let reports = Reports::default();
        let (sender, to) = (reports.clone(), address.clone());
        let log = LogWriter::start(self.log, move |report| {
            sender.push(report);
            // A full mailbox has messages with which the reports are looked at; a member that has ended wants none.
            let _ = to.tell(Look);
        })?;
        let from_replica = Reports::default();
        let queue = from_replica.clone();
        let actor = MemberActor {
            member: self.member,
            describe: self.describe,
            fixed: self.fixed,
            log,
            reports,
            from_replica,
            sink,
            links,
            activated: None,
            payloads: self.payloads,
            started: Instant::now(),
            alarm: Alarm::default(),
            suspected: None,
            took_over: None,
            refusals: Throttle::default(),
        };
        Ok((actor, MemberLog { queue, address }))
    }
}
