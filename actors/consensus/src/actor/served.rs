//! Snapshots for seats that are far behind.
//!
//! Cutting a snapshot into chunks takes time in proportion to the state, so it is done when one is asked for, and not for
//! every checkpoint. What was cut stays as long as somebody fetches it: under load the next checkpoint comes before a large
//! snapshot has been sent.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use standin_foundation::Height;
use standin_ledger::certificate::CheckpointCertificate;
use standin_ledger::snapshot::{Chunk, Manifest, ServedSnapshot, Snapshot};

/// Snapshots that are kept cut at one time.
const CUT_MAX: usize = 3;
/// A newer snapshot is not cut within this time of the last.
const FRESH: Duration = Duration::from_secs(5);
/// A snapshot that nobody has asked about for this long is dropped.
const FORGET_AFTER: Duration = Duration::from_secs(60);

/// What can be fetched.
#[derive(Debug, Default)]
pub(super) struct Served {
    newest: Option<(Snapshot, CheckpointCertificate)>,
    cut: RefCell<Vec<Cut>>,
}

#[derive(Debug)]
struct Cut {
    snapshot: ServedSnapshot,
    made: Instant,
    asked: Instant,
}

impl Cut {
    fn height(&self) -> Height {
        self.snapshot.manifest().certificate.result.height
    }
}

impl Served {
    /// A newer snapshot has been proven.
    pub(super) fn set_newest(&mut self, snapshot: Snapshot, certificate: CheckpointCertificate) {
        self.newest = Some((snapshot, certificate));
        self.cut.get_mut().retain(|cut| cut.asked.elapsed() < FORGET_AFTER);
    }

    pub(super) fn newest(&self) -> Option<&(Snapshot, CheckpointCertificate)> {
        self.newest.as_ref()
    }

    /// What the newest snapshot, or one that was cut a moment ago, consists of.
    pub(super) fn manifest(&self) -> Option<Manifest> {
        let mut cut = self.cut.borrow_mut();
        let is_fresh = cut.last().is_some_and(|last| last.made.elapsed() < FRESH);
        let (snapshot, certificate) = self.newest.as_ref()?;
        if !is_fresh && cut.last().is_none_or(|last| last.height() < certificate.result.height) {
            let now = Instant::now();
            if cut.len() >= CUT_MAX
                && let Some((oldest, _)) = cut.iter().enumerate().min_by_key(|(_, cut)| cut.asked)
            {
                cut.remove(oldest);
            }
            cut.push(Cut { snapshot: ServedSnapshot::new(snapshot, certificate.clone()), made: now, asked: now });
        }
        let last = cut.last_mut()?;
        last.asked = Instant::now();
        Some(last.snapshot.manifest().clone())
    }

    /// A chunk of the snapshot at `height`, if it is still kept.
    pub(super) fn chunk(&self, height: Height, index: usize) -> Option<Chunk> {
        let mut cut = self.cut.borrow_mut();
        let found = cut.iter_mut().find(|cut| cut.height() == height)?;
        found.asked = Instant::now();
        found.snapshot.chunk(index)
    }
}
