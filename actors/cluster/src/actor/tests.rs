//! The actor around the machine: what lies on the way between it and its replica.

use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use standin_foundation::{Epoch, Incarnation, Lsn, Seat, SecretKey};
use standin_ledger::grant::Cause;
use standin_ledger::log::{Log, LogOptions};
use standin_ledger::{Genesis, Grant, MemberBook, SeatDescriptor};
use standin_stage::bridge::Peers;
use standin_stage::{Cell, MailboxLimits, Supervision};

use super::*;
use crate::Config;
use crate::machine::{Description, Identity};
use crate::messages::Fact;

const CHAIN: Digest = Digest::ZERO;

fn describe(record: &Bytes) -> Option<Description> {
    let carries = record.strip_prefix(b"+").map(|name| (Digest::sha256(name), 1));
    Some(Description { carries, ..Description::default() })
}

fn key() -> SecretKey {
    SecretKey::from_bytes(&[1; 32]).unwrap()
}

fn grant(term: u64) -> SignedGrant {
    let grant = Grant {
        chain: CHAIN,
        epoch: Epoch(0),
        cluster: "a".parse().unwrap(),
        term: Term(term),
        holder: key().public(),
        in_sync: [key().public().node_id()].into(),
        previous: Digest::ZERO,
        cause: Cause::First,
        incarnation: Incarnation(1),
        request: Digest::ZERO,
    };
    grant.sign(&key())
}

fn genesis() -> Genesis {
    Genesis {
        chain: "test-member".parse().unwrap(),
        time_ms: 0,
        auth: Some(key().public()),
        parameters: Default::default(),
        seats: vec![SeatDescriptor::of_one("a".parse().unwrap(), key().public())],
        operators: Default::default(),
        clients: Default::default(),
        accounts: Vec::new(),
    }
}

/// The log of a node that holds its seat alone, in term 1.
fn write_log(folder: &Path, options: LogOptions) {
    let (mut log, _) = Log::open(folder, options).unwrap();
    let facts =
        [Fact::Life(Incarnation(1)), Fact::Session { session: 1, complete: true }, Fact::Granted(Box::new(grant(1)))];
    for fact in facts {
        log.append(&[&log_writer::encode(&NodeRecord::Fact(fact)).unwrap()]).unwrap();
    }
    log.sync().unwrap();
}

fn start(folder: &Path) -> (Cell<MemberActor>, MemberLog, Receiver<SeatLogEvent>) {
    let options = LogOptions { segment_bytes: 65_536, chain: CHAIN };
    write_log(folder, options);
    let node = key().public().node_id();
    let config = MemberConfig {
        identity: Identity { node, cluster: "a".parse().unwrap(), members: [(node, 1)].into(), fixed: false },
        config: Config::default(),
        describe,
        folder: folder.to_owned(),
        segment_bytes: options.segment_bytes,
        chain: CHAIN,
    };
    let links = Links {
        key: key(),
        chain: CHAIN,
        cluster: "a".parse().unwrap(),
        seat: Seat(0),
        members: Arc::new(MemberBook::unkept(&genesis())),
        peers: Peers::default(),
        auths: Auths::default(),
        grants: Arc::new(|_| true),
        on_event: Box::new(|_, _| {}),
    };
    let (opened, _) = Opened::open(config).unwrap();
    let (made, make) = channel();
    let cell = Cell::spawn("member", Supervision::never_restart(), MailboxLimits::default(), move |_| {
        make.try_recv().unwrap()
    });
    let (sender, events) = channel();
    let sink = Box::new(move |event| drop(sender.send(event)));
    let (member, log) = opened.start(cell.address().clone(), links, sink).unwrap();
    made.send(member).unwrap();
    (cell, log, events)
}

async fn wait_for<T>(events: &Receiver<SeatLogEvent>, wanted: impl Fn(SeatLogEvent) -> Option<T>) -> T {
    for _ in 0..2_000 {
        while let Ok(event) = events.try_recv() {
            if let Some(found) = wanted(event) {
                return found;
            }
        }
        actix::clock::sleep(Duration::from_millis(5)).await;
    }
    panic!("nothing of the kind happened");
}

fn piece(text: &'static str) -> LogPiece {
    LogPiece { record: Bytes::from_static(text.as_bytes()), payload: None }
}

/// The replica learns of a new term of its own seat a moment after the log does: what it appended meanwhile, as it believed to
/// be, has its place in the log. Were it dropped, the replica would count records that do not exist.
#[actix::test]
async fn a_record_that_was_on_its_way_when_a_new_term_began_is_not_lost() {
    let folder = tempfile::tempdir().unwrap();
    let (cell, log, events) = start(folder.path());
    let first = wait_for(&events, |event| match event {
        SeatLogEvent::Activated { writer, .. } => Some(writer),
        _ => None,
    });
    let first = first.await;
    log.append(first, vec![piece("one")]);
    cell.address().tell(Granted(grant(2))).unwrap();
    let (second, start): (Writer, Lsn) = wait_for(&events, |event| match event {
        SeatLogEvent::Rebased { writer, start } => Some((writer, start)),
        _ => None,
    })
    .await;
    assert_eq!((second.term, start), (Term(2), 1));
    log.append(first, vec![piece("two"), piece("three")]);
    log.append(second, vec![piece("four")]);
    let released = wait_for(&events, |event| match event {
        SeatLogEvent::Released { writer, lsn: 4 } => Some(writer),
        _ => None,
    });
    assert_eq!(released.await, second);
    cell.stop();
}

/// Whatever was acknowledged with the record would be lost: the node stops.
#[actix::test]
async fn l1_a_record_whose_payload_is_not_here_is_not_written_without_it() {
    let folder = tempfile::tempdir().unwrap();
    let (cell, log, events) = start(folder.path());
    let writer = wait_for(&events, |event| match event {
        SeatLogEvent::Activated { writer, .. } => Some(writer),
        _ => None,
    });
    log.append(writer.await, vec![piece("+a")]);
    let why = wait_for(&events, |event| match event {
        SeatLogEvent::Failed(why) => Some(why),
        _ => None,
    });
    assert!(why.await.contains("is not here"));
    cell.stop();
}
