//! What seats say of takeovers: the first server of each seat speaks for it, in each epoch with another key.

use standin_foundation::{Epoch, PublicKey, Seat, SecretKey, Term};
use standin_publisher::machine::witness::{Speakers, Word};
use standin_publisher::messages::Takeover;

use super::{Happening, World};
use crate::invariants::Violation;

/// A server asks for words that it lacks so often.
pub(super) const WANTED_EVERY_MS: u64 = 200;

/// Epochs that there are at the most.
const EPOCHS_MAX: u64 = 4;

/// Who speaks for the seats, in each epoch.
#[derive(Debug)]
pub(super) struct Seats {
    count: usize,
    epochs: Vec<Vec<PublicKey>>,
}

impl Seats {
    pub(super) fn new(count: usize) -> Self {
        let mut seats = Self { count, epochs: Vec::new() };
        seats.begin();
        seats
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// The newest epoch.
    pub(super) fn epoch(&self) -> Epoch {
        Epoch(self.epochs.len().saturating_sub(1) as u64)
    }

    fn begin(&mut self) {
        let epoch = Epoch(self.epochs.len() as u64);
        self.epochs.push((0..self.count).map(|seat| signer(seat, epoch).public()).collect());
    }
}

/// What a seat signs with in an epoch.
pub(super) fn signer(seat: usize, epoch: Epoch) -> SecretKey {
    let mut bytes = [9; 32];
    (bytes[0], bytes[1]) = (u8::try_from(seat).unwrap_or(u8::MAX), epoch.0 as u8);
    SecretKey::from_bytes(&bytes).unwrap_or_else(|| panic!("a fixed key is valid"))
}

impl Speakers for Seats {
    fn count(&self, epoch: Epoch) -> Option<usize> {
        (epoch <= self.epoch()).then_some(self.count)
    }

    fn speaker(&self, epoch: Epoch, seat: Seat, term: Term) -> Option<PublicKey> {
        self.epochs.get(usize::try_from(epoch.0).ok()?)?.get(seat.index()).copied().filter(|_| term == Term(1))
    }
}

impl World {
    pub(super) fn begin_epoch_later(&mut self) {
        if self.seats.epoch().next().0 < EPOCHS_MAX {
            let after = self.rng.u64(1_500..8_000);
            self.at(self.now + after, Happening::Epoch);
        }
    }

    /// Servers learn of it one after the other, as they execute the block in which it begins.
    pub(super) fn begin_epoch(&mut self) {
        self.seats.begin();
        let epoch = self.seats.epoch();
        for server in 0..self.hosts.len() {
            let after = self.rng.u64(1..300);
            self.at(self.now + after, Happening::EpochKnown { server, epoch });
        }
        self.begin_epoch_later();
    }

    /// A server has learned that the chain has granted a lock.
    pub(super) fn witness(&mut self, server: usize, takeover: Takeover) {
        let Some(word) = self.word(server, takeover) else { return };
        for other in 0..self.hosts.len() {
            self.say(server, other, word.clone());
        }
    }

    fn word(&mut self, server: usize, takeover: Takeover) -> Option<Word> {
        let seat = u16::try_from(server).ok().filter(|_| server < self.seats.len()).map(Seat)?;
        let epoch = self.hosts[server].epoch;
        let witnesses = &mut self.hosts[server].witnesses;
        let is_of_now = |known: &&Word| known.takeover == takeover && known.epoch == epoch;
        if let Some(known) = witnesses.word(seat, takeover.topic).filter(is_of_now) {
            return Some(known.clone());
        }
        let word = Word::sign(&self.chain, &signer(server, epoch), takeover, (epoch, seat, Term(1)));
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
        // Whose word it is cannot be known before its epoch is: it is asked for again.
        if self.hosts[server].server.is_none() || word.epoch > self.hosts[server].epoch {
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
            if self.hosts[server].witnesses.has_proof(takeover.topic, takeover.fence, self.hosts[server].epoch) {
                continue;
            }
            self.word(server, takeover);
            for other in 0..self.seats.len() {
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
