//! What comes from other seats: checked on the pool, then told to the replica; and what other seats ask for.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use standin_foundation::{Digest, Height, NodeId, Seat};
use standin_ledger::certificate::{CheckpointCertificate, CommitCertificate, SeatTable};
use standin_ledger::snapshot::{Chunk, Manifest};
use standin_ledger::{Batch, ClientSignatures, Genesis, Proposal};
use standin_stage::bridge::Router;
use standin_stage::{Address, CallError, Ctx, Handle, Lane, Message, Reply, Throttle};

use super::executor::Ledger;
use super::pool::{Urgency, VerifyPool};
use super::{Replica, Status};
use crate::effect::Input;
use crate::messages::{BatchPayload, BlockTransfer, Body, Note, Signed, Transfer, ViewChange};
use crate::verify::{Verified, Verifier, VerifyError};

/// Blocks and bytes in one answer.
const BLOCKS_PER_ANSWER: u64 = 64;
const ANSWER_BYTES: usize = 1024 * 1024;
/// Messages of one seat that may wait at this node.
const WAITING_MAX: usize = 2_048;
/// Bytes of these.
const WAITING_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Answers from chain and store to one seat that may be under way.
const SERVED_PER_SEAT_MAX: usize = 4;
/// Names in an offer or in a request for batches.
const NAMES_MAX: usize = 256;

/// Checks what comes in before the replica sees it.
#[derive(Debug)]
pub struct Ingress {
    verifier: Verifier<SeatTable>,
    signatures: ClientSignatures,
    seats: std::collections::BTreeMap<NodeId, Seat>,
    waiting: Vec<Waiting>,
    pool: VerifyPool,
}

/// What one seat's messages cause.
#[derive(Debug, Default)]
struct Waiting {
    count: AtomicUsize,
    bytes: AtomicUsize,
    warnings: Throttle,
}

impl Ingress {
    /// Checks for a chain with this genesis.
    pub fn new(genesis: &Genesis, pool: VerifyPool) -> Self {
        let seats = genesis.seats.iter().enumerate();
        let seats = seats.map(|(index, seat)| (seat.holder.node_id(), Seat(index as u16))).collect();
        Self {
            verifier: Verifier {
                authority: genesis.seat_table(),
                epoch: standin_foundation::Epoch(0),
                window: genesis.parameters.window,
            },
            signatures: genesis.parameters.client_signatures,
            seats,
            waiting: genesis.seats.iter().map(|_| Waiting::default()).collect(),
            pool,
        }
    }

    /// Checks the clients' signatures of a batch.
    pub fn check_batch(&self, batch: &Batch) -> Result<(), VerifyError> {
        match self.signatures {
            ClientSignatures::None => Ok(()),
            ClientSignatures::Required => Ok(batch.verify_signatures(self.verifier.authority.chain())?),
        }
    }

    fn seat_of(&self, node: NodeId) -> Result<Seat, CallError> {
        self.seats.get(&node).copied().ok_or_else(|| CallError::Refused("the sender holds no seat".to_owned()))
    }
}

/// Routes what other seats say through the pool to the replica.
pub fn routes(router: Router, ingress: &Arc<Ingress>, replica: &Address<Replica>) -> Router {
    let (signed_ingress, signed_to) = (Arc::clone(ingress), replica.clone());
    let (note_ingress, note_to) = (Arc::clone(ingress), replica.clone());
    let (batch_ingress, batch_to) = (Arc::clone(ingress), replica.clone());
    let (transfer_ingress, transfer_to) = (Arc::clone(ingress), replica.clone());
    router
        .tell::<Signed>(move |node, message| {
            let from = signed_ingress.seat_of(node)?;
            let cost = (Urgency::Votes, weight(&message));
            check(&signed_ingress, &signed_to, cost, from, move |verifier, to, share| {
                let message = verifier.message(from, message)?;
                tell(to, Checked(Input::MessageReceived(message), share));
                Ok(())
            })
        })
        .tell::<Note>(move |node, note| {
            let from = note_ingress.seat_of(node)?;
            match note {
                Note::Stable(certificate) => {
                    check(&note_ingress, &note_to, (Urgency::Votes, 0), from, move |verifier, to, share| {
                        let certificate = verifier.checkpoint(certificate)?;
                        tell(to, Checked(Input::StableReceived(certificate), share));
                        Ok(())
                    })
                }
                Note::Offer(names) | Note::FetchBatches(names) if names.len() > NAMES_MAX => {
                    Err(CallError::TooLarge { bytes: names.len(), limit: NAMES_MAX })
                }
                note => note_to.tell(PeerNote(from, note, note_ingress.share(from, 0)?)),
            }
        })
        .tell::<BatchPayload>(move |node, BatchPayload(payload)| {
            let from = batch_ingress.seat_of(node)?;
            let ingress = Arc::clone(&batch_ingress);
            let cost = (Urgency::Payloads, payload.len());
            check(&batch_ingress, &batch_to, cost, from, move |_, to, share| {
                let batch = Batch::parse(payload)?;
                ingress.check_batch(&batch)?;
                tell(to, PeerBatch(from, batch, share));
                Ok(())
            })
        })
        .tell::<Transfer>(move |node, transfer| {
            let from = transfer_ingress.seat_of(node)?;
            let ingress = Arc::clone(&transfer_ingress);
            let cost = (Urgency::Payloads, ANSWER_BYTES);
            check(&transfer_ingress, &transfer_to, cost, from, move |_, to, share| {
                ingress.check_transfer(from, transfer, to, share)
            })
        })
}

/// Bytes of a binding message, about.
fn weight(message: &Signed) -> usize {
    let prepared = |body: &ViewChange| body.prepared.iter().map(|p| 512 + p.proposal.batches.len() * 128).sum();
    match &message.body {
        Body::PrePrepare { proposal, .. } => proposal.batches.len() * 128,
        Body::ViewChange(body) => prepared(body),
        Body::NewView(body) => body.view_changes.iter().map(weight).sum(),
        _ => 0,
    }
}

/// A full mailbox is counted by its probe; the status of both sides brings the message back.
fn tell<M: Message>(to: &Address<Replica>, message: M)
where
    Replica: Handle<M>,
{
    drop(to.tell(message));
}

/// Hands a check to the pool. Its share goes with what comes of it, until the replica has handled that.
fn check(
    ingress: &Arc<Ingress>,
    to: &Address<Replica>,
    (urgency, bytes): (Urgency, usize),
    from: Seat,
    job: impl FnOnce(&Verifier<SeatTable>, &Address<Replica>, Share) -> Result<(), VerifyError> + Send + 'static,
) -> Result<(), CallError> {
    let share = ingress.share(from, bytes)?;
    let (shared, to) = (Arc::clone(ingress), to.clone());
    let run = move || {
        if let Err(error) = job(&shared.verifier, &to, share)
            && let Some(suppressed) = shared.seat(from).and_then(|seat| seat.warnings.pass())
        {
            tracing::warn!(seat = from.0, %error, suppressed, "message refused");
        }
    };
    ingress.pool.run(urgency, run).map_err(|_| CallError::Overloaded { queued: 0, limit: 0 })
}

/// A part of what one seat may have waiting at this node, in the pool and in the replica's mailbox; given back when dropped.
#[derive(Debug)]
struct Share {
    ingress: Arc<Ingress>,
    seat: Seat,
    bytes: usize,
}

impl Drop for Share {
    fn drop(&mut self) {
        if let Some(waiting) = self.ingress.seat(self.seat) {
            waiting.count.fetch_sub(1, Ordering::AcqRel);
            waiting.bytes.fetch_sub(self.bytes, Ordering::AcqRel);
        }
    }
}

impl Ingress {
    fn seat(&self, seat: Seat) -> Option<&Waiting> {
        self.waiting.get(seat.index())
    }

    fn share(self: &Arc<Self>, seat: Seat, bytes: usize) -> Result<Share, CallError> {
        let waiting = self.seat(seat).ok_or(CallError::Stopped)?;
        let count = waiting.count.fetch_add(1, Ordering::AcqRel);
        let before = waiting.bytes.fetch_add(bytes, Ordering::AcqRel);
        let share = Share { ingress: Arc::clone(self), seat, bytes };
        // One message alone is always taken.
        match count >= WAITING_MAX || (count > 0 && before + bytes > WAITING_BYTES_MAX) {
            true => Err(CallError::Overloaded { queued: count, limit: WAITING_MAX }),
            false => Ok(share),
        }
    }
}

impl Ingress {
    fn check_transfer(
        &self,
        from: Seat,
        transfer: Transfer,
        to: &Address<Replica>,
        share: Share,
    ) -> Result<(), VerifyError> {
        match transfer {
            Transfer::Blocks(blocks) => {
                let blocks: Result<Vec<_>, _> = blocks.into_iter().map(|block| self.check_block(block)).collect();
                tell(to, PeerBlocks(from, blocks?, share));
            }
            Transfer::Manifest(manifest) => {
                let manifest: Verified<Manifest> = self.verifier.manifest(*manifest)?;
                tell(to, Checked(Input::ManifestReceived(from, manifest), share));
            }
            Transfer::Chunk { height, index, chunk } => {
                tell(to, PeerChunk { from, height, index, chunk, _share: share });
            }
        }
        Ok(())
    }

    fn check_block(&self, block: BlockTransfer) -> Result<CheckedBlock, VerifyError> {
        let BlockTransfer { proposal, certificate, payloads } = block;
        let certificate = self.verifier.commit(proposal.height, proposal.digest(), certificate)?;
        let batches: Result<Vec<_>, _> = payloads.into_iter().map(Batch::parse).collect();
        let batches = batches?;
        if batches.iter().map(Batch::reference).ne(proposal.batches.iter().copied()) {
            return Err(VerifyError::Inconsistent("a block's payloads are not those that it names"));
        }
        Ok((proposal, certificate, batches))
    }
}

type CheckedBlock = (Proposal, Verified<CommitCertificate>, Vec<Batch>);

/// Something that has been checked, for the machine.
#[derive(Debug)]
struct Checked(Input, Share);

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
        self.step(input, ctx);
    }
}

#[derive(Debug)]
struct PeerBatch(Seat, Batch, Share);

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
struct PeerChunk {
    from: Seat,
    height: Height,
    index: u32,
    chunk: Chunk,
    _share: Share,
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
        let PeerChunk { from, height, index, chunk, _share } = message;
        self.step(Input::ChunkReceived { from, height, index, chunk }, ctx);
    }
}

#[derive(Debug)]
struct PeerBlocks(Seat, Vec<CheckedBlock>, Share);

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

#[derive(Debug)]
struct PeerNote(Seat, Note, Share);

impl Message for PeerNote {
    type Reply = ();
    const LANE: Lane = Lane::Control;

    fn bytes(&self) -> usize {
        let names = match &self.1 {
            Note::Offer(names) | Note::FetchBatches(names) => names.len(),
            _ => 0,
        };
        size_of_val(self) + names * size_of::<Digest>()
    }
}

impl Handle<PeerNote> for Replica {
    fn handle(&mut self, PeerNote(from, note, _share): PeerNote, _: Reply<()>, ctx: &mut Ctx<Self>) {
        self.take_reports(ctx);
        match note {
            Note::Status(status) => self.take_status(from, status, ctx),
            Note::Offer(digests) => self.step(Input::OfferReceived(from, digests), ctx),
            Note::Unavailable => self.step(Input::UnavailableReceived(from), ctx),
            Note::FetchBatches(digests) => self.serve_batches(from, &digests),
            Note::FetchBlocks { from: height } => self.serve(from, move |ledger| blocks_from(ledger, height)),
            Note::FetchManifest => self.serve(from, manifest_of),
            Note::FetchChunk { height, index } => self.serve(from, move |ledger| chunk_of(ledger, height, index)),
            // Checked on the pool before it came here.
            Note::Stable(CheckpointCertificate { .. }) => {}
        }
    }
}

impl Replica {
    fn take_status(&mut self, from: Seat, status: Status, ctx: &mut Ctx<Self>) {
        self.step(Input::StatusReceived(from, status), ctx);
    }

    fn take_batch(&mut self, from: Seat, batch: Batch, needed: bool, ctx: &mut Ctx<Self>) {
        let reference = batch.reference();
        self.payloads.entry(batch.digest()).or_insert_with(|| Arc::new(batch));
        self.step(Input::BatchReceived { from, batch: reference, needed }, ctx);
    }

    fn serve_batches(&self, to: Seat, digests: &[Digest]) {
        let Some(remote) = self.config.remotes.get(&to) else { return };
        let wanted: BTreeSet<_> = digests.iter().collect();
        for batch in wanted.into_iter().filter_map(|digest| self.payloads.get(digest)) {
            // The rest would find no room either: it is asked for again.
            if remote.tell(&BatchPayload(batch.payload().clone())).is_err() {
                return;
            }
        }
    }

    /// Answers from chain and store, on their thread, one question of a seat at a time.
    fn serve(&mut self, to: Seat, answer: impl FnOnce(&Ledger) -> Option<Transfer> + Send + 'static) {
        let Some(remote) = self.config.remotes.get(&to).cloned() else { return };
        let busy = Arc::clone(self.serving.entry(to).or_default());
        if busy.fetch_add(1, Ordering::AcqRel) >= SERVED_PER_SEAT_MAX {
            busy.fetch_sub(1, Ordering::AcqRel);
            return;
        }
        let undone = Arc::clone(&busy);
        let taken = self.executor.reader().read(move |ledger| {
            busy.fetch_sub(1, Ordering::AcqRel);
            let sent = match answer(ledger) {
                Some(transfer) => remote.tell(&transfer),
                None => remote.tell(&Note::Unavailable),
            };
            if let Err(error) = sent {
                tracing::debug!(seat = to.0, %error, "answer not sent");
            }
        });
        if !taken {
            undone.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

fn blocks_from(ledger: &Ledger, from: Height) -> Option<Transfer> {
    let mut blocks = Vec::new();
    let mut bytes = 0;
    for height in (from.0..from.0.saturating_add(BLOCKS_PER_ANSWER)).map(Height) {
        let Some(block) = ledger.store.block(height).ok().flatten() else { break };
        bytes += block.payloads.iter().map(bytes::Bytes::len).sum::<usize>();
        if bytes > ANSWER_BYTES && !blocks.is_empty() {
            break;
        }
        let (proposal, certificate) = (block.header.proposal, block.certificate);
        blocks.push(BlockTransfer { proposal, certificate, payloads: block.payloads });
    }
    (!blocks.is_empty()).then_some(Transfer::Blocks(blocks))
}

fn manifest_of(ledger: &Ledger) -> Option<Transfer> {
    ledger.served.manifest().map(|manifest| Transfer::Manifest(Box::new(manifest)))
}

fn chunk_of(ledger: &Ledger, height: Height, index: u32) -> Option<Transfer> {
    ledger.served.chunk(height, index as usize).map(|chunk| Transfer::Chunk { height, index, chunk })
}
