//! The signature pool: transactions verified a second on all cores, against bare verification on as many threads.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::indexing_slicing, reason = "a bench")]

mod common;

use std::sync::Arc;
use std::sync::mpsc::channel;

use standin_consensus::actor::{Urgency, VerifyPool};
use standin_foundation::{Digest, Height, SecretKey};
use standin_ledger::transaction::TransactionBody;
use standin_ledger::{Batch, Transaction};

const BATCHES: usize = 40;
const PER_BATCH: usize = 100;

fn main() {
    let chain = Digest::sha256(b"chain");
    let key = SecretKey::from_bytes(&[7; 32]).unwrap();
    let transaction = |nonce: usize| {
        let body = TransactionBody {
            title: "bench".parse().unwrap(),
            nonce: nonce as u64,
            expires: Height(1),
            payload: vec![0; 64],
        };
        Transaction::sign(&chain, &key, &body).unwrap()
    };
    let batch = |number: usize| Batch::new((0..PER_BATCH).map(|i| transaction(number * PER_BATCH + i)).collect());
    let batches: Arc<Vec<Batch>> = Arc::new((0..BATCHES).map(|number| batch(number).unwrap()).collect());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let pool = VerifyPool::start(threads, BATCHES).unwrap();
    let ours = || {
        common::rate(BATCHES * PER_BATCH, || {
            let (done, finished) = channel();
            for number in 0..BATCHES {
                let (batches, done) = (Arc::clone(&batches), done.clone());
                pool.run(Urgency::Payloads, move || {
                    done.send(batches[number].verify_signatures(&chain).is_ok()).unwrap();
                })
                .unwrap();
            }
            drop(done);
            assert!(finished.iter().all(|valid| valid));
        })
    };
    let floor = || {
        common::rate(BATCHES * PER_BATCH, || {
            std::thread::scope(|scope| {
                for part in batches.chunks(BATCHES.div_ceil(threads)) {
                    scope.spawn(move || part.iter().for_each(|batch| batch.verify_signatures(&chain).unwrap()));
                }
            });
        })
    };
    let name = format!("signatures: {threads} threads");
    common::against_floor(&name, "verified/s", "bare threads", ours, floor);
}
