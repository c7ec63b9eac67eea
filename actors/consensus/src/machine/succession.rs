//! Other seats' changes of holder.

use standin_foundation::Term;

use super::*;

impl Machine {
    /// The new holder of a seat goes on from its log, which holds what the seat said, not what was said to it.
    pub(super) fn on_holder_changed(&mut self, seat: Seat) {
        if seat == self.identity.seat {
            return;
        }
        self.fresh_holders.insert(seat);
        // It has heard nothing: what it is told first is that this seat lives, and where it stands.
        self.tell(Recipient::One(seat), Note::Status(self.status()));
        // A primary that has just taken over gets the time that a new one would have; once, or a seat that changes its
        // holder without end would hold the view for ever.
        if seat == self.primary() && self.is_normal() && self.spared_view != Some(self.view) {
            self.spared_view = Some(self.view);
            self.view_deadline = None;
        }
    }

    /// Whether the log that a message stands in goes on from where it had been seen. A log that begins anew below that has
    /// lost what its seat had said.
    pub(super) fn is_whole(&mut self, message: &Signed) -> bool {
        let (seat, place) = (message.seat(), message.place);
        // A seat that one node holds for ever may lose its disk and begin anew: there is no other log that it could belie.
        if seat == self.identity.seat || place.writer.term == Term(0) {
            return true;
        }
        let seen = self.seen.entry(seat).or_default();
        let start = *seen.starts.entry(place.writer).or_insert(place.start);
        if seen.starts.len() > WRITERS_MAX {
            seen.starts.pop_first();
        }
        // A writer begins once: an image of an earlier disk has come to the same number again. If it goes on from all that was seen it has
        // been told of it by its members, and counts.
        if start != place.start && place.writer == seen.writer && place.start >= seen.highest {
            seen.starts.insert(place.writer, place.start);
        } else if start != place.start {
            self.report(Event::RolledBack { seat, start: place.start, seen: start });
            return false;
        }
        if place.writer < seen.writer {
            // Passed on by another, or late: it counts as what it is.
            return true;
        }
        if place.writer > seen.writer {
            let rolled_back = place.start < seen.highest;
            let before = seen.highest;
            (seen.writer, seen.rolled_back) = (place.writer, rolled_back);
            if rolled_back {
                self.report(Event::RolledBack { seat, start: place.start, seen: before });
                return false;
            }
        }
        if !seen.rolled_back {
            seen.highest = seen.highest.max(place.lsn);
        }
        !seen.rolled_back
    }
}
