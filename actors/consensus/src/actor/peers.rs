//! What the replica is told of other seats, when it has been checked.

use std::sync::Arc;

use standin_foundation::{Digest, Height, NodeId, Seat};
use standin_ledger::certificate::CommitCertificate;
use standin_ledger::snapshot::Chunk;
use standin_ledger::{Batch, Proposal, Transaction};
use standin_stage::{Ctx, Handle, Lane, Message, Reply};

use super::Replica;
use super::ingress::{Share, weight};
use super::serving::{blocks_from, chunk_of, manifest_of};
use crate::effect::Input;
use crate::messages::Note;
use crate::verify::Verified;

/// A block whose certificate and payloads have been checked.
pub(super) type CheckedBlock = (Proposal, Verified<CommitCertificate>, Vec<Batch>);

/// Something that has been checked, for the machine.
#[derive(Debug)]
pub(super) struct Checked(pub(super) Input, pub(super) Share);

impl Message for Checked {
    type Reply = ();
    const LANE: Lane = Lane::Control;

    fn bytes(&self) -> usize {
        let bytes = match &self.0 {
            Input::MessageReceived(message) => weight(message),
            Input::ManifestReceived(_, manifest) => manifest.parts.len() * 64 + manifest.recent.len() * 40,
            _ => 0,
        };
        size_of_val(self) + bytes
    }
}

impl Handle<Checked> for Replica {
    fn handle(&mut self, Checked(input, _share): Checked, _: Reply<()>, ctx: &mut Ctx<Self>) {
        self.take_reports(ctx);
        if let Input::MessageReceived(message) = &input {
            self.note_heard(message.seat());
        }
        self.step(input, ctx);
    }
}

#[derive(Debug)]
pub(super) struct PeerBatch(pub(super) Seat, pub(super) Batch, pub(super) Share);

impl Message for PeerBatch {
    type Reply = ();

    fn bytes(&self) -> usize {
        self.1.payload().len()
    }
}

impl Handle<PeerBatch> for Replica {
    fn handle(&mut self, PeerBatch(from, batch, _share): PeerBatch, _: Reply<()>, ctx: &mut Ctx<Self>) {
        self.take_batch(from, batch, false, ctx);
    }
}

#[derive(Debug)]
pub(super) struct PeerChunk {
    pub(super) from: Seat,
    pub(super) height: Height,
    pub(super) index: u32,
    pub(super) chunk: Chunk,
    pub(super) share: Share,
}

impl Message for PeerChunk {
    type Reply = ();
    const LANE: Lane = Lane::Bulk;

    fn bytes(&self) -> usize {
        match &self.chunk {
            Chunk::Entries(entries) => entries.iter().map(|(key, value)| key.len() + value.len() + 64).sum(),
            Chunk::Recent(recent) => recent.iter().map(|(_, ids)| ids.len() * 32 + 32).sum(),
        }
    }
}

impl Handle<PeerChunk> for Replica {
    fn handle(&mut self, message: PeerChunk, _: Reply<()>, ctx: &mut Ctx<Self>) {
        let PeerChunk { from, height, index, chunk, share: _share } = message;
        self.step(Input::ChunkReceived { from, height, index, chunk }, ctx);
    }
}

#[derive(Debug)]
pub(super) struct PeerBlocks(pub(super) Seat, pub(super) Vec<CheckedBlock>, pub(super) Share);

impl Message for PeerBlocks {
    type Reply = ();
    const LANE: Lane = Lane::Bulk;

    fn bytes(&self) -> usize {
        self.1.iter().flat_map(|(_, _, batches)| batches).map(|batch| batch.payload().len()).sum()
    }
}

impl Handle<PeerBlocks> for Replica {
    fn handle(&mut self, PeerBlocks(from, blocks, _share): PeerBlocks, _: Reply<()>, ctx: &mut Ctx<Self>) {
        if !self.machine.awaits_blocks(from) {
            return;
        }
        let mut checked = Vec::with_capacity(blocks.len());
        for (proposal, certificate, batches) in blocks {
            if proposal.height > self.machine.status().committed {
                for batch in batches {
                    self.take_batch(from, batch, true, ctx);
                }
            }
            checked.push((proposal, certificate));
        }
        self.step(Input::BlocksReceived { from, blocks: checked }, ctx);
    }
}

/// What was asked of a seat came, and cannot be used.
#[derive(Debug)]
pub(super) struct Useless(pub(super) Seat);

impl Message for Useless {
    type Reply = ();
    const LANE: Lane = Lane::Control;
}

impl Handle<Useless> for Replica {
    fn handle(&mut self, Useless(from): Useless, _: Reply<()>, ctx: &mut Ctx<Self>) {
        self.step(Input::UnavailableReceived(from), ctx);
    }
}

#[derive(Debug)]
pub(super) struct PeerNote {
    pub(super) node: NodeId,
    pub(super) from: Seat,
    pub(super) note: Note,
    pub(super) _share: Share,
}

impl Message for PeerNote {
    type Reply = ();
    const LANE: Lane = Lane::Control;

    fn bytes(&self) -> usize {
        let names = match &self.note {
            Note::Offer(names) | Note::FetchBatches(names) => names.len(),
            _ => 0,
        };
        size_of_val(self) + names * size_of::<Digest>()
    }
}

impl Handle<PeerNote> for Replica {
    fn handle(&mut self, message: PeerNote, _: Reply<()>, ctx: &mut Ctx<Self>) {
        self.take_reports(ctx);
        let PeerNote { node, from, note, _share } = message;
        self.note_heard(from);
        match note {
            Note::Status(status) if self.may_say(node, from) => self.step(Input::StatusReceived(from, status), ctx),
            Note::Offer(digests) => self.step(Input::OfferReceived(from, digests), ctx),
            Note::Unavailable => self.step(Input::UnavailableReceived(from), ctx),
            Note::FetchBatches(digests) => self.serve_batches(node, &digests),
            Note::FetchBlocks { from: height } => self.serve(node, move |ledger| blocks_from(ledger, height)),
            Note::FetchManifest => self.serve(node, manifest_of),
            Note::FetchChunk { height, index } => self.serve(node, move |ledger| chunk_of(ledger, height, index)),
            // Not from whoever may say it, or taken care of before it came here.
            Note::Status(_)
            | Note::Stable(_)
            | Note::Grant(_)
            | Note::WantGrant(..)
            | Note::Epoch(_)
            | Note::FetchEpoch(_) => {}
        }
    }
}

impl Replica {
    /// Where the own seat stands is said by its holder to those who follow it.
    fn may_say(&self, node: NodeId, seat: Seat) -> bool {
        let directory = &self.config.directory;
        seat != directory.seat || (!self.speaks() && directory.book.holder(seat) == Some(node))
    }
}

/// Transactions of clients that came to another member of the cluster, checked.
#[derive(Debug)]
pub(super) struct PeerTransactions(pub(super) Vec<Transaction>, pub(super) Share);

impl Message for PeerTransactions {
    type Reply = ();

    fn bytes(&self) -> usize {
        self.0.iter().map(|transaction| transaction.bytes().len()).sum()
    }
}

impl Handle<PeerTransactions> for Replica {
    fn handle(&mut self, PeerTransactions(transactions, _share): PeerTransactions, _: Reply<()>, ctx: &mut Ctx<Self>) {
        self.take_forwarded(transactions, ctx);
    }
}

impl Replica {
    fn take_batch(&mut self, from: Seat, batch: Batch, needed: bool, ctx: &mut Ctx<Self>) {
        if !needed && !self.speaks() && !self.machine.wants_payload(&batch.digest()) {
            return;
        }
        let reference = batch.reference();
        self.payloads.entry(batch.digest()).or_insert_with(|| Arc::new(batch));
        self.step(Input::BatchReceived { from, batch: reference, needed }, ctx);
    }
}
