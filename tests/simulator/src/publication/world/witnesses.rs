//! What seats say of takeovers: the first server of each seat speaks for it.

use standin_foundation::{Epoch, PublicKey, Seat, Term};
use standin_publisher::machine::witness::{Speakers, Word};
use standin_publisher::messages::Takeover;

use super::{Happening, World, secret};
use crate::invariants::Violation;

/// A server asks for words that it lacks so often.
pub(super) const WANTED_EVERY_MS: u64 = 200;

/// Who speaks for the seats.
#[derive(Debug)]
pub(super) struct Seats(pub(super) Vec<PublicKey>);

impl Speakers for Seats {
    fn count(&self, _: Epoch) -> Option<usize> {
        Some(self.0.len())
    }

    fn speaker(&self, epoch: Epoch, seat: Seat, term: Term) -> Option<PublicKey> {
        self.0.get(seat.index()).copied().filter(|_| (epoch, term) == (Epoch(0), Term(1)))
    }
}

impl World {
    /// A server has learned that the chain has granted a lock.
    pub(super) fn witness(&mut self, server: usize, takeover: Takeover) {
        let Some(word) = self.word(server, takeover) else { return };
        for other in 0..self.hosts.len() {
            self.say(server, other, word.clone());
        }
    }

    fn word(&mut self, server: usize, takeover: Takeover) -> Option<Word> {
        let seat = u16::try_from(server).ok().filter(|_| server < self.seats.0.len()).map(Seat)?;
        let witnesses = &mut self.hosts[server].witnesses;
        if let Some(known) = witnesses.word(seat, takeover.topic).filter(|known| known.takeover == takeover) {
            return Some(known.clone());
        }
        let word = Word::sign(&self.chain, &secret(server), takeover, (Epoch(0), seat, Term(1)));
        witnesses.note(word.clone());
        Some(word)
    }

    fn say(&mut self, server: usize, other: usize, word: Word) {
        let is_lost = self.hosts[server].cut_from_servers || self.hosts[other].cut_from_servers;
        if server != other && !is_lost && !(self.faulty && self.rng.u8(0..50) == 0) {
            let after = self.rng.u64(1..6);
            self.at(self.now + after, Happening::Word { server: other, word });
        }
    }

    pub(super) fn heard(&mut self, server: usize, word: Word) -> Result<(), Violation> {
        if self.hosts[server].server.is_none() {
            return Ok(());
        }
        let topic = self.topics.iter().position(|known| *known == word.takeover.topic);
        self.hosts[server].witnesses.note(word);
        topic.map_or(Ok(()), |topic| self.serve(server, topic))
    }

    /// Asks all that speak for seats.
    pub(super) fn want_words(&mut self, server: usize) -> Result<(), Violation> {
        self.at(self.now + WANTED_EVERY_MS, Happening::WantWords { server });
        for topic in 0..self.topics.len() {
            let newest = |host: &super::Host| host.server.as_ref()?.view().get(self.topics[topic])?.takeover;
            let Some(takeover) = newest(&self.hosts[server]) else { continue };
            if self.hosts[server].witnesses.has_proof(takeover.topic, takeover.fence, Epoch(0)) {
                continue;
            }
            self.word(server, takeover);
            for other in 0..self.seats.0.len() {
                let newest = |host: &super::Host| host.server.as_ref()?.view().get(self.topics[topic])?.takeover;
                let stands = self.hosts[other].paused_until > self.now;
                if !stands
                    && newest(&self.hosts[other]) == Some(takeover)
                    && let Some(word) = self.word(other, takeover)
                {
                    self.say(other, server, word);
                }
            }
            self.serve(server, topic)?;
        }
        Ok(())
    }
}
