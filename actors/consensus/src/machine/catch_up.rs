//! Catching up: committed blocks from others, or a snapshot where the gap is long or blocks are gone.

use standin_foundation::{Height, Millis, Seat};
use standin_ledger::Proposal;
use standin_ledger::certificate::CommitCertificate;
use standin_ledger::snapshot::{Chunk, Manifest, SnapshotBuilder};

use super::*;
use crate::verify::Verified;

/// Chunks that are asked for at one time, each from another seat as far as there are.
const CHUNKS_IN_FLIGHT_MAX: usize = 4;

/// What is being fetched.
#[derive(Debug, Default)]
enum Fetch {
    /// Nothing.
    #[default]
    Idle,
    /// Blocks from a seat.
    Blocks(Seat),
    /// A manifest from a seat.
    Manifest(Seat),
    /// Chunks.
    Chunks(Box<SnapshotBuilder>),
    /// A snapshot is being made durable.
    Installing,
}

/// Progress of catching up.
#[derive(Debug, Default)]
pub(super) struct CatchUp {
    fetch: Fetch,
    deadline: Option<Millis>,
    /// Since when a peer has been ahead while nothing was committed here.
    behind_since: Option<(Height, Millis)>,
    /// Counts attempts, to ask another seat each time.
    attempt: usize,
    /// What the gap suggests, blocks or a snapshot, was not to be had: try the other.
    other_way: bool,
}

impl CatchUp {
    pub(super) fn deadline(&self) -> Option<Millis> {
        self.deadline
    }

    pub(super) fn is_installing(&self) -> bool {
        matches!(self.fetch, Fetch::Installing)
    }

    /// Nothing is being fetched any more.
    fn stop(&mut self) {
        self.fetch = Fetch::Idle;
        self.deadline = None;
    }
}

impl Machine {
    /// The highest height that a seat says it has committed, and its seat.
    fn ahead(&self) -> Option<Height> {
        let target = self.statuses.values().map(|status| status.committed).max()?;
        (target > self.delivered).then_some(target)
    }

    pub(super) fn check_catch_up(&mut self) {
        let Some(target) = self.ahead() else {
            if !matches!(self.catch_up.fetch, Fetch::Installing) {
                self.catch_up = CatchUp::default();
            }
            return;
        };
        match self.catch_up.behind_since {
            Some((height, _)) if height == self.delivered => {}
            _ => self.catch_up.behind_since = Some((self.delivered, self.now)),
        }
        let timed_out = self.catch_up.deadline.is_some_and(|deadline| deadline <= self.now);
        match self.catch_up.fetch {
            Fetch::Idle if self.catch_up.deadline.is_some() && !timed_out => {}
            Fetch::Idle if self.is_stuck(target) => self.start_fetch(target),
            Fetch::Idle => self.catch_up.deadline = None,
            Fetch::Installing => {}
            Fetch::Chunks(_) if timed_out => self.fetch_chunks(),
            _ if timed_out => self.start_fetch(target),
            _ => {}
        }
    }

    /// Behind by more than a window, or behind without a commit for a status interval.
    fn is_stuck(&self, target: Height) -> bool {
        let waited =
            self.catch_up.behind_since.is_some_and(|(_, since)| since + self.config.status_interval_ms <= self.now);
        waited || target > self.delivered.plus(self.identity.parameters.window)
    }

    fn start_fetch(&mut self, target: Height) {
        self.catch_up.attempt += 1;
        let is_far = target > self.delivered.plus(self.config.snapshot_gap);
        let snapshot = is_far != self.catch_up.other_way;
        // Whoever has what is needed: a seat that is ahead, another one at each attempt.
        let ahead: Vec<_> = self
            .statuses
            .iter()
            .filter(|(_, status)| status.committed > self.delivered)
            .filter(|(_, status)| !snapshot || status.stable > self.delivered)
            .map(|(seat, _)| *seat)
            .collect();
        let Some(seat) = ahead.get(self.catch_up.attempt % ahead.len().max(1)).copied() else {
            self.catch_up.stop();
            self.catch_up.other_way = !self.catch_up.other_way;
            return;
        };
        if matches!(self.catch_up.fetch, Fetch::Idle) {
            self.report(Event::CatchUpStarted { target, snapshot });
        }
        self.catch_up.deadline = Some(self.now + self.config.fetch_timeout_ms);
        if snapshot {
            self.catch_up.fetch = Fetch::Manifest(seat);
            self.tell(Recipient::One(seat), Note::FetchManifest);
        } else {
            self.catch_up.fetch = Fetch::Blocks(seat);
            self.tell(Recipient::One(seat), Note::FetchBlocks { from: self.delivered.next() });
        }
    }

    pub(super) fn on_blocks(&mut self, from: Seat, blocks: Vec<(Proposal, Verified<CommitCertificate>)>) {
        if !matches!(self.catch_up.fetch, Fetch::Blocks(seat) if seat == from) {
            return;
        }
        self.catch_up.stop();
        let before = self.delivered;
        for (proposal, certificate) in blocks {
            let height = proposal.height;
            if height <= self.delivered || self.contradicts(height, &proposal) {
                continue;
            }
            if self.slots.get(&height).is_none_or(|slot| slot.committed.is_none()) {
                self.commit(proposal, certificate.into_inner());
            }
        }
        if let Some(target) = self.ahead().filter(|_| self.delivered > before) {
            self.start_fetch(target);
        }
    }

    fn contradicts(&mut self, height: Height, proposal: &Proposal) -> bool {
        let digest = proposal.digest();
        let committed = self.slots.get(&height).and_then(|slot| slot.committed.as_ref()).map(|(p, _)| p.digest());
        if let Some(committed) = committed.filter(|committed| *committed != digest) {
            self.halt(Event::SafetyViolated { height, digests: [committed, digest] });
            return true;
        }
        false
    }

    pub(super) fn on_unavailable(&mut self, from: Seat) {
        match self.catch_up.fetch {
            Fetch::Blocks(seat) | Fetch::Manifest(seat) if seat == from => {
                self.catch_up.other_way = !self.catch_up.other_way;
            }
            Fetch::Chunks(_) => self.catch_up.fetch = Fetch::Idle,
            _ => return,
        }
        // Not at once: a liar that never has anything would keep both busy.
        self.catch_up.deadline = Some(self.now + self.config.status_interval_ms);
    }

    pub(super) fn on_manifest(&mut self, from: Seat, manifest: Manifest) {
        if !matches!(self.catch_up.fetch, Fetch::Manifest(seat) if seat == from) {
            return;
        }
        if manifest.certificate.result.height <= self.delivered {
            self.catch_up.stop();
            self.catch_up.other_way = !self.catch_up.other_way;
            return;
        }
        match SnapshotBuilder::new(manifest) {
            Ok(builder) => {
                self.catch_up.fetch = Fetch::Chunks(Box::new(builder));
                self.fetch_chunks();
            }
            Err(_) => self.report(Event::BadTransfer { seat: from }),
        }
    }

    fn fetch_chunks(&mut self) {
        let Fetch::Chunks(builder) = &self.catch_up.fetch else { return };
        let height = builder.height();
        let missing = builder.missing(CHUNKS_IN_FLIGHT_MAX);
        let seats: Vec<_> =
            self.statuses.iter().filter(|(_, s)| s.committed >= height).map(|(seat, _)| *seat).collect();
        self.catch_up.attempt += 1;
        self.catch_up.deadline = Some(self.now + self.config.fetch_timeout_ms);
        for index in missing {
            if let Some(seat) = seats.get((index + self.catch_up.attempt) % seats.len().max(1)).copied() {
                self.tell(Recipient::One(seat), Note::FetchChunk { height, index: index as u32 });
            }
        }
    }

    pub(super) fn on_chunk(&mut self, from: Seat, height: Height, index: u32, chunk: Chunk) {
        let Fetch::Chunks(builder) = &mut self.catch_up.fetch else { return };
        if builder.height() != height {
            return;
        }
        let asked = builder.missing(CHUNKS_IN_FLIGHT_MAX);
        if builder.accept(index as usize, chunk).is_err() {
            self.report(Event::BadTransfer { seat: from });
            return;
        }
        match std::mem::take(&mut self.catch_up.fetch) {
            Fetch::Chunks(builder) => match builder.finish() {
                // Ordinary commits were faster.
                Ok((_, certificate)) if certificate.result.height <= self.delivered => self.catch_up.stop(),
                Ok((snapshot, certificate)) => {
                    self.catch_up.fetch = Fetch::Installing;
                    self.catch_up.deadline = None;
                    self.effects.push(Effect::InstallSnapshot(Box::new(snapshot), certificate));
                }
                Err(builder) => {
                    let round_done = asked.iter().all(|index| !builder.missing(CHUNKS_IN_FLIGHT_MAX).contains(index));
                    self.catch_up.fetch = Fetch::Chunks(builder);
                    if round_done {
                        self.fetch_chunks();
                    }
                }
            },
            other => self.catch_up.fetch = other,
        }
    }
}
