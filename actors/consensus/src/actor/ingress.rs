//! What comes from other seats: admitted by shares, and checked on the pool before the replica sees it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use standin_foundation::limits::SEATS_MAX;
use standin_foundation::{Epoch, NodeId, Seat, Term};
use standin_ledger::error::LedgerError;
use standin_ledger::grant_book::EpochError;
use standin_ledger::snapshot::Manifest;
use standin_ledger::{Batch, EpochProof, Genesis, GrantBook, SeatVote, SignedGrant, Transaction};
use standin_stage::bridge::Router;
use standin_stage::{Address, CallError, Handle, Message, Throttle};

use super::Replica;
use super::directory::Directory;
use super::peers::{Checked, CheckedBlock, PeerBatch, PeerBlocks, PeerChunk, PeerNote, PeerTransactions, Useless};
use super::pool::{Urgency, VerifyPool};
use super::reports::EpochKnown;
use super::serving::ANSWER_BYTES;
use super::signatures::SignatureCheck;
use crate::effect::Input;
use crate::messages::{BatchPayload, BlockTransfer, Body, Forward, Note, Signed, Transfer, ViewChange};
use crate::verify::{Verified, Verifier, VerifyError};

/// Messages of one seat that may wait at this node.
const WAITING_MAX: usize = 2_048;
/// Bytes of these.
const WAITING_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Names in an offer or in a request for batches.
const NAMES_MAX: usize = 256;
/// Messages that wait for a grant.
const PARKED_MAX: usize = 256;
/// Bytes of these, about.
const PARKED_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Takes a grant from wherever: checks it, and tells those whom it concerns. It must not block.
pub type GrantSink = Arc<dyn Fn(SignedGrant) + Send + Sync>;

/// Checks what comes in before the replica sees it.
#[derive(Debug)]
pub struct Ingress {
    verifier: Verifier<Arc<GrantBook>>,
    signatures: SignatureCheck,
    directory: Directory,
    waiting: Vec<Waiting>,
    pool: VerifyPool,
    parked: Mutex<VecDeque<(NodeId, Signed)>>,
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
    pub fn new(genesis: &Genesis, directory: Directory, pool: VerifyPool) -> Self {
        Self {
            verifier: Verifier { authority: Arc::clone(&directory.book), window: genesis.parameters.window },
            signatures: SignatureCheck::new(genesis),
            directory,
            waiting: (0..SEATS_MAX).map(|_| Waiting::default()).collect(),
            pool,
            parked: Mutex::default(),
        }
    }

    /// The check of clients' signatures.
    pub fn signatures(&self) -> &SignatureCheck {
        &self.signatures
    }

    fn seat_of(&self, node: NodeId) -> Result<Seat, CallError> {
        self.directory.seat_of(&node).ok_or_else(|| CallError::Refused("the sender holds no seat".to_owned()))
    }

    /// A grant is known that was not: what waited for one is looked at again.
    pub fn unpark(self: &Arc<Self>, replica: &Address<Replica>) {
        let parked = self.parked.lock().map(|mut parked| std::mem::take(&mut *parked)).unwrap_or_default();
        for (node, message) in parked {
            // What finds no room is sent again by its sender.
            let _ = self.take_signed(node, message, replica);
        }
    }

    fn park(&self, node: NodeId, message: Signed) {
        let Ok(mut parked) = self.parked.lock() else { return };
        let bytes: usize = parked.iter().map(|(_, message)| weight(message)).sum();
        if parked.len() < PARKED_MAX && bytes + weight(&message) <= PARKED_BYTES_MAX {
            parked.push_back((node, message));
        }
    }

    fn take_signed(
        self: &Arc<Self>,
        node: NodeId,
        message: Signed,
        replica: &Address<Replica>,
    ) -> Result<(), CallError> {
        let from = self.seat_of(node)?;
        if from == self.directory.seat {
            // What the seat says is in its log; another member's word for it is not counted.
            return Err(CallError::Refused("a member of the own cluster speaks through the log".to_owned()));
        }
        let SeatVote { seat, term, .. } = message.vote;
        let lacking = match self.directory.book.epoch() {
            known if known < message.epoch => Some(Note::FetchEpoch(known.next())),
            _ => self.directory.book.lacks(seat, term).then_some(Note::WantGrant(seat, term)),
        };
        if let Some(question) = lacking {
            self.park(node, message);
            self.tell(node, &question);
            return Ok(());
        }
        if seat == from && !self.directory.book.may_speak(&node, message.epoch, seat, term) {
            // The vote may be genuine; where it stands in the seat's log is not signed, and only the holder's word for that counts.
            return Err(CallError::Refused("only the node that holds a seat speaks for it".to_owned()));
        }
        let cost = (Urgency::Votes, weight(&message));
        check(self, replica, cost, (node, from), move |ingress, to, share| {
            let message = ingress.verifier.message(from, message)?;
            tell(to, Checked(Input::MessageReceived(message), share));
            Ok(())
        })
    }

    fn tell(&self, node: NodeId, note: &Note) {
        if let Some(Err(error)) = self.directory.node(&node).map(|remote| remote.tell(note)) {
            tracing::debug!(peer = %node.short(), %error, "note not sent");
        }
    }

    /// What could not be taken for want of a grant, here or there, is no fault: the grant goes where it is missing.
    fn refused(&self, (node, from): (NodeId, Seat), error: &VerifyError) {
        match error {
            VerifyError::Certificate(LedgerError::UnknownGrant { seat, term }) => {
                self.tell(node, &Note::WantGrant(*seat, *term));
            }
            VerifyError::Certificate(LedgerError::UnknownEpoch(_)) => {
                self.tell(node, &Note::FetchEpoch(self.directory.book.epoch().next()));
            }
            VerifyError::OldTerm { seat, .. } => {
                if let Some(newest) = self.directory.book.newest(*seat) {
                    self.tell(node, &Note::Grant(Box::new(newest)));
                }
            }
            error => {
                if let Some(suppressed) = self.seat(from).and_then(|seat| seat.warnings.pass()) {
                    tracing::warn!(seat = from.0, %error, suppressed, "message refused");
                }
            }
        }
    }

    fn show_epoch(&self, node: NodeId, epoch: Epoch) {
        if let Some(proof) = self.directory.book.epoch_proof(epoch) {
            self.tell(node, &Note::Epoch(Box::new(proof)));
        }
    }

    /// Checks the proof of an epoch, and with it the certificate of its boundary.
    fn take_epoch(&self, proof: EpochProof, to: &Address<Replica>, share: Share) -> Result<(), VerifyError> {
        let (epoch, certificate) = (proof.epoch(), proof.certificate().clone());
        match self.directory.book.note_epoch(proof) {
            Ok(true) => drop(to.tell(EpochKnown(epoch))),
            Ok(false) => {}
            Err(EpochError::Unproven(error)) => return Err(error.into()),
            Err(error) => tracing::error!(%error, "epoch not taken in"),
        }
        let certificate = self.verifier.checkpoint(certificate)?;
        tell(to, Checked(Input::StableReceived(certificate), share));
        Ok(())
    }

    fn show_grant(&self, node: NodeId, seat: Seat, term: Term) {
        if let Some(grant) = self.directory.book.grant(seat, term) {
            self.tell(node, &Note::Grant(Box::new(grant)));
        }
    }
}

/// Routes what other nodes say through the pool to the replica, and the grants in it to `grants`.
pub fn routes(router: Router, ingress: &Arc<Ingress>, replica: &Address<Replica>, grants: GrantSink) -> Router {
    let (signed_ingress, signed_to) = (Arc::clone(ingress), replica.clone());
    let (note_ingress, note_to) = (Arc::clone(ingress), replica.clone());
    let (batch_ingress, batch_to) = (Arc::clone(ingress), replica.clone());
    let (forward_ingress, forward_to) = (Arc::clone(ingress), replica.clone());
    let (transfer_ingress, transfer_to) = (Arc::clone(ingress), replica.clone());
    router
        .tell::<Signed>(move |node, message| signed_ingress.take_signed(node, message, &signed_to))
        .tell::<Note>(move |node, note| {
            // What proves itself is shown to whoever was let in: an auth node holds no seat.
            match note {
                Note::WantGrant(seat, term) => {
                    note_ingress.show_grant(node, seat, term);
                    return Ok(());
                }
                Note::FetchEpoch(epoch) => {
                    note_ingress.show_epoch(node, epoch);
                    return Ok(());
                }
                _ => {}
            }
            let from = note_ingress.seat_of(node)?;
            match note {
                Note::Stable(certificate) => {
                    check(&note_ingress, &note_to, (Urgency::Votes, 0), (node, from), move |ingress, to, share| {
                        let certificate = ingress.verifier.checkpoint(certificate)?;
                        tell(to, Checked(Input::StableReceived(certificate), share));
                        Ok(())
                    })
                }
                Note::Grant(grant) => {
                    let grants = Arc::clone(&grants);
                    check(&note_ingress, &note_to, (Urgency::Votes, 0), (node, from), move |_, _, _share| {
                        grants(*grant);
                        Ok(())
                    })
                }
                Note::Epoch(proof) => {
                    check(&note_ingress, &note_to, (Urgency::Votes, 0), (node, from), move |ingress, to, share| {
                        ingress.take_epoch(*proof, to, share)
                    })
                }
                Note::Offer(names) | Note::FetchBatches(names) if names.len() > NAMES_MAX => {
                    Err(CallError::TooLarge { bytes: names.len(), limit: NAMES_MAX })
                }
                note => note_to.tell(PeerNote { node, from, note, _share: note_ingress.share(from, 0)? }),
            }
        })
        .tell::<BatchPayload>(move |node, BatchPayload(payload)| {
            let from = batch_ingress.seat_of(node)?;
            let cost = (Urgency::Payloads, payload.len());
            check(&batch_ingress, &batch_to, cost, (node, from), move |ingress, to, share| {
                let batch = Batch::parse(payload)?;
                ingress.signatures.check_batch(&batch)?;
                tell(to, PeerBatch(from, batch, share));
                Ok(())
            })
        })
        .tell::<Forward>(move |node, Forward(transactions)| {
            let from = forward_ingress.seat_of(node)?;
            if from != forward_ingress.directory.seat {
                return Err(CallError::Refused("only a member of the own cluster may pass transactions on".to_owned()));
            }
            let cost = (Urgency::Payloads, transactions.iter().map(bytes::Bytes::len).sum());
            check(&forward_ingress, &forward_to, cost, (node, from), move |ingress, to, share| {
                let parsed: Result<Vec<_>, _> = transactions.into_iter().map(Transaction::parse).collect();
                let parsed = parsed?;
                parsed.iter().try_for_each(|transaction| ingress.signatures.check(transaction))?;
                tell(to, PeerTransactions(parsed, share));
                Ok(())
            })
        })
        .tell::<Transfer>(move |node, transfer| {
            let from = transfer_ingress.seat_of(node)?;
            let cost = (Urgency::Payloads, ANSWER_BYTES);
            check(&transfer_ingress, &transfer_to, cost, (node, from), move |ingress, to, share| {
                let checked = ingress.check_transfer(from, transfer, to, share);
                if checked.is_err() {
                    // Of no use, or not before a grant has come: the replica asks another one.
                    tell(to, Useless(from));
                }
                checked
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
    (node, from): (NodeId, Seat),
    job: impl FnOnce(&Ingress, &Address<Replica>, Share) -> Result<(), VerifyError> + Send + 'static,
) -> Result<(), CallError> {
    let share = ingress.share(from, bytes)?;
    let (shared, to) = (Arc::clone(ingress), to.clone());
    let run = move || {
        if let Err(error) = job(&shared, &to, share) {
            shared.refused((node, from), &error);
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
                let mut checked = Vec::with_capacity(blocks.len());
                for block in blocks {
                    match self.check_block(block) {
                        Ok(block) => checked.push(block),
                        // What comes before it is of use: the rest may be of an epoch that is not known yet.
                        Err(_) if !checked.is_empty() => break,
                        Err(error) => return Err(error),
                    }
                }
                tell(to, PeerBlocks(from, checked, share));
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
