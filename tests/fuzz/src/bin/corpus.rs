//! Writes one sound sample for each target into the corpus: `cargo run -p standin-fuzz --bin corpus`.
#![allow(clippy::expect_used, reason = "a tool for developers: whatever fails is told and ends it")]

use std::path::Path;

use bytes::Bytes;
use standin_auth::actor::Notice;
use standin_auth::messages::{Update, WrongResult};
use standin_auth::{Answer, Claim, Refusal, Request, Statement};
use standin_cluster::actor::Pushed;
use standin_cluster::messages::{Fact, Facts, Mark};
use standin_cluster::{Entry, Message, NodeRecord};
use standin_consensus::messages::{BlockTransfer, NewView, PreparedCertificate, ViewChange};
use standin_consensus::{BatchPayload, Body, Forward, Note, Record, Signed, Status, Transfer};
use standin_console::messages::{Report, ReportedRow};
use standin_console::{Happening, Kind};
use standin_foundation::wire::Wire;
use standin_foundation::{
    ClusterId, Digest, Epoch, Height, Incarnation, PublicKey, Seat, SecretKey, Signature, Term, View, Writer,
};
use standin_ledger::builtin::Operation;
use standin_ledger::certificate::{CheckpointCertificate, CheckpointResult, CommitCertificate, SeatVote};
use standin_ledger::epoch::Base;
use standin_ledger::grant::Cause;
use standin_ledger::reconfiguration::Change;
use standin_ledger::snapshot::{Chunk, Manifest};
use standin_ledger::store::{StoredBlock, StoredCheckpoint};
use standin_ledger::transaction::TransactionBody;
use standin_ledger::{
    ApprovedReconfiguration, Batch, Grant, GrantTable, Header, Operators, Proposal, Reconfiguration, SystemTransaction,
    Transaction,
};
use standin_publisher::machine::lock::{Ground, Reason};
use standin_publisher::machine::terminal::Published;
use standin_publisher::machine::witness::{TakeoverProof, Word};
use standin_publisher::messages::{
    Attestation, Checkpoint, Events, Frames, Hold, Takeover, WantFrames, WantWords, Words,
};
use standin_publisher::record::TopicRecord;
use standin_publisher::terminal::ToTerminal;
use standin_publisher::{Content, Datum, Event, Fence, Instruction, Push, Sequence, Topic};
use standin_stage::bridge::frame::{Frame, FrameKind, type_of};

fn main() {
    let key = SecretKey::from_bytes(&[5; 32]).expect("a small number is a key");
    let operation = Operation::Put { key: b"key".to_vec(), value: b"value".to_vec() };
    let body = TransactionBody {
        title: "title".parse().expect("a valid title"),
        nonce: 7,
        expires: Height(99),
        payload: operation.to_payload(),
    };
    let transaction = Transaction::sign(&Digest::ZERO, &key, &body).expect("within all limits");
    let batch = Batch::new(vec![transaction.clone(), transaction.clone()]).expect("within all limits");
    let mut proposal = Proposal::null(Height(3), Epoch(0), View(1), Seat(1));
    proposal.batches.push(batch.reference());
    let votes: Vec<_> =
        (0..3).map(|seat| SeatVote { seat: Seat(seat), term: Term(0), signature: Signature([9; 64]) }).collect();
    let result = CheckpointResult {
        height: Height(3),
        block_hash: Digest::sha256(b"b"),
        state_root: Digest::sha256(b"s"),
        receipts_root: Digest::sha256(b"r"),
    };
    let stable = CheckpointCertificate { epoch: Epoch(0), result, votes: votes.clone() };
    let certificate = CommitCertificate {
        epoch: Epoch(0),
        view: View(1),
        height: Height(3),
        digest: proposal.digest(),
        votes: votes.clone(),
    };
    let prepared = PreparedCertificate { view: View(1), proposal: proposal.clone(), votes };
    let view_change = ViewChange { view: View(2), stable: Some(stable.clone()), prepared: vec![prepared.clone()] };
    let signed = |body| Signed::new(Epoch(0), Seat(0), Term(0), Signature([8; 64]), body);
    let new_view = NewView { view: View(2), view_changes: vec![signed(Body::ViewChange(view_change.clone()))] };
    let header = Header {
        transactions_root: proposal.transactions_root(),
        proposal: proposal.clone(),
        parent: Digest::ZERO,
        time_ms: 12,
    };
    let payload = batch.payload().clone();

    let mut frame = bytes::BytesMut::new();
    let kind = FrameKind::Ask;
    Frame { kind, lane: 1, correlation: 9, message_type: type_of("x"), deadline_ms: 5, payload: payload.clone() }
        .encode(&mut frame);
    Frame::signal(FrameKind::Ping).encode(&mut frame);
    write("frame", "ask-and-ping", &frame);
    write("transaction", "put", transaction.bytes());
    write("batch", "two", batch.payload());
    write("operation", "put", &operation.to_payload());
    write("operation", "transfer", &Operation::Transfer { to: key.public(), amount: 5 }.to_payload());
    wire("signed", "pre-prepare", &signed(Body::PrePrepare { view: View(1), proposal: proposal.clone() }));
    wire("signed", "view-change", &signed(Body::ViewChange(view_change.clone())));
    wire("signed", "new-view", &signed(Body::NewView(new_view.clone())));
    wire("signed", "checkpoint", &signed(Body::Checkpoint(result)));
    wire("note", "status", &Note::Status(Status { changing_to: Some(View(2)), ..Status::default() }));
    wire("note", "offer", &Note::Offer(vec![Digest::ZERO; 3]));
    wire("note", "stable", &Note::Stable(stable.clone()));
    wire("note", "grant", &Note::WantGrant(Seat(1), Term(2)));
    wire("forward", "one", &Forward(vec![transaction.bytes().clone()]));
    wire("batch_payload", "batch", &BatchPayload(payload.clone()));
    let block =
        BlockTransfer { proposal: proposal.clone(), certificate: certificate.clone(), payloads: vec![payload.clone()] };
    wire("transfer", "blocks", &Transfer::Blocks(vec![block]));
    wire("record", "batch", &Record::Batch(batch.reference()));
    wire("record", "prepared", &Record::Prepared(prepared));
    wire("record", "new-view", &Record::NewView(signed(Body::NewView(new_view))));
    let committed = Record::Committed { proposal: proposal.clone(), certificate: certificate.clone() };
    wire("record", "committed", &committed);
    let manifest = Manifest {
        certificate: stable.clone(),
        header: header.clone(),
        recent: vec![(Height(3), Digest::ZERO)],
        parts: vec![(vec![1, 2], Digest::ZERO)],
    };
    wire("manifest", "small", &manifest);
    let entry = (Bytes::from_static(b"k"), Bytes::from_static(b"v"));
    wire("chunk", "entries", &Chunk::Entries(vec![entry]));
    wire("chunk", "recent", &Chunk::Recent(vec![(Height(3), vec![Digest::ZERO])]));
    let stored = StoredBlock {
        hash: header.hash(),
        header,
        certificate,
        receipts_root: Digest::ZERO,
        payloads: vec![],
        receipts: vec![],
    };
    wire("stored_block", "small", &stored);
    wire("stored_checkpoint", "proven", &StoredCheckpoint { result, certificate: Some(stable.clone()) });
    clusters(&key, stable);
    consoles();
    publication(key.public());
}

/// What nodes of a cluster, and the auth node, say to each other.
fn clusters(key: &SecretKey, stable: CheckpointCertificate) {
    let cluster: ClusterId = "a".parse().expect("a valid name");
    let grant = Grant {
        chain: Digest::ZERO,
        epoch: Epoch(0),
        cluster: cluster.clone(),
        term: Term(3),
        holder: key.public(),
        in_sync: [key.public().node_id()].into(),
        previous: Digest::ZERO,
        cause: Cause::Suspected,
        incarnation: Incarnation(1),
        request: Digest::ZERO,
    };
    let grant = grant.sign(key);
    let statement = Statement::sign(key, &Digest::ZERO, Claim::Suspicion, cluster.clone(), Term(3));
    let ticket = Bytes::from_static(b"ticket");
    wire("grant", "suspected", &grant);
    let update = Update {
        cluster: cluster.clone(),
        term: Term(3),
        in_sync: grant.grant.in_sync.clone(),
        head: 9,
        session: 7,
        ticket: ticket.clone(),
        statements: vec![statement.clone()],
    };
    wire("auth_request", "update", &Request::Update(update));
    let vote = SeatVote { seat: Seat(0), term: Term(3), signature: Signature([9; 64]) };
    let report = WrongResult { cluster: cluster.clone(), result: stable.result, vote, certificate: stable };
    let operators = Operators { keys: vec![key.public()], needed: 1 };
    let base = Base { holder: key.public(), disk: 7, incarnation: Incarnation(1) };
    let changes = vec![Change::Operators(operators), Change::Hold { cluster: cluster.clone(), base }];
    let reconfiguration = Reconfiguration { chain: Digest::ZERO, epoch: Epoch(0), changes };
    let approved = ApprovedReconfiguration::draft(reconfiguration).by(key);
    wire("system_transaction", "reconfigure", &SystemTransaction::Reconfigure(approved));
    wire("system_transaction", "record", &SystemTransaction::Record(vec![grant.clone()]));
    let table = GrantTable::fixed(Digest::ZERO, vec![key.public()]);
    wire("epoch_table", "fixed", table.table(Epoch(0)).expect("the table of epoch 0"));
    wire("note", "fetch-epoch", &Note::FetchEpoch(Epoch(1)));
    wire("auth_request", "report-wrong", &Request::ReportWrong(Box::new(report)));
    wire("auth_answer", "granted", &Answer::Granted { grant: grant.clone(), ticket });
    let refused = Answer::Refused { why: Refusal::NoGround { missing: 2 }, current: Some(grant.clone()) };
    wire("auth_answer", "refused", &refused);
    let writer = Writer { term: Term(3), incarnation: Incarnation(2) };
    let mark = Mark { lsn: 8, hash: Digest::ZERO };
    let entry = Entry { lsn: 9, hash: Digest::ZERO, record: Bytes::from_static(b"record") };
    let push = Message::Push {
        writer,
        round: 1,
        session: 7,
        previous: mark,
        from_base: false,
        head: 9,
        start: 8,
        released: 8,
        entries: vec![entry.clone()],
    };
    wire("cluster_message", "push", &push);
    wire("cluster_push", "push", &Pushed { message: push, payloads: vec![Bytes::from_static(b"payload")] });
    wire("auth_notice", "grant", &Notice(grant.clone()));
    let sealed = standin_auth::ticket::seal(&key.public(), &Digest::ZERO, &"a".parse().expect("a valid name"));
    write("ticket", "sealed", &sealed.expect("the system has random bytes"));
    let head = Message::Head { writer, round: 1, session: 7, marks: vec![mark], extends: true };
    wire("cluster_message", "head", &head);
    wire("cluster_message", "statement", &Message::Statement(statement));
    wire("node_record", "entry", &NodeRecord::Entry(entry));
    wire("node_record", "granted", &NodeRecord::Fact(Fact::Granted(Box::new(grant.clone()))));
    let founded = NodeRecord::Founded { grant: Box::new(grant.clone()), session: 8, complete: true };
    wire("node_record", "founded", &founded);
    let facts = Facts { grant: Some(grant), session: 7, complete: true, base: mark, ..Facts::default() };
    wire("node_record", "facts", &NodeRecord::Facts(Box::new(facts)));
}

/// What sources push, members tell the chain, and servers tell terminals.
fn publication(owner: PublicKey) {
    let topic: Topic = "rates".parse().expect("a valid name");
    let data = [("EURUSD", "1.08"), ("", "x")].map(|(id, value)| Datum { id: id.into(), value: value.into() });
    let content = Content::new(&data).expect("within all limits");
    let entry = standin_publisher::Entry::following(&Digest::ZERO, Sequence(1), &content).expect("the first frame");
    write("push", "two", &Push { session: 1, nonce: 2, content: content.clone() }.to_payload());
    let checkpoint = Checkpoint { upto: Sequence(2), chain: entry.chain };
    let hold = Hold { topic, fence: Fence(3), renewal: Some(4), published: Some(checkpoint) };
    let attestation = Attestation { topic, fence: Fence(3), ground: Ground::Lost { renewals: 4 } };
    wire(
        "publisher_instruction",
        "acquire",
        &Instruction::Acquire { topic, after: Fence(2), lease_ms: 1_000, outside: Some(7) },
    );
    wire("publisher_instruction", "hold", &Instruction::Hold(vec![hold]));
    wire("publisher_instruction", "attest", &Instruction::Attest(vec![attestation]));
    let (fence, from, before, lease_ms) = (Fence(3), Sequence(1), Digest::ZERO, 1_000);
    let takeover = Takeover { topic, fence, owner, lease_ms, from, before };
    let released = Event::Released { topic, fence, owner, reason: Reason::Expired };
    let events = vec![Event::Queued { topic, entry }, Event::Granted(takeover), released];
    wire("publisher_events", "some", &Events(events));
    let mut record = TopicRecord::default();
    drop(record.lock.acquire(owner, Fence(0), 1_000, 5));
    wire("topic_record", "held", &record);
    let bytes = content.bytes().clone();
    let frame = ToTerminal::Frame(Published { fence, entry, content });
    let speaks = (Epoch(0), Seat(1), Term(2));
    let word =
        Word::sign(&Digest::ZERO, &SecretKey::from_bytes(&[5; 32]).expect("a small number is a key"), takeover, speaks);
    wire("publisher_words", "one", &Words(vec![word.clone()]));
    wire("publisher_want_words", "one", &WantWords(vec![(topic, fence)]));
    wire("publisher_frames", "one", &Frames { topic, frames: vec![(from, bytes)] });
    wire("publisher_want_frames", "one", &WantFrames { topic, frames: vec![from] });
    let proof = TakeoverProof { takeover, epoch: Epoch(0), witnesses: vec![word.witness] };
    let refused = ToTerminal::Refused { why: "why".to_owned(), first: Some(from) };
    for (name, message) in [("frame", frame), ("takeover", ToTerminal::Takeover(proof)), ("refused", refused)] {
        write("to_terminal", name, &message.to_bytes());
    }
}

/// What a console says to a node, and nodes to each other for it.
fn consoles() {
    let detail = "to de751b3f".to_owned();
    let (cluster, ms) = (Some("a".to_owned()), Some(12));
    let happened = vec![Happening { at_ms: 1, kind: Kind::Granted, cluster, term: Some(2), ms, detail }];
    let json = r#"{"name":"a-s1","height":3}"#.to_owned();
    let rows = vec![ReportedRow { topic: "nodes".to_owned(), key: String::new(), json }];
    wire("console_report", "rows", &Report { life: 7, rows, from: 3, happened });
    let subscribes = r#"{"t":"sub","id":1,"topic":"events","filter":{"cluster":"a"},"since":{"epoch":"life","seq":3}}"#;
    write("console_frame", "subscribe", subscribes.as_bytes());
    write("console_frame", "ping", br#"{"t":"ping","id":2}"#);
}

fn wire<T: Wire>(target: &str, name: &str, value: &T) {
    write(target, name, &value.to_wire().expect("within all limits"));
}

fn write(target: &str, name: &str, bytes: &[u8]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    std::fs::create_dir_all(&folder).expect("the corpus can be written");
    std::fs::write(folder.join(name), bytes).expect("the corpus can be written");
}
