//! Batches that wait for their order.

use std::collections::{BTreeMap, BTreeSet};

use standin_foundation::limits::{PROPOSAL_BATCHES_MAX, PROPOSAL_BYTES_MAX};
use standin_foundation::{Digest, Height, Lsn, Millis, Seat};
use standin_ledger::BatchRef;

/// A batch that waits.
#[derive(Debug, Clone, Copy)]
struct Pending {
    reference: BatchRef,
    from: Seat,
    arrival: u64,
    since: Millis,
    /// Where the seat's log has it last; none if it was fetched and is not in the log.
    logged: Option<Lsn>,
}

/// A batch that has a final place.
#[derive(Debug, Clone, Copy)]
struct Ordered {
    reference: BatchRef,
    /// The last of its places.
    height: Height,
}

/// All batches whose payloads are here and whose order is not final, and the names of those that were ordered lately.
#[derive(Debug, Default)]
pub(super) struct Pool {
    pending: BTreeMap<Digest, Pending>,
    by_arrival: BTreeMap<u64, Digest>,
    /// Assigned to a slot of the current view.
    assigned: BTreeSet<Digest>,
    /// Those of the pending that were ordered before: somebody wants them to have a place once more.
    again: BTreeSet<Digest>,
    bytes: usize,
    bytes_by_seat: BTreeMap<Seat, usize>,
    next_arrival: u64,
    /// Ordered lately. They are not taken again without need, and their payloads are still here.
    ordered: BTreeMap<Digest, Ordered>,
    /// Payloads that are here although the batch may not wait: a proposal needs them.
    wanted: BTreeSet<Digest>,
}

impl Pool {
    pub(super) fn len(&self) -> usize {
        self.pending.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether anything waits that never had a place. What had one may wait for longer: its seat offers it, and the primary
    /// may just be about to learn that it was ordered.
    pub(super) fn has_new(&self) -> bool {
        self.pending.len() > self.again.len()
    }

    /// Bytes that wait of one seat's batches.
    pub(super) fn bytes_of(&self, seat: Seat) -> usize {
        self.bytes_by_seat.get(&seat).copied().unwrap_or(0)
    }

    /// Whether the payload is here.
    pub(super) fn holds(&self, digest: &Digest) -> bool {
        self.pending.contains_key(digest) || self.ordered.contains_key(digest)
    }

    /// Whether the batch waits for its order.
    pub(super) fn is_pending(&self, digest: &Digest) -> bool {
        self.pending.contains_key(digest)
    }

    /// The batch with this name, if it has its final place and was handed to execution lately.
    pub(super) fn ordered(&self, digest: &Digest) -> Option<BatchRef> {
        self.ordered.get(digest).map(|ordered| ordered.reference)
    }

    /// Says that a proposal needs this batch, whatever the limits.
    pub(super) fn want(&mut self, digest: Digest) {
        self.wanted.insert(digest);
    }

    /// Up to `count` payloads that proposals need.
    pub(super) fn wanted(&self, count: usize) -> Vec<Digest> {
        self.wanted.iter().copied().take(count).collect()
    }

    /// Forgets all that wait, those aside that a slot names which is still to come: they may have been ordered in blocks that
    /// a snapshot stands for. Gives the names of those whose payloads nobody needs.
    pub(super) fn clear(&mut self, named: &BTreeSet<Digest>) -> Vec<Digest> {
        let forgotten = self.pending.keys().filter(|digest| !named.contains(*digest)).copied().collect::<Vec<_>>();
        for digest in &forgotten {
            self.remove(digest);
        }
        self.assigned.retain(|digest| named.contains(digest));
        self.wanted.clear();
        forgotten.into_iter().filter(|digest| !self.ordered.contains_key(digest)).collect()
    }

    fn remove(&mut self, digest: &Digest) {
        self.again.remove(digest);
        if let Some(pending) = self.pending.remove(digest) {
            self.by_arrival.remove(&pending.arrival);
            self.bytes -= pending.reference.bytes as usize;
            if let Some(bytes) = self.bytes_by_seat.get_mut(&pending.from) {
                *bytes -= pending.reference.bytes as usize;
            }
        }
    }

    pub(super) fn is_wanted(&self, digest: &Digest) -> bool {
        self.wanted.contains(digest)
    }

    pub(super) fn add(&mut self, reference: BatchRef, from: Seat, now: Millis, logged: Option<Lsn>) {
        let digest = reference.digest();
        self.wanted.remove(&digest);
        let arrival = self.next_arrival;
        self.next_arrival += 1;
        if self.ordered.contains_key(&digest) {
            self.again.insert(digest);
        }
        self.pending.insert(digest, Pending { reference, from, arrival, since: now, logged });
        self.by_arrival.insert(arrival, digest);
        self.bytes += reference.bytes as usize;
        *self.bytes_by_seat.entry(from).or_default() += reference.bytes as usize;
    }

    /// The log has a batch once more.
    pub(super) fn note_logged(&mut self, digest: &Digest, lsn: Lsn) {
        if let Some(pending) = self.pending.get_mut(digest) {
            pending.logged = Some(lsn);
        }
    }

    /// Batches that wait and are not in the log.
    pub(super) fn unlogged(&self) -> Vec<BatchRef> {
        self.pending.values().filter(|pending| pending.logged.is_none()).map(|pending| pending.reference).collect()
    }

    /// Forgets what waits and stands before the place where the log was cut, those aside that a slot names: whoever cut it wrote
    /// everything that waits once more. Gives the names of those whose payloads nobody needs.
    pub(super) fn forget_cut(&mut self, before: Lsn, named: &BTreeSet<Digest>) -> Vec<Digest> {
        let is_cut = |pending: &Pending| pending.logged.is_none_or(|lsn| lsn < before);
        let cut = self.pending.iter().filter(|(digest, pending)| is_cut(pending) && !named.contains(*digest));
        let cut: Vec<_> = cut.map(|(digest, _)| *digest).collect();
        for digest in &cut {
            self.remove(digest);
        }
        cut.into_iter().filter(|digest| !self.ordered.contains_key(digest)).collect()
    }

    /// The batch has its final place.
    pub(super) fn order(&mut self, reference: BatchRef, height: Height) {
        let digest = reference.digest();
        self.assigned.remove(&digest);
        self.wanted.remove(&digest);
        let ordered = self.ordered.entry(digest).or_insert(Ordered { reference, height });
        ordered.height = ordered.height.max(height);
        self.remove(&digest);
    }

    /// Forgets what was ordered up to `height`, those aside that a slot names once more; gives the names of those whose
    /// payloads nobody needs.
    pub(super) fn forget_ordered(&mut self, height: Height, named: &BTreeSet<Digest>) -> Vec<Digest> {
        let is_old = |(digest, ordered): &(&Digest, &Ordered)| ordered.height <= height && !named.contains(*digest);
        let old = self.ordered.iter().filter(is_old);
        let mut old: Vec<_> = old.map(|(digest, _)| *digest).collect();
        for digest in &old {
            self.ordered.remove(digest);
        }
        old.retain(|digest| !self.pending.contains_key(digest));
        old
    }

    /// The batch stands in a slot of the current view.
    pub(super) fn assign(&mut self, digest: Digest) {
        self.assigned.insert(digest);
    }

    /// A new view: nothing is assigned, and waiting starts again, for the new primary has its own time.
    pub(super) fn unassign_all(&mut self, now: Millis) {
        self.assigned.clear();
        self.wanted.clear();
        self.wait_anew(now);
    }

    /// Waiting starts again.
    pub(super) fn wait_anew(&mut self, now: Millis) {
        self.pending.values_mut().for_each(|pending| pending.since = now);
    }

    pub(super) fn shift(&mut self, gap: u64) {
        self.pending.values_mut().for_each(|pending| pending.since = pending.since + gap);
    }

    fn unassigned(&self) -> impl Iterator<Item = &Pending> {
        let free = |digest: &&Digest| !self.assigned.contains(digest);
        self.by_arrival.values().filter(free).filter_map(|digest| self.pending.get(digest))
    }

    /// Since when the oldest batch waits that is in no slot.
    pub(super) fn oldest_unassigned(&self) -> Option<Millis> {
        self.unassigned().next().map(|pending| pending.since)
    }

    /// Since when the oldest batch waits.
    pub(super) fn oldest(&self) -> Option<Millis> {
        let digest = self.by_arrival.values().next()?;
        self.pending.get(digest).map(|pending| pending.since)
    }

    /// Whether enough waits to fill a good part of a proposal.
    pub(super) fn is_plenty(&self) -> bool {
        let mut bytes = 0;
        for (index, pending) in self.unassigned().enumerate() {
            bytes += pending.reference.bytes as usize;
            if index + 1 >= PROPOSAL_BATCHES_MAX / 4 || bytes >= PROPOSAL_BYTES_MAX / 8 {
                return true;
            }
        }
        false
    }

    /// The next batches for a proposal, within its limits, in order of arrival.
    pub(super) fn next(&self) -> Vec<BatchRef> {
        let mut bytes = 0;
        let mut batches = Vec::new();
        for pending in self.unassigned().take(PROPOSAL_BATCHES_MAX) {
            bytes += pending.reference.bytes as usize;
            if bytes > PROPOSAL_BYTES_MAX {
                break;
            }
            batches.push(pending.reference);
        }
        batches
    }

    /// Up to `count` batches that have waited since `before` or longer.
    pub(super) fn old(&self, before: Millis, count: usize) -> Vec<Digest> {
        self.unassigned().filter(|pending| pending.since <= before).map(|p| p.reference.digest()).take(count).collect()
    }

    /// All that wait.
    pub(super) fn all(&self) -> impl Iterator<Item = BatchRef> + '_ {
        self.by_arrival.values().filter_map(|digest| self.pending.get(digest)).map(|pending| pending.reference)
    }
}
