//! What comes from other seats: admitted by shares, and checked on the pool before the replica sees it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use standin_foundation::{NodeId, Seat};
use standin_ledger::snapshot::Manifest;
use standin_ledger::{Batch, ClientSignatures, Genesis, GrantTable};
use standin_stage::bridge::Router;
use standin_stage::{Address, CallError, Handle, Message, Throttle};

use super::Replica;
use super::peers::{Checked, CheckedBlock, PeerBatch, PeerBlocks, PeerChunk, PeerNote};
use super::pool::{Urgency, VerifyPool};
use super::serving::ANSWER_BYTES;
use crate::effect::Input;
use crate::messages::{BatchPayload, BlockTransfer, Body, Note, Signed, Transfer, ViewChange};
use crate::verify::{Verified, Verifier, VerifyError};

/// Messages of one seat that may wait at this node.
const WAITING_MAX: usize = 2_048;
/// Bytes of these.
const WAITING_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Names in an offer or in a request for batches.
const NAMES_MAX: usize = 256;

/// Checks what comes in before the replica sees it.
#[derive(Debug)]
pub struct Ingress {
    verifier: Verifier<GrantTable>,
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
                authority: genesis.grant_table(),
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
pub(super) fn weight(message: &Signed) -> usize {
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
    job: impl FnOnce(&Verifier<GrantTable>, &Address<Replica>, Share) -> Result<(), VerifyError> + Send + 'static,
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
pub(super) struct Share {
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
                tell(to, PeerChunk { from, height, index, chunk, share });
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
