//! `submit`: one transaction, or many from a file or stdin.

use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use standin::client::{Client, ClientError};
use standin_foundation::SecretKey;
use standin_ledger::{Genesis, Outcome, Transaction};

use super::inputs::{Line, parse_line};
use super::output::json;
use super::{ClientArguments, Failure};

/// Transactions in one request.
const CHUNK: usize = 500;
/// A node waits so long for their outcomes.
const OUTCOMES_WITHIN: Duration = Duration::from_secs(30);
/// They are handed in again for so long, where no node takes them or answers.
const TRIED_FOR: Duration = Duration::from_secs(120);
/// And after this time.
const AGAIN: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub(super) struct SubmitArguments {
    #[command(flatten)]
    client: ClientArguments,
    /// The secret key that signs.
    #[arg(long, env = "STANDIN_KEY")]
    key: PathBuf,
    /// One transaction, as a line of JSON: {"put":{"title":…,"key":…,"value":…}}, {"delete":…} or {"transfer":{"to":…,"amount":…}}.
    #[arg(conflicts_with = "file")]
    line: Option<String>,
    /// A file with such a line for each transaction; `-` for stdin.
    #[arg(long)]
    file: Option<PathBuf>,
    /// Go on after a line that does not parse; without it nothing is submitted when any line is wrong.
    #[arg(long)]
    skip_bad_lines: bool,
}

pub(super) async fn submit(arguments: SubmitArguments) -> Result<(), Failure> {
    let key = SecretKey::read(&arguments.key).map_err(|error| Failure::new(78, error.to_string()))?;
    let clients = arguments.client.clients();
    let genesis = first_answer(&clients, async |client| client.genesis().await).await?;
    let (lines, bad) = read_lines(&arguments)?;
    let bar = progress(lines.len() as u64);
    let mut totals = Totals::default();
    let base = unique_nonce();
    for (number, chunk) in lines.chunks(CHUNK).enumerate() {
        let first = base.wrapping_add((number * CHUNK) as u64);
        let transactions = sign_chunk(&clients, &genesis, &key, chunk, first).await?;
        submit_chunk(&clients, &transactions, &mut totals).await?;
        bar.inc(chunk.len() as u64);
    }
    bar.finish_and_clear();
    eprintln!(
        "{} applied, {} rejected, {} without an outcome yet, {bad} bad lines",
        totals.applied, totals.rejected, totals.unknown
    );
    match (totals.unknown, totals.rejected + bad) {
        (0, 0) => Ok(()),
        (0, _) => Err(Failure::new(6, "not everything was applied")),
        _ => Err(Failure::new(5, "some outcomes are not known: ask with `standin tx ID`")),
    }
}

#[derive(Debug, Default)]
struct Totals {
    applied: u64,
    rejected: u64,
    unknown: u64,
}

fn read_lines(arguments: &SubmitArguments) -> Result<(Vec<Line>, u64), Failure> {
    let source: Box<dyn BufRead> = match (&arguments.line, &arguments.file) {
        (Some(line), _) => Box::new(BufReader::new(std::io::Cursor::new(line.clone().into_bytes()))),
        (None, Some(path)) if path.as_os_str() != "-" => {
            let file = File::open(path).map_err(|error| Failure::new(1, format!("{}: {error}", path.display())))?;
            Box::new(BufReader::new(file))
        }
        _ => Box::new(BufReader::new(std::io::stdin())),
    };
    let mut lines = Vec::new();
    let mut bad = 0;
    for (number, text) in source.lines().enumerate() {
        let text = text?;
        if text.trim().is_empty() {
            continue;
        }
        match parse_line(&text) {
            Ok(line) => lines.push(line),
            Err(what) => {
                bad += 1;
                eprintln!("line {}: {what}", number + 1);
            }
        }
    }
    if bad > 0 && !arguments.skip_bad_lines {
        return Err(Failure::new(
            2,
            format!("{bad} bad lines, nothing was submitted; --skip-bad-lines goes on without them"),
        ));
    }
    Ok((lines, bad))
}

async fn sign_chunk(
    clients: &[Client],
    genesis: &Genesis,
    key: &SecretKey,
    chunk: &[Line],
    first_nonce: u64,
) -> Result<Vec<Transaction>, Failure> {
    let height = first_answer(clients, async |client| client.status().await).await?.height;
    let sign = |(index, line): (usize, &Line)| {
        line.clone()
            .sign(genesis, key, first_nonce.wrapping_add(index as u64), height)
            .map_err(|what| Failure::new(6, format!("transaction {index}: {what}")))
    };
    chunk.iter().enumerate().map(sign).collect()
}

/// What the first node says that answers.
async fn first_answer<T>(
    clients: &[Client],
    ask: impl AsyncFn(&Client) -> Result<T, ClientError>,
) -> Result<T, Failure> {
    let mut last = Failure::new(2, "--node needs an address");
    for client in clients {
        match ask(client).await {
            Ok(answer) => return Ok(answer),
            Err(error) => last = error.into(),
        }
    }
    Err(last)
}

/// A node may die with what it was handed: the same transactions go to the next one, and take effect once.
async fn submit_chunk(clients: &[Client], transactions: &[Transaction], totals: &mut Totals) -> Result<(), Failure> {
    let begun = Instant::now();
    let (mut nodes, mut told) = (clients.iter().cycle(), false);
    let Some(mut node) = nodes.next() else { return Err(Failure::new(2, "--node needs an address")) };
    let results = loop {
        let error = match node.submit(transactions, OUTCOMES_WITHIN).await {
            Ok(results) => break results,
            Err(error @ ClientError::Busy(_)) => error,
            Err(error @ ClientError::Unreachable { .. }) => {
                node = nodes.next().unwrap_or(node);
                error
            }
            Err(other) => return Err(other.into()),
        };
        if begun.elapsed() > TRIED_FOR {
            eprintln!("standin: {error}; whether these have taken effect is not known:");
            transactions.iter().for_each(|transaction| eprintln!("{}", transaction.id()));
            totals.unknown += transactions.len() as u64;
            return Ok(());
        }
        if !told {
            eprintln!("standin: {error}; they are handed in again for {} s", TRIED_FOR.as_secs());
            told = true;
        }
        tokio::time::sleep(AGAIN).await;
    };
    for result in results {
        match &result.outcome {
            Some(outcome) if outcome.is_applied() => totals.applied += 1,
            // It was handed in twice, and has an outcome of its own.
            Some(Outcome::Duplicate) => totals.unknown += 1,
            None if result.refused.is_none() => totals.unknown += 1,
            _ => totals.rejected += 1,
        }
        println!("{}", json(&result));
    }
    Ok(())
}

/// Nonces of different runs must differ: they begin with the time.
pub(super) fn unique_nonce() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    now.as_nanos() as u64
}

pub(super) fn progress(length: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len}  {per_sec}  {eta} left");
    ProgressBar::new(length).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
