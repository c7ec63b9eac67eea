//! Rules of one member, by their names. What many members do together under faults is the simulator's.

mod log;
mod members;
mod named;
mod net;
mod results;
mod takeover;
mod traffic;

use standin_auth::messages::Request;
use standin_foundation::{Digest, Height, Incarnation, Millis, Term, Writer};

use standin_ledger::Grant;

use super::*;
use net::{Net, id};

fn writer(term: u64, incarnation: u64) -> Writer {
    Writer { term: Term(term), incarnation: Incarnation(incarnation) }
}

/// One record of the first writer, which began at `start` and stands at `head`.
fn push(session: u64, previous: Mark, (start, head): (Lsn, Lsn), entry: Entry) -> Message {
    Message::Push {
        writer: writer(1, 1),
        round: 1,
        session,
        previous,
        from_base: previous == Mark::default(),
        head,
        start,
        released: 0,
        entries: vec![entry],
    }
}
