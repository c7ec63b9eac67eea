//! What is kept of a chain, and for how long: backups, restored nodes, blocks that are forgotten, certificates that are replaced.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use standin::api::WhichBlock;
use standin::client::{Client, ClientError};
use standin_foundation::{Height, SecretKey};
use standin_ledger::builtin::Operation;
use standin_ledger::transaction::TransactionBody;
use standin_ledger::{Outcome, Transaction};
use standin_stage::bridge::tls::make_certificate;

use crate::network::{TestNetwork, edit, refused, sound, told};

/// Longer than anything here takes.
const WITHIN: Duration = Duration::from_secs(30);

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn put(network: &TestNetwork, name: &str, value: &str) {
    let line = format!("{{\"put\":{{\"title\":\"test\",\"key\":\"{name}\",\"value\":\"{value}\"}}}}");
    let output = network.submit(&[&line]);
    assert_eq!(told(&output).0, 0, "{}", told(&output).1);
}

/// Asks again until it is so.
async fn wait_for<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(begun.elapsed() < WITHIN, "{what}: not within {WITHIN:?}");
        tokio::task::yield_now().await;
    }
}

/// A node whose folder is made of a backup goes on from there, and catches up; a backup that was changed, or is another chain's, makes nothing.
#[actix_web::test]
async fn a_node_is_made_of_a_backup_and_catches_up() {
    let mut network = TestNetwork::start();
    put(&network, "before", "1");
    let (node, backup) = (network.url(0).to_owned(), network.path("chain.backup"));
    let client = Client::new(&node, WITHIN);
    let height = client.status().await.unwrap().height;
    // The chain is idle: a checkpoint over all of it comes by itself.
    wait_for("a checkpoint over it", async || (client.status().await.ok()?.stable >= height).then_some(())).await;
    let told_of = sound(&["backup", "--node", &node, "--out", text(&backup)]);
    assert!(told_of.contains("the state at block "), "{told_of}");
    refused(&["backup", "--node", &node, "--out", text(&backup)], 6, "nothing is overwritten");
    let genesis = network.path("genesis.toml");
    let checked = sound(&["restore", text(&backup), "--check", text(&genesis)]);
    assert!(checked.starts_with("sound: the state at block "), "{checked}");

    // As an operator orders it, into the node's own folder: it is in the audit log, and is read like any other.
    let operator = network.path("operator.key");
    let order = ["snapshot", "--node", &node, "--key", text(&operator), "--reason", "a test"];
    let own = sound(&order);
    let (_, own) = own.trim_end().split_once(" is in ").unwrap();
    assert!(sound(&["restore", own, "--check", text(&genesis)]).starts_with("sound: "));
    let config = network.config(1);
    assert!(sound(&["audit", "export", "-c", text(&config)]).contains("\"snapshot\""));

    // Not a byte of it can be lost or changed.
    let whole = std::fs::read(&backup).unwrap();
    let cut = network.write("cut.backup", "");
    std::fs::write(&cut, &whole[..whole.len() - 5]).unwrap();
    refused(&["restore", text(&cut), "--check", text(&genesis)], 3, "ends after");
    let mut changed = whole.clone();
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    std::fs::write(&cut, &changed).unwrap();
    refused(&["restore", text(&cut), "--check", text(&genesis)], 3, "");
    let other = TestNetwork::files();
    let foreign = other.path("genesis.toml");
    refused(&["restore", text(&backup), "--check", text(&foreign)], 3, "does not belong to this genesis");

    // A node that has data is not touched. One that has lost its disk is made anew, and has what came since.
    put(&network, "between", "2");
    network.kill(4);
    let config = network.config(4);
    refused(&["restore", text(&backup), "-c", text(&config)], 6, "holds a node's data");
    std::fs::remove_dir_all(network.path("s4/data")).unwrap();
    let told_of = sound(&["restore", text(&backup), "-c", text(&config)]);
    assert!(told_of.contains("s4 goes on from block "), "{told_of}");
    network.start_node(4);
    network.wait_all_ready();
    put(&network, "after", "3");
    let restored = Client::new(network.url(3), WITHIN);
    for (key, value) in [("before", "1"), ("between", "2"), ("after", "3")] {
        let question = format!("title=test&key={key}");
        let answer = async || restored.query(&question).await.ok()?.value.map(|value| hex::decode(value).unwrap());
        assert_eq!(wait_for("the record", answer).await, value.as_bytes(), "{key}");
    }
    let gone = restored.block(WhichBlock::At(Height(1))).await.unwrap_err();
    assert!(matches!(gone, ClientError::Gone { .. }), "{gone}");
}

/// Nodes that keep few blocks forget the rest, say so, and prove what they have; one that was away for longer than that gets the state in the place of blocks.
#[actix_web::test]
async fn nodes_that_keep_few_blocks_serve_those_and_help_one_that_was_away_for_longer() {
    let mut network = TestNetwork::files();
    let genesis = network.path("genesis.toml");
    edit(&genesis, "replay_window = 4096", "replay_window = 64");
    edit(&genesis, "window = 128", "window = 64");
    for seat in 1..=4 {
        edit(&network.config(seat), "# keep_blocks = 0", "keep_blocks = 1");
        network.start_node(seat);
    }
    network.wait_all_ready();
    let client = Client::new(network.url(0), WITHIN);
    let genesis = client.genesis().await.unwrap();
    let key = SecretKey::read(&network.key()).unwrap();
    let (mut nonce, first_id) = (0, std::cell::OnceCell::new());
    let mut grow_to = async |height: u64| {
        loop {
            let at = client.status().await.unwrap().height;
            if at >= Height(height) {
                return;
            }
            nonce += 1;
            let payload = Operation::Put { key: vec![1], value: vec![nonce as u8] }.to_payload();
            let body = TransactionBody { title: "test".parse().unwrap(), nonce, expires: at.plus(32), payload };
            let transaction = Transaction::sign(&genesis.digest(), &key, &body).unwrap();
            let submitted = client.submit(&[transaction], WITHIN).await.unwrap();
            first_id.get_or_init(|| submitted[0].id);
            assert!(matches!(submitted[0].outcome, Some(Outcome::Applied(_))), "{submitted:?}");
        }
    };
    grow_to(40).await;
    network.kill(4);
    // The chain needs a replay window and four windows of the consensus: 320 blocks.
    grow_to(500).await;
    let first = wait_for("old blocks are forgotten", async || match client.block(WhichBlock::At(Height(1))).await {
        Err(ClientError::Gone { first, .. }) if first > Height(100) => Some(first),
        _ => None,
    })
    .await;
    let head = client.status().await.unwrap().height;
    assert!(head.0 - first.0 >= 320 - 64 && first.0 % 32 == 1, "{first} of {head}");
    // What was carried out there is not told to be unknown.
    let forgotten = client.transaction(first_id.get().unwrap()).await.unwrap_err();
    assert!(
        matches!(&forgotten, ClientError::Gone { what, .. } if what.contains("does not have those before")),
        "{forgotten}"
    );
    let block = client.block(WhichBlock::At(first)).await.unwrap();
    assert_eq!(block.header.height(), first);
    let (newest, node) = (head.0.to_string(), network.url(0).to_owned());
    assert!(sound(&["block", &newest, "--node", &node, "-o", "json"]).contains("height"));

    network.start_node(4);
    network.wait_all_ready();
    let back = Client::new(network.url(3), WITHIN);
    wait_for("it is there again", async || (back.status().await.ok()?.height >= head).then_some(())).await;
    network.stop(1);
    network.wait_stopped();
    let config = network.config(1);
    let verified = sound(&["verify", "-c", text(&config)]);
    assert!(verified.contains("are sound"), "{verified}");
}

/// A certificate is replaced while the node runs; whoever connects afterwards sees the new one. Expiry is told everywhere, and stops nobody.
#[actix_web::test]
async fn a_certificate_is_replaced_without_a_stop_and_its_end_stops_nobody() {
    let mut network = TestNetwork::files();
    let (certificate, private) = make_certificate("standin", 0).unwrap();
    std::fs::write(network.path("s1/tls.pem"), certificate).unwrap();
    std::fs::write(network.path("s1/tls.key"), private).unwrap();
    let (config, node) = (network.config(1), network.url(0).to_owned());
    refused(&["certificate", "show", "-c", text(&config)], 3, "has expired");
    (1..=4).for_each(|seat| network.start_node(seat));
    network.wait_all_ready();
    network.wait_for_log(1, "the bridge's certificate expires");
    let client = Client::new(&node, WITHIN);
    let expiry = async || {
        let (_, metrics) = client.text("/metrics").await.ok()?;
        let line =
            metrics.lines().find_map(|line| line.strip_prefix("standin_certificate_expiry_timestamp_seconds "))?;
        line.parse::<f64>().ok().map(|seconds| seconds as i64)
    };
    let before = expiry().await.unwrap();

    let hang_up =
        |network: &TestNetwork| kill_process(Pid::from_raw(network.pid(1) as i32).unwrap(), Signal::HUP).unwrap();
    // What is no certificate with its key changes nothing.
    let good = std::fs::read(network.path("s1/tls.pem")).unwrap();
    std::fs::write(network.path("s1/tls.pem"), "rot").unwrap();
    hang_up(&network);
    network.wait_for_log(1, "the certificate is not changed");
    assert_eq!(expiry().await.unwrap(), before);
    std::fs::write(network.path("s1/tls.pem"), good).unwrap();

    let renewed = sound(&["certificate", "renew", "-c", text(&config), "--days", "90"]);
    assert!(renewed.contains("expires in 89 days") || renewed.contains("expires in 90 days"), "{renewed}");
    hang_up(&network);
    let days = wait_for("the metric says so", async || {
        let now = expiry().await?;
        (now != before).then_some((now - before) / 86_400)
    })
    .await;
    assert_eq!(days, 90);
    put(&network, "still", "1");
    // Those that connect now see the new one: nodes that begin anew reach it.
    for seat in 2..=4 {
        network.kill(seat);
        network.start_node(seat);
    }
    network.wait_all_ready();
    put(&network, "again", "2");
}

/// Blocks over HTTP as they come: each once, without a gap, also for one that comes back later with the last number that it has.
#[actix_web::test]
async fn blocks_are_followed_over_http_without_a_gap() {
    let mut network = TestNetwork::start();
    put(&network, "first", "1");
    let http = awc::Client::builder().timeout(WITHIN).finish();
    let url = format!("{}/api/v1/blocks/stream", network.url(0));
    let read = async |last: Option<u64>, up_to: u64| {
        let request = http.get(if last.is_none() { format!("{url}?from=1") } else { url.clone() });
        let request =
            last.into_iter().fold(request, |request, last| request.insert_header(("last-event-id", last.to_string())));
        let mut body = request.send().await.unwrap();
        assert_eq!(body.headers().get("content-type").unwrap(), "text/event-stream");
        let (mut text, mut heights) = (String::new(), Vec::new());
        while heights.last().is_none_or(|height| *height < up_to) {
            let piece = tokio::time::timeout(WITHIN, futures_util::StreamExt::next(&mut body)).await.unwrap();
            text += std::str::from_utf8(&piece.unwrap().unwrap()).unwrap();
            while let Some((event, rest)) =
                text.split_once("\n\n").map(|(event, rest)| (event.to_owned(), rest.to_owned()))
            {
                text = rest;
                let Some((id, data)) = event.strip_prefix("id: ").and_then(|event| event.split_once("\ndata: ")) else {
                    continue;
                };
                let block: serde_json::Value = serde_json::from_str(data).unwrap();
                assert_eq!(block["height"].to_string(), id);
                heights.push(id.parse::<u64>().unwrap());
            }
        }
        heights
    };
    let head = Client::new(network.url(0), WITHIN).status().await.unwrap().height.0;
    let before = read(None, head).await;
    assert!(before.iter().copied().eq(1..=before.len() as u64) && before.len() as u64 >= head, "{before:?}");
    let last = before[before.len() / 2];
    // One that comes without a number waits for what comes next.
    let mut waiting = http.get(url.clone()).send().await.unwrap();
    put(&network, "second", "2");
    let next = tokio::time::timeout(WITHIN, futures_util::StreamExt::next(&mut waiting)).await.unwrap();
    assert!(next.unwrap().unwrap().starts_with(b"id: "));
    let head = Client::new(network.url(0), WITHIN).status().await.unwrap().height.0;
    let after = read(Some(last), head).await;
    assert!(after.iter().copied().eq(last + 1..last + 1 + after.len() as u64), "{last} {after:?}");
    // A node that stops lets its followers go.
    network.stop(1);
    network.wait_stopped();
}
