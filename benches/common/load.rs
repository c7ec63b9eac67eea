//! Load on a network: transactions that are made before the clock starts, at a fixed rate or as many as are taken.

use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use standin::client::Client;
use standin_foundation::{Height, SecretKey};
use standin_ledger::builtin::Operation;
use standin_ledger::transaction::TransactionBody;
use standin_ledger::{ClientSignatures, Genesis, Transaction};

/// Requests that are open at one time, over all nodes.
const OPEN: usize = 24;

/// Requests, each with its transactions.
pub(crate) type Requests = Rc<Vec<Vec<Transaction>>>;

/// `count` transactions of `bytes` bytes each, in requests of `chunk`.
pub(crate) fn requests(genesis: &Genesis, key: &SecretKey, bytes: usize, count: usize, chunk: usize) -> Requests {
    let chain = genesis.digest();
    let make = |nonce: usize| {
        let overhead = 1 + 1 + 5 + 33 + 8 + 8 + 4 + 64 + 1 + 4 + 4 + 4;
        let key_bytes = ((nonce % 10_000) as u32).to_be_bytes().to_vec();
        let value = vec![nonce as u8; bytes.saturating_sub(overhead)];
        let payload = Operation::Put { key: key_bytes, value }.to_payload();
        let body =
            TransactionBody { title: "bench".parse().unwrap(), nonce: nonce as u64, expires: Height(59_000), payload };
        match genesis.parameters.client_signatures {
            ClientSignatures::None => Transaction::unsigned(&key.public(), &body).unwrap(),
            ClientSignatures::Required => Transaction::sign(&chain, key, &body).unwrap(),
        }
    };
    Rc::new((0..count / chunk).map(|number| (0..chunk).map(|i| make(number * chunk + i)).collect()).collect())
}

/// Keeps [`OPEN`] requests under way; gives the rate.
pub(crate) async fn saturate(clients: &[Client], requests: &Requests, range: Range<usize>) -> f64 {
    let begun = Instant::now();
    let next = Rc::new(Cell::new(range.start));
    let count: usize = requests[range.clone()].iter().map(Vec::len).sum();
    let tasks: Vec<_> = (0..OPEN)
        .map(|worker| {
            let (client, requests, next) =
                (clients[worker % clients.len()].clone(), Rc::clone(requests), Rc::clone(&next));
            let end = range.end;
            actix::spawn(async move {
                while next.get() < end {
                    let request = next.replace(next.get() + 1);
                    submit(&client, &requests[request]).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    count as f64 / begun.elapsed().as_secs_f64()
}

/// Sends requests at a fixed rate of transactions, whatever becomes of those before; gives latencies in us, each from the moment at
/// which its request was due.
pub(crate) async fn pace(clients: &[Client], requests: &Requests, range: Range<usize>, rate: f64) -> Histogram<u64> {
    let begun = tokio::time::Instant::now();
    let interval = Duration::from_secs_f64(requests[range.start].len() as f64 / rate);
    let mut tasks = Vec::new();
    for (number, request) in range.enumerate() {
        let due = begun + interval * number as u32;
        tokio::time::sleep_until(due).await;
        let (client, requests) = (clients[number % clients.len()].clone(), Rc::clone(requests));
        tasks.push(actix::spawn(async move {
            submit(&client, &requests[request]).await;
            due.elapsed().as_micros() as u64
        }));
    }
    let mut latencies = Histogram::<u64>::new(3).unwrap();
    for task in tasks {
        latencies.record(task.await.unwrap()).unwrap();
    }
    latencies
}

/// Submits until a node takes it.
async fn submit(client: &Client, transactions: &[Transaction]) {
    while client.submit(transactions, Duration::from_secs(30)).await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
