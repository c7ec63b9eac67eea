//! The wire codec: votes encoded and decoded a second, against the same bytes copied.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::indexing_slicing, reason = "a bench")]

mod common;

use std::hint::black_box;

use standin_consensus::{Body, Signed};
use standin_foundation::wire::Wire;
use standin_foundation::{Digest, Epoch, Height, Seat, Signature, Term, View};

const COUNT: usize = 200_000;

fn main() {
    let body = Body::Commit { view: View(3), height: Height(99_000), digest: Digest::sha256(b"x") };
    let vote = Signed::new(Epoch(0), Seat(2), Term(0), Signature([7; 64]), body);
    let bytes = vote.to_wire().unwrap();
    let ours = || {
        common::rate(COUNT, || {
            for _ in 0..COUNT {
                let bytes = black_box(&vote).to_wire().unwrap();
                black_box(Signed::from_wire(black_box(&bytes)).unwrap());
            }
        })
    };
    let floor = || {
        common::rate(COUNT, || {
            for _ in 0..COUNT {
                black_box(black_box(&bytes).clone());
            }
        })
    };
    common::against_floor("wire: a vote there and back", "votes/s", "one copy", ours, floor);
}
