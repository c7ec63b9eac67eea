//! A target for every decoder: any bytes may come in; nothing may panic, and what decodes must encode to the same bytes
//! where there is one encoding.
//!
//! The ordinary tests replay `corpus/` and thousands of seeded mutations of it. `libfuzzer/` holds the same targets for
//! cargo-fuzz (`cargo fuzz run TARGET` there).

use bytes::Bytes;
use standin_auth::actor::Notice;
use standin_auth::{Answer, Request};
use standin_cluster::actor::Pushed;
use standin_cluster::{Message, NodeRecord};
use standin_consensus::{BatchPayload, Forward, Note, Record, Signed, Transfer};
use standin_console::machine::Session;
use standin_console::messages::Report;
use standin_foundation::wire::Wire;
use standin_foundation::{Digest, Millis, SecretKey};
use standin_ledger::builtin::Operation;
use standin_ledger::snapshot::{Chunk, Manifest};
use standin_ledger::store::{StoredBlock, StoredCheckpoint};
use standin_ledger::{Batch, EpochTable, SignedGrant, SystemTransaction, Transaction};
use standin_publisher::messages::{Events, Frames, WantFrames, WantWords, Words};
use standin_publisher::record::TopicRecord;
use standin_publisher::terminal::ToTerminal;
use standin_publisher::{Instruction, Push};
use standin_stage::bridge::frame::Frame;

/// A target.
pub type Target = fn(&[u8]);

/// All targets with their names, which are their folders in the corpus.
pub const TARGETS: [(&str, Target); 35] = [
    ("frame", frame),
    ("transaction", transaction),
    ("batch", batch),
    ("operation", operation),
    ("signed", wire::<Signed>),
    ("note", wire::<Note>),
    ("batch_payload", wire::<BatchPayload>),
    ("transfer", wire::<Transfer>),
    ("record", wire::<Record>),
    ("manifest", wire::<Manifest>),
    ("chunk", wire::<Chunk>),
    ("stored_block", wire::<StoredBlock>),
    ("stored_checkpoint", wire::<StoredCheckpoint>),
    ("grant", wire::<SignedGrant>),
    ("auth_request", wire::<Request>),
    ("auth_answer", wire::<Answer>),
    ("cluster_message", wire::<Message>),
    ("cluster_push", wire::<Pushed>),
    ("node_record", wire::<NodeRecord>),
    ("auth_notice", wire::<Notice>),
    ("forward", wire::<Forward>),
    ("ticket", ticket),
    ("system_transaction", wire::<SystemTransaction>),
    ("epoch_table", wire::<EpochTable>),
    ("console_report", wire::<Report>),
    ("console_frame", console_frame),
    ("push", push),
    ("publisher_instruction", wire::<Instruction>),
    ("publisher_events", wire::<Events>),
    ("publisher_words", wire::<Words>),
    ("publisher_want_words", wire::<WantWords>),
    ("publisher_frames", wire::<Frames>),
    ("publisher_want_frames", wire::<WantFrames>),
    ("topic_record", wire::<TopicRecord>),
    ("to_terminal", to_terminal),
];

fn frame(data: &[u8]) {
    if let Ok(frames) = Frame::decode_all(Bytes::copy_from_slice(data)) {
        let mut out = bytes::BytesMut::new();
        frames.iter().for_each(|frame| frame.encode(&mut out));
        assert_eq!(Frame::decode_all(out.freeze()), Ok(frames));
    }
}

fn transaction(data: &[u8]) {
    if let Ok(transaction) = Transaction::parse(Bytes::copy_from_slice(data)) {
        assert_eq!(transaction.bytes(), data);
        assert!(data.ends_with(transaction.signature().as_bytes()));
    }
}

fn batch(data: &[u8]) {
    if let Ok(batch) = Batch::parse(Bytes::copy_from_slice(data)) {
        assert_eq!(batch.payload(), data);
        assert_eq!(batch.reference().count as usize, batch.transactions().len());
    }
}

fn operation(data: &[u8]) {
    if let Ok(operation) = Operation::from_payload(data) {
        assert_eq!(operation.to_payload(), data);
    }
}

fn ticket(data: &[u8]) {
    if let Some(key) = SecretKey::from_bytes(&[5; 32]) {
        // The corpus holds one that opens; of what was changed in it none does.
        drop(standin_auth::ticket::open(&key, &Digest::ZERO, data));
    }
}

fn push(data: &[u8]) {
    if let Ok(push) = Push::from_payload(&Bytes::copy_from_slice(data)) {
        assert_eq!(push.to_payload(), data);
        assert_eq!(push.content.data().len(), push.content.count());
    }
}

fn to_terminal(data: &[u8]) {
    if let Ok(message) = ToTerminal::from_bytes(&Bytes::copy_from_slice(data)) {
        drop((message.to_bytes(), message.to_json()));
    }
}

fn console_frame(data: &[u8]) {
    let mut session = Session::new("life".to_owned(), Millis(1), Millis(0));
    // Whatever it says, it is answered, or closed.
    let answered = session.received(Millis(0), &String::from_utf8_lossy(data));
    assert!(answered.len() <= 1 && session.wants(Millis(0)).len() <= 1);
}

fn wire<T: Wire>(data: &[u8]) {
    if let Ok(value) = T::from_wire(data) {
        drop(value.to_wire());
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    const MUTATIONS: usize = 3_000;

    fn corpus(target: &str) -> Vec<Vec<u8>> {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
        let mut files: Vec<_> = std::fs::read_dir(folder).into_iter().flatten().flatten().collect();
        files.sort_by_key(std::fs::DirEntry::path);
        files.into_iter().map(|file| std::fs::read(file.path()).unwrap()).collect()
    }

    fn mutate(rng: &mut fastrand::Rng, bytes: &mut Vec<u8>) {
        for _ in 0..rng.usize(1..6) {
            let at = rng.usize(..=bytes.len());
            match rng.u8(0..5) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, rng.u8(..)),
                2 if at < bytes.len() => bytes[at] = rng.choice([0, 1, 127, 250, 251, 252, 253, 255]).unwrap(),
                3 if at < bytes.len() => bytes[at] ^= 1 << rng.u8(0..8),
                _ => bytes.extend((0..rng.usize(0..9)).map(|_| 255)),
            }
        }
    }

    #[test]
    fn no_decoder_panics_on_its_corpus_or_on_mutations_of_it() {
        for (name, target) in TARGETS {
            let corpus = corpus(name);
            assert!(!corpus.is_empty(), "the corpus of {name} is missing");
            let mut rng = fastrand::Rng::with_seed(7);
            for bytes in &corpus {
                target(bytes);
            }
            for _ in 0..MUTATIONS {
                let mut bytes = rng.choice(&corpus).unwrap().clone();
                mutate(&mut rng, &mut bytes);
                target(&bytes);
            }
        }
    }
}
