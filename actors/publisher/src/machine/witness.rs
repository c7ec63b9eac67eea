//! What makes a takeover certain to those who trust no single server: seats that have executed the grant sign it, and of f+1 seats one is honest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use standin_foundation::wire::Wire;
use standin_foundation::{Digest, Domain, Encoder, Epoch, PublicKey, Seat, SecretKey, Signature, Term};
#[cfg(feature = "actor")]
use standin_ledger::GrantBook;
use standin_ledger::GrantTable;
use standin_ledger::certificate::{Authority as _, faulty_max};

use crate::ids::{Fence, Topic};
use crate::messages::Takeover;
use crate::record::TOPICS_MAX;

/// Bytes of a proof.
const PROOF_BYTES_MAX: usize = 16 * 1024;

/// Knows who speaks for seats.
pub trait Speakers {
    /// How many seats there are in an epoch; none where the epoch is not known.
    fn count(&self, epoch: Epoch) -> Option<usize>;

    /// The key that speaks for a seat in a term of an epoch, as far as is known.
    fn speaker(&self, epoch: Epoch, seat: Seat, term: Term) -> Option<PublicKey>;
}

impl Speakers for GrantTable {
    fn count(&self, epoch: Epoch) -> Option<usize> {
        self.seats(epoch).map(|seats| seats.len())
    }

    fn speaker(&self, epoch: Epoch, seat: Seat, term: Term) -> Option<PublicKey> {
        self.holder_in(epoch, seat, term).copied()
    }
}

#[cfg(feature = "actor")]
impl Speakers for GrantBook {
    fn count(&self, epoch: Epoch) -> Option<usize> {
        self.seats(epoch).map(|seats| seats.len())
    }

    fn speaker(&self, epoch: Epoch, seat: Seat, term: Term) -> Option<PublicKey> {
        self.holder_in(epoch, seat, term)
    }
}

/// Who says it: a seat, by its holder of that term, in that epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Witness {
    /// The seat.
    pub seat: Seat,
    /// The term of the seat's grant.
    pub term: Term,
    /// The holder's signature.
    pub signature: Signature,
}

/// A seat's word that a takeover stands on the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Word {
    /// What.
    pub takeover: Takeover,
    /// The epoch in which it is said: words of one epoch add up.
    pub epoch: Epoch,
    /// Whose word it is.
    pub witness: Witness,
}

/// What is signed: chain, epoch, seat, term, and all of the takeover.
fn signed_content(chain: &Digest, takeover: &Takeover, (epoch, seat, term): (Epoch, Seat, Term)) -> Vec<u8> {
    let Takeover { topic, fence, owner, lease_ms, from, before } = takeover;
    let mut out = Encoder::with_capacity(256);
    out.digest(chain).u64(epoch.0).u16(seat.0).u64(term.0).bytes(topic.as_str().as_bytes()).u64(fence.0);
    out.raw(owner.as_bytes()).u32(*lease_ms).u64(from.0).digest(before);
    out.into_bytes()
}

impl Word {
    /// The word of whoever speaks for a seat.
    pub fn sign(chain: &Digest, key: &SecretKey, takeover: Takeover, speaks: (Epoch, Seat, Term)) -> Self {
        let (epoch, seat, term) = speaks;
        let signature = key.sign(Domain::Takeover, &signed_content(chain, &takeover, speaks));
        Self { takeover, epoch, witness: Witness { seat, term, signature } }
    }

    /// Whether the seat's holder of that term said it, as far as is known.
    pub fn is_sound(&self, chain: &Digest, speakers: &impl Speakers) -> bool {
        judge(chain, speakers, &self.takeover, self.epoch, &self.witness).is_ok()
    }
}

fn judge(
    chain: &Digest,
    speakers: &impl Speakers,
    takeover: &Takeover,
    epoch: Epoch,
    witness: &Witness,
) -> Result<(), Unproven> {
    let Witness { seat, term, signature } = witness;
    let speaker = speakers.speaker(epoch, *seat, *term).ok_or(Unproven::Unknown { seat: *seat, term: *term, epoch })?;
    let content = signed_content(chain, takeover, (epoch, *seat, *term));
    match speaker.verify(Domain::Takeover, &content, signature) {
        true => Ok(()),
        false => Err(Unproven::Signature { seat: *seat }),
    }
}

/// Why a takeover is not proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unproven {
    /// Who sat there then is not known here.
    #[error("who spoke for seat {seat} in term {} of epoch {} is not known", term.0, epoch.0)]
    Unknown {
        /// The seat.
        seat: Seat,
        /// The term.
        term: Term,
        /// The epoch.
        epoch: Epoch,
    },
    /// The epoch is not known here.
    #[error("epoch {} is not known", .0.0)]
    Epoch(Epoch),
    /// It is not the holder's signature.
    #[error("the signature for seat {seat} is not its holder's")]
    Signature {
        /// The seat.
        seat: Seat,
    },
    /// Not enough seats.
    #[error("{found} seats say so, {needed} are needed")]
    TooFew {
        /// That say so.
        found: usize,
        /// That must.
        needed: usize,
    },
}

impl Unproven {
    /// Whether newer epochs or grants may prove it.
    pub fn may_be_proven(&self) -> bool {
        matches!(self, Self::Unknown { .. } | Self::Epoch(_))
    }
}

/// A takeover with the words of those who executed the grant. It is nothing until it is verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakeoverProof {
    /// The takeover.
    pub takeover: Takeover,
    /// The epoch of all words.
    pub epoch: Epoch,
    /// Whose words.
    pub witnesses: Vec<Witness>,
}

impl Wire for TakeoverProof {
    const NAME: &'static str = "proof of a takeover";
    const BYTES_MAX: usize = PROOF_BYTES_MAX;
}

impl TakeoverProof {
    /// Checks that f+1 distinct seats of the epoch say so: at least one of them is honest, and has executed the grant.
    pub fn verify(&self, chain: &Digest, speakers: &impl Speakers) -> Result<Proven, Unproven> {
        let seats = speakers.count(self.epoch).ok_or(Unproven::Epoch(self.epoch))?;
        let needed = faulty_max(seats) + 1;
        let (mut sound, mut fault) = (BTreeSet::new(), None);
        for witness in &self.witnesses {
            if sound.len() >= needed {
                break;
            }
            // One that does not hold makes the others no less true.
            match judge(chain, speakers, &self.takeover, self.epoch, witness) {
                Ok(()) => _ = sound.insert(witness.seat),
                Err(why) => _ = fault.get_or_insert(why),
            }
        }
        match sound.len() {
            found if found >= needed => Ok(Proven { takeover: self.takeover, epoch: self.epoch }),
            found => Err(fault.unwrap_or(Unproven::TooFew { found, needed })),
        }
    }
}

/// A takeover that is proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proven {
    takeover: Takeover,
    epoch: Epoch,
}

impl Proven {
    /// The takeover.
    pub fn takeover(&self) -> &Takeover {
        &self.takeover
    }

    /// The epoch whose seats have said so.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Taken for proven: for tests, and for trying out what happens without a proof.
    #[cfg(any(test, feature = "mutations"))]
    pub fn without_proof(takeover: Takeover, epoch: Epoch) -> Self {
        Self { takeover, epoch }
    }
}

/// What a server collects: words, and the proofs that they make. Bounded by seats and topics, whoever says what.
#[derive(Debug, Default)]
pub struct Witnesses {
    words: BTreeMap<Seat, BTreeMap<Topic, Word>>,
    proofs: BTreeMap<Topic, Arc<TakeoverProof>>,
}

impl Witnesses {
    /// The newest word of a seat about a topic.
    pub fn word(&self, seat: Seat, topic: Topic) -> Option<&Word> {
        self.words.get(&seat)?.get(&topic)
    }

    /// Whether a word says more than is known: only then it is worth the check of its signature. Whoever holds the seat next may correct
    /// what the one before has said.
    pub fn is_news(&self, word: &Word) -> bool {
        let of_seat = self.words.get(&word.witness.seat);
        let place = |word: &Word| (word.epoch, word.witness.term, word.takeover.fence);
        match of_seat.and_then(|words| words.get(&word.takeover.topic)) {
            Some(known) => place(word) > place(known),
            None => of_seat.is_none_or(|words| words.len() < TOPICS_MAX),
        }
    }

    /// Takes a word that is sound.
    pub fn note(&mut self, word: Word) {
        if self.is_news(&word) {
            self.words.entry(word.witness.seat).or_default().insert(word.takeover.topic, word);
        }
    }

    /// The proof of a topic's newest takeover, by the newest epoch whose seats have said so; none as long as too few have. `seats` is how many
    /// there are in an epoch.
    pub fn proof(&mut self, takeover: &Takeover, seats: impl Fn(Epoch) -> Option<usize>) -> Option<Arc<TakeoverProof>> {
        let topic = takeover.topic;
        let known = self.proofs.get(&topic).filter(|known| known.takeover == *takeover);
        let is_newer = |word: &&Word| word.takeover == *takeover && known.is_none_or(|known| word.epoch > known.epoch);
        let said = self.words.values().filter_map(|words| words.get(&topic)).filter(is_newer);
        let mut by_epoch = BTreeMap::<Epoch, Vec<Witness>>::new();
        said.for_each(|word| by_epoch.entry(word.epoch).or_default().push(word.witness.clone()));
        let is_enough = |(epoch, witnesses): &(Epoch, Vec<Witness>)| {
            seats(*epoch).is_some_and(|seats| witnesses.len() > faulty_max(seats))
        };
        let Some((epoch, witnesses)) = by_epoch.into_iter().rev().find(is_enough) else { return known.cloned() };
        let proof = Arc::new(TakeoverProof { takeover: *takeover, epoch, witnesses });
        self.proofs.insert(topic, Arc::clone(&proof));
        Some(proof)
    }

    /// Whether a takeover is proven here by seats of this epoch.
    pub fn has_proof(&self, topic: Topic, fence: Fence, epoch: Epoch) -> bool {
        self.proofs.get(&topic).is_some_and(|known| known.takeover.fence == fence && known.epoch >= epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Sequence;

    struct Seats(u16);

    fn key(n: u16) -> SecretKey {
        SecretKey::from_bytes(&[u8::try_from(n).unwrap() + 1; 32]).unwrap()
    }

    impl Speakers for Seats {
        fn count(&self, epoch: Epoch) -> Option<usize> {
            (epoch <= Epoch(1)).then_some(usize::from(self.0))
        }

        fn speaker(&self, _: Epoch, seat: Seat, term: Term) -> Option<PublicKey> {
            (seat.0 < self.0 && term == Term(1)).then(|| key(seat.0).public())
        }
    }

    const CHAIN: Digest = Digest::ZERO;

    fn takeover(fence: u64) -> Takeover {
        let (topic, owner) = ("t".parse().unwrap(), key(0).public());
        Takeover { topic, fence: Fence(fence), owner, lease_ms: 1_000, from: Sequence(5), before: Digest::ZERO }
    }

    fn word(seat: u16, fence: u64, epoch: u64) -> Word {
        Word::sign(&CHAIN, &key(seat), takeover(fence), (Epoch(epoch), Seat(seat), Term(1)))
    }

    fn proof(words: &[Word]) -> TakeoverProof {
        let witnesses = words.iter().map(|word| word.witness.clone()).collect();
        TakeoverProof { takeover: words[0].takeover, epoch: words[0].epoch, witnesses }
    }

    /// H11: no server alone, and no f of them, make a takeover.
    #[test]
    fn h11_a_takeover_needs_the_words_of_more_seats_than_may_be_false() {
        let seats = Seats(4);
        let verify = |proof: &TakeoverProof| proof.verify(&CHAIN, &seats);
        let sound = proof(&[word(0, 2, 0), word(3, 2, 0)]);
        assert_eq!(verify(&sound).unwrap().takeover(), &takeover(2));
        assert_eq!(verify(&proof(&[word(0, 2, 0)])), Err(Unproven::TooFew { found: 1, needed: 2 }));
        let twice = proof(&[word(0, 2, 0), word(0, 2, 0)]);
        assert_eq!(verify(&twice), Err(Unproven::TooFew { found: 1, needed: 2 }), "one seat has one word");
        let with_junk = proof(&[word(1, 2, 1), word(0, 2, 0), word(3, 2, 0)]);
        let with_junk = TakeoverProof { epoch: Epoch(0), ..with_junk };
        assert!(verify(&with_junk).is_ok(), "a false word takes nothing from the others");
        let raised = TakeoverProof { takeover: takeover(9), ..sound.clone() };
        assert_eq!(verify(&raised), Err(Unproven::Signature { seat: Seat(0) }), "a fence of the future");
        let moved = TakeoverProof { takeover: Takeover { from: Sequence(6), ..takeover(2) }, ..sound.clone() };
        assert_eq!(verify(&moved), Err(Unproven::Signature { seat: Seat(0) }));
        let elsewhere = sound.verify(&Digest::sha256(b"another chain"), &seats);
        assert_eq!(elsewhere, Err(Unproven::Signature { seat: Seat(0) }));
        let later = TakeoverProof { epoch: Epoch(2), ..sound.clone() };
        assert!(verify(&later).unwrap_err().may_be_proven(), "the epoch may become known");
        let mut of_later_term = sound;
        of_later_term.witnesses[1].term = Term(2);
        assert!(verify(&of_later_term).unwrap_err().may_be_proven());
        assert!(proof(&[word(0, 1, 0)]).verify(&CHAIN, &Seats(1)).is_ok(), "with one seat its word is the chain's");
    }

    #[test]
    fn words_of_one_epoch_make_a_proof_and_older_ones_are_replaced() {
        let (mut witnesses, seats) = (Witnesses::default(), |epoch| Seats(4).count(epoch));
        witnesses.note(word(0, 2, 0));
        assert_eq!(witnesses.proof(&takeover(2), seats), None);
        witnesses.note(word(1, 2, 1));
        assert_eq!(witnesses.proof(&takeover(2), seats), None, "of two epochs");
        assert!(witnesses.is_news(&word(0, 2, 1)) && !witnesses.is_news(&word(1, 2, 0)));
        witnesses.note(word(0, 2, 1));
        let made = witnesses.proof(&takeover(2), seats).unwrap();
        assert!(made.verify(&CHAIN, &Seats(4)).is_ok());
        assert!(witnesses.has_proof(made.takeover.topic, Fence(2), Epoch(1)));
        assert!(
            !witnesses.has_proof(made.takeover.topic, Fence(2), Epoch(2)),
            "the next epoch's seats have not said so"
        );
        witnesses.note(word(1, 9, 1));
        assert!(witnesses.proof(&takeover(2), seats).is_some(), "what is proven stays so");
        assert_eq!(witnesses.proof(&takeover(9), seats), None, "one seat's word for a fence of the future");
        assert!(!witnesses.is_news(&word(1, 8, 1)));
    }

    #[test]
    fn a_takeover_is_proven_anew_in_each_epoch() {
        let (mut witnesses, seats) = (Witnesses::default(), |epoch| Seats(4).count(epoch));
        let mut proven = |word| {
            witnesses.note(word);
            witnesses.proof(&takeover(2), seats).map(|proof| proof.epoch)
        };
        assert_eq!([proven(word(0, 2, 0)), proven(word(1, 2, 0))], [None, Some(Epoch(0))]);
        assert_eq!(proven(word(0, 2, 1)), Some(Epoch(0)), "one seat of the next epoch");
        assert_eq!(proven(word(2, 2, 1)), Some(Epoch(1)));
        assert_eq!(proven(word(3, 2, 0)), Some(Epoch(1)));
    }

    /// A holder that named a fence that never was says nothing against the next holder of its seat.
    #[test]
    fn the_next_holder_of_a_seat_may_correct_what_the_one_before_said() {
        let mut witnesses = Witnesses::default();
        witnesses.note(word(0, u64::MAX, 0));
        let mut next = word(0, 2, 0);
        assert!(!witnesses.is_news(&next));
        next.witness.term = Term(2);
        assert!(witnesses.is_news(&next));
        witnesses.note(next);
        assert!(!witnesses.is_news(&word(0, u64::MAX, 0)), "late");
        assert!(witnesses.is_news(&word(0, 2, 1)), "of the next epoch");
    }

    #[test]
    fn what_a_seat_says_of_topics_is_bounded() {
        let mut witnesses = Witnesses::default();
        let about = |n: usize| {
            let topic = format!("t{n}").parse().unwrap();
            Word { takeover: Takeover { topic, ..takeover(1) }, ..word(0, 1, 0) }
        };
        (0..TOPICS_MAX + 5).for_each(|n| witnesses.note(about(n)));
        assert_eq!(witnesses.words[&Seat(0)].len(), TOPICS_MAX);
        assert!(witnesses.is_news(&Word { epoch: Epoch(1), ..about(3) }), "of known ones it may say more");
    }
}
