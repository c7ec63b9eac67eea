//! Catching up: committed blocks from others, or a snapshot where the gap is long or blocks are gone.

use std::collections::{BTreeMap, BTreeSet};

use standin_foundation::{Height, Millis, Seat};
use standin_ledger::Proposal;
use standin_ledger::certificate::CommitCertificate;
use standin_ledger::snapshot::{Chunk, Manifest, SnapshotBuilder};

use super::*;
use crate::verify::Verified;

/// How long a new holder waits for the first seat that it asks for what it missed, in ms; for each one more twice as long.
const MISSED_WAIT_MS: u64 = 50;
/// Chunks that are asked for at one time, each from another seat as far as there are.
const CHUNKS_IN_FLIGHT_MAX: usize = 4;

/// What is being fetched.
#[derive(Debug, Default)]
enum Fetch {
    /// Nothing.
    #[default]
    Idle,
    /// Blocks, from seats that were asked one after the other and have not answered.
    Blocks(BTreeSet<Seat>),
    /// A manifest from a seat.
    Manifest(Seat),
    /// Chunks.
    Chunks {
        /// What has come.
        builder: Box<SnapshotBuilder>,
        /// Seats that do not have this snapshot.
        without: BTreeSet<Seat>,
        /// What was asked for, and of whom.
        asked: BTreeMap<usize, Seat>,
        /// Something came since the last time-out.
        progress: bool,
    },
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
    /// Counts requests: each goes to another seat.
    turn: usize,
    /// Counts requests that came to nothing: each round of all seats asks for what the round before did not, blocks or a snapshot.
    failed: usize,
    /// Counts rounds of asking for chunks.
    chunk_round: usize,
    /// This node has just begun to speak: what was said before then went to another, and does not come by itself. Until it has
    /// come, or a quorum has shown that there is nothing.
    missed: bool,
}

impl CatchUp {
    /// Nothing is being fetched by a node that begins to speak now.
    pub(super) fn of_new_holder() -> Self {
        Self { missed: true, ..Self::default() }
    }

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

    /// What was asked for does not come: not at once to the next, since a liar that never has anything would keep both busy.
    fn fail(&mut self, again_at: Millis) {
        self.failed += 1;
        self.turn += 1;
        self.fetch = Fetch::Idle;
        self.deadline = Some(again_at);
    }
}

impl Machine {
    /// The highest height that a seat says it has committed, if it is above this replica's.
    fn ahead(&self) -> Option<Height> {
        let target = self.statuses.values().map(|status| status.committed).max()?;
        (target > self.delivered).then_some(target)
    }

    /// Other seats, and perhaps a member of the own cluster, that are ahead by their own word; the members last, since a new
    /// holder asks for what they have missed with it.
    fn seats_ahead(&self) -> Vec<(Seat, Status)> {
        let ahead = self.statuses.iter().filter(|(_, status)| status.committed > self.delivered);
        let mut ahead: Vec<_> = ahead.map(|(seat, status)| (*seat, *status)).collect();
        ahead.sort_by_key(|(seat, _)| *seat == self.identity.seat);
        ahead
    }

    pub(super) fn check_catch_up(&mut self) {
        let Some(target) = self.ahead() else {
            if !self.catch_up.is_installing() {
                let others = self.statuses.keys().filter(|seat| **seat != self.identity.seat).count();
                let told = others + 1 >= self.quorum();
                self.catch_up = CatchUp { missed: self.catch_up.missed && !told, ..CatchUp::default() };
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
            Fetch::Chunks { ref mut progress, .. } if timed_out && *progress => {
                *progress = false;
                self.fetch_chunks();
            }
            // Whoever has this snapshot does not answer any more.
            Fetch::Chunks { .. } if timed_out => self.catch_up.fail(self.now + self.config.status_interval_ms),
            _ if timed_out => {
                // An answer that was waited for only shortly may be on its way.
                self.catch_up.failed += usize::from(self.patience() >= self.config.fetch_timeout_ms);
                self.catch_up.turn += 1;
                self.start_fetch(target);
            }
            _ => {}
        }
    }

    /// Behind by more than a window, or behind without a commit for a status interval, or as soon as it has begun to speak.
    fn is_stuck(&self, target: Height) -> bool {
        let waited =
            self.catch_up.behind_since.is_some_and(|(_, since)| since + self.config.status_interval_ms <= self.now);
        waited || self.catch_up.missed || target > self.delivered.plus(self.identity.parameters.window)
    }

    /// How many requests make a round: however few seats are known to be ahead, one that has not stored its newest block yet is no
    /// reason for a snapshot.
    fn others(&self) -> usize {
        self.start.seats.len().saturating_sub(1).max(1)
    }

    /// How long an answer is waited for, in ms.
    fn patience(&self) -> u64 {
        let short = MISSED_WAIT_MS << self.catch_up.turn.min(16);
        if self.catch_up.missed { short.min(self.config.fetch_timeout_ms) } else { self.config.fetch_timeout_ms }
    }

    /// When to ask again after somebody had nothing.
    fn again_at(&self) -> Millis {
        self.now + self.patience().min(self.config.status_interval_ms)
    }

    /// Asks a seat that is ahead: for blocks, or for a snapshot if by its own word it is far ahead.
    fn start_fetch(&mut self, target: Height) {
        let ahead = self.seats_ahead();
        let (round, place) = (self.catch_up.failed / self.others(), self.catch_up.turn % ahead.len().max(1));
        let Some((seat, status)) = ahead.get(place).copied() else {
            self.catch_up.stop();
            return;
        };
        let is_far = status.committed > self.delivered.plus(self.config.snapshot_gap);
        let snapshot = is_far != (round % 2 == 1) && status.stable > self.delivered;
        if matches!(self.catch_up.fetch, Fetch::Idle) && self.catch_up.failed == 0 {
            self.report(Event::CatchUpStarted { target, snapshot });
        }
        self.catch_up.deadline = Some(self.now + self.patience());
        if snapshot {
            self.catch_up.fetch = Fetch::Manifest(seat);
            self.tell(Recipient::One(seat), Note::FetchManifest);
        } else {
            match &mut self.catch_up.fetch {
                Fetch::Blocks(asked) => _ = asked.insert(seat),
                other => *other = Fetch::Blocks([seat].into()),
            }
            self.tell(Recipient::One(seat), Note::FetchBlocks { from: self.delivered.next() });
        }
    }

    /// Whether blocks from this seat have been asked for, and have not come.
    pub fn awaits_blocks(&self, from: Seat) -> bool {
        matches!(&self.catch_up.fetch, Fetch::Blocks(asked) if asked.contains(&from))
    }

    pub(super) fn on_blocks(&mut self, from: Seat, blocks: Vec<(Proposal, Verified<CommitCertificate>)>) {
        if !self.awaits_blocks(from) {
            return;
        }
        let before = self.delivered;
        for (proposal, certificate) in blocks {
            let height = proposal.height;
            let is_void = certificate.epoch < self.epochs.at(height);
            if is_void || height <= self.delivered || self.contradicts(height, &proposal) {
                continue;
            }
            if self.slots.get(&height).is_none_or(|slot| slot.committed.is_none()) {
                self.commit(proposal, certificate.into_inner());
            }
        }
        if self.delivered == before {
            self.had_nothing(from);
            return;
        }
        self.catch_up.stop();
        // Blocks come: what fails from here on is counted anew.
        self.catch_up.failed -= self.catch_up.failed % self.others();
        match self.ahead() {
            Some(target) => self.start_fetch(target),
            None => self.catch_up.missed = false,
        }
    }

    /// Blocks that were asked for cannot be had of this seat.
    fn had_nothing(&mut self, from: Seat) {
        let again_at = self.again_at();
        let Fetch::Blocks(asked) = &mut self.catch_up.fetch else { return };
        if asked.remove(&from) && asked.is_empty() {
            self.catch_up.fail(again_at);
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
        let soon = self.again_at();
        match &mut self.catch_up.fetch {
            Fetch::Blocks(_) => self.had_nothing(from),
            Fetch::Manifest(seat) if *seat == from => self.catch_up.fail(soon),
            Fetch::Chunks { without, .. } if !without.contains(&from) => {
                without.insert(from);
                self.fetch_chunks();
            }
            _ => {}
        }
    }

    pub(super) fn on_manifest(&mut self, from: Seat, manifest: Manifest) {
        if !matches!(self.catch_up.fetch, Fetch::Manifest(seat) if seat == from) {
            return;
        }
        if manifest.certificate.result.height <= self.delivered {
            self.catch_up.fail(self.now + self.config.status_interval_ms);
            return;
        }
        match SnapshotBuilder::new(manifest) {
            Ok(builder) => {
                self.catch_up.fetch = Fetch::Chunks {
                    builder: Box::new(builder),
                    without: BTreeSet::new(),
                    asked: BTreeMap::new(),
                    progress: true,
                };
                self.fetch_chunks();
            }
            Err(_) => self.report(Event::BadTransfer { seat: from }),
        }
    }

    /// Asks for missing chunks, each from another seat as far as there are seats that may have the snapshot.
    fn fetch_chunks(&mut self) {
        let Fetch::Chunks { builder, without, asked, .. } = &mut self.catch_up.fetch else { return };
        let height = builder.height();
        let missing = builder.missing(CHUNKS_IN_FLIGHT_MAX);
        let may_have = |(seat, status): &(&Seat, &Status)| status.stable >= height && !without.contains(seat);
        let seats: Vec<_> = self.statuses.iter().filter(may_have).map(|(seat, _)| *seat).collect();
        if seats.is_empty() {
            self.catch_up.fail(self.now + self.config.status_interval_ms);
            return;
        }
        self.catch_up.chunk_round += 1;
        let round = self.catch_up.chunk_round;
        let of = |index: usize| seats.get((index + round) % seats.len()).map(|seat| (index, *seat));
        let requests: Vec<_> = missing.into_iter().filter_map(of).collect();
        *asked = requests.iter().copied().collect();
        self.catch_up.deadline = Some(self.now + self.config.fetch_timeout_ms);
        for (index, seat) in requests {
            self.tell(Recipient::One(seat), Note::FetchChunk { height, index: index as u32 });
        }
    }

    pub(super) fn on_chunk(&mut self, from: Seat, height: Height, index: u32, chunk: Chunk) {
        let Fetch::Chunks { builder, asked, progress, .. } = &mut self.catch_up.fetch else { return };
        // Only what was asked for, from whom it was asked: a stranger's chunk could verify and still be the wrong one.
        if builder.height() != height || asked.get(&(index as usize)) != Some(&from) {
            return;
        }
        asked.remove(&(index as usize));
        let round_done = asked.is_empty();
        if builder.accept(index as usize, chunk).is_err() {
            self.report(Event::BadTransfer { seat: from });
            return;
        }
        *progress = true;
        match std::mem::take(&mut self.catch_up.fetch) {
            Fetch::Chunks { builder, without, asked, progress } => match builder.finish() {
                // Ordinary commits were faster.
                Ok((_, certificate)) if certificate.result.height <= self.delivered => self.catch_up.stop(),
                Ok((snapshot, certificate)) => {
                    self.catch_up.fetch = Fetch::Installing;
                    self.catch_up.deadline = None;
                    self.effects.push(Effect::InstallSnapshot(Box::new(snapshot), certificate));
                }
                Err(builder) => {
                    self.catch_up.fetch = Fetch::Chunks { builder, without, asked, progress };
                    if round_done {
                        self.fetch_chunks();
                    }
                }
            },
            other => self.catch_up.fetch = other,
        }
    }
}
