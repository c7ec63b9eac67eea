//! The newest frames, in memory: terminals that keep up want nothing else, and many want the same.

use std::collections::{BTreeMap, VecDeque};

use crate::frame::{Content, Entry};
use crate::ids::{Sequence, Topic};

/// Bytes of frames that are held.
const BYTES_MAX: usize = 16 * 1024 * 1024;

/// The newest frames of all topics, by the first datum of each.
#[derive(Debug, Default)]
pub(super) struct Recent {
    frames: BTreeMap<(Topic, Sequence), (Entry, Content)>,
    /// The oldest first.
    order: VecDeque<(Topic, Sequence)>,
    bytes: usize,
}

impl Recent {
    /// Takes a frame that is newer than all others.
    pub(super) fn put(&mut self, topic: Topic, entry: Entry, content: Content) {
        let (place, bytes) = ((topic, entry.first), content.bytes().len());
        // One whose place is known has come again after the journal began anew.
        if let Some((_, known)) = self.frames.insert(place, (entry, content)) {
            self.bytes -= known.bytes().len();
        } else {
            self.order.push_back(place);
        }
        self.bytes += bytes;
        while self.bytes > BYTES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            let gone = self.frames.remove(&oldest);
            self.bytes -= gone.map_or(0, |(_, content)| content.bytes().len());
        }
    }

    /// The frame that begins with a datum.
    pub(super) fn get(&self, topic: Topic, first: Sequence) -> Option<&(Entry, Content)> {
        self.frames.get(&(topic, first))
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use standin_foundation::Digest;

    use super::*;
    use crate::frame::tests::content;

    #[test]
    fn the_newest_frames_are_held_and_no_more_than_that() {
        let (mut recent, topic) = (Recent::default(), "t".parse().unwrap());
        let large = content(&["x".repeat(40_000).as_str()]);
        let frames = BYTES_MAX / large.bytes().len() + 20;
        let (mut before, mut first) = (Digest::ZERO, Sequence(1));
        for _ in 0..frames {
            let entry = Entry::following(&before, first, &large).unwrap();
            recent.put(topic, entry, large.clone());
            (before, first) = (entry.chain, entry.next());
        }
        let newest = Sequence(frames as u64);
        assert!(recent.get(topic, newest).is_some() && recent.get(topic, Sequence(1)).is_none());
        assert!(recent.bytes <= BYTES_MAX && recent.order.len() == recent.frames.len());
        let (entry, bytes) = (recent.get(topic, newest).unwrap().0, recent.bytes);
        recent.put(topic, entry, large);
        assert_eq!(
            (recent.bytes, recent.order.len()),
            (bytes, recent.frames.len()),
            "one that comes again is held once"
        );
        recent.clear();
        assert!(recent.get(topic, newest).is_none() && recent.bytes == 0);
    }
}
