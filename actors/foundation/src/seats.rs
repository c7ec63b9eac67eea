//! Which seats take part: numbers need not be without a gap, since a seat keeps its number when another one goes.

use serde::{Deserialize, Serialize};

use crate::ids::Seat;
use crate::limits::SEATS_MAX;

const _: () = assert!(SEATS_MAX == u64::BITS as usize, "a seat is a bit");

/// A set of seats. Seats at or above [`SEATS_MAX`] are in none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seats(u64);

impl Seats {
    /// The seats from 0 to `count` − 1.
    pub const fn first(count: usize) -> Self {
        match count {
            0 => Self(0),
            1..SEATS_MAX => Self(u64::MAX >> (SEATS_MAX - count)),
            _ => Self(u64::MAX),
        }
    }

    /// How many there are.
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether this one is among them.
    pub fn contains(self, seat: Seat) -> bool {
        self.0 & bit(seat) != 0
    }

    /// Puts one in; says whether it was not there.
    pub fn insert(&mut self, seat: Seat) -> bool {
        let before = *self;
        self.0 |= bit(seat);
        *self != before
    }

    /// All of them, by rising number.
    pub fn iter(self) -> impl Iterator<Item = Seat> {
        (0..SEATS_MAX as u16).map(Seat).filter(move |seat| self.contains(*seat))
    }

    /// Whose turn it is when they take turns, the lowest first; none if there is no seat.
    pub fn at_turn(self, turn: u64) -> Option<Seat> {
        let count = self.len().max(1) as u64;
        self.iter().nth((turn % count) as usize)
    }

    /// The lowest seat that is not among them; none if all are.
    pub fn lowest_vacant(self) -> Option<Seat> {
        (0..SEATS_MAX as u16).map(Seat).find(|seat| !self.contains(*seat))
    }
}

fn bit(seat: Seat) -> u64 {
    if seat.index() < SEATS_MAX { 1 << seat.0 } else { 0 }
}

impl FromIterator<Seat> for Seats {
    fn from_iter<I: IntoIterator<Item = Seat>>(seats: I) -> Self {
        Self(seats.into_iter().fold(0, |all, seat| all | bit(seat)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_take_turns_whatever_their_numbers_are() {
        let seats: Seats = [0, 2, 5].map(Seat).into_iter().collect();
        assert_eq!([0, 1, 2, 3, 7].map(|turn| seats.at_turn(turn).unwrap().0), [0, 2, 5, 0, 2]);
        assert_eq!((seats.len(), seats.lowest_vacant()), (3, Some(Seat(1))));
        assert_eq!(Seats::first(4).iter().map(|seat| seat.0).collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert_eq!(Seats::default().at_turn(3), None);
        assert_eq!((Seats::first(64).len(), Seats::first(64).lowest_vacant()), (64, None));
    }

    #[test]
    fn a_seat_beyond_the_limit_is_in_no_set() {
        let mut seats = Seats::first(2);
        assert!(!seats.insert(Seat(64)) && !seats.contains(Seat(64)) && !seats.contains(Seat(u16::MAX)));
        assert!(seats.insert(Seat(63)) && !seats.insert(Seat(63)) && seats.contains(Seat(63)));
    }
}
