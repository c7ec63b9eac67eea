//! `publish`: pushes lines to a topic, from stdin or a file.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use standin::publication::{PublishError, Publisher};
use standin_foundation::SecretKey;
use standin_publisher::frame::Datum;
use standin_publisher::machine::source::SourceConfig;
use standin_publisher::{Sequence, Topic};
use tokio::sync::mpsc;

use super::{ClientArguments, Failure};

/// Lines that wait to be pushed.
const LINES_AHEAD: usize = 1_024;
/// Data that may be without an acknowledgement before no more lines are read.
const UNACKNOWLEDGED_MAX: usize = 8_192;
/// How often a file that is followed is looked at for more.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

#[derive(Debug, Args)]
pub(super) struct PublishArguments {
    #[command(flatten)]
    client: ClientArguments,
    /// The secret key of the source.
    #[arg(long, env = "STANDIN_KEY")]
    key: PathBuf,
    /// The topic. On a chain whose clients are open it begins with its first datum.
    topic: Topic,
    /// A file with a datum a line, in the place of stdin.
    #[arg(long)]
    file: Option<PathBuf>,
    /// Go on with what is appended to the file.
    #[arg(long, requires = "file")]
    follow: bool,
    /// What stands in a line before this is the datum's id.
    #[arg(long, value_name = "TEXT")]
    id_before: Option<String>,
    /// Print the sequence of the last datum that is safe, each time that more are.
    #[arg(long)]
    acknowledge: bool,
}

pub(super) async fn publish(arguments: PublishArguments) -> Result<(), Failure> {
    let key = SecretKey::read(&arguments.key).map_err(|error| Failure::new(78, error.to_string()))?;
    let (nodes, topic) = (arguments.client.clients(), arguments.topic);
    let session = micros_since_epoch();
    let begun = Publisher::begin(nodes, topic, key, session, SourceConfig::default()).await;
    let mut publisher = begun.map_err(failed)?;
    let mut lines = read_lines(&arguments)?;
    let (mut pushed, mut safe, mut last, mut is_over) = (0u64, 0u64, None::<Sequence>, false);
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    while !is_over || safe < pushed {
        let reads = !is_over && publisher.waiting() < UNACKNOWLEDGED_MAX;
        tokio::select! {
            biased;
            _ = interrupt.recv() => match is_over {
                true => return Err(Failure::new(130, format!("interrupted; of {pushed} data {safe} are queued for certain"))),
                // What was read is pushed to its end.
                false => is_over = true,
            },
            line = lines.recv(), if reads => match line {
                Some(Ok(line)) => {
                    let nonce = publisher.push(datum(&arguments, line));
                    pushed = nonce.map_err(|error| unfinished(error, pushed, safe))? + 1;
                }
                Some(Err(error)) => return Err(Failure::new(1, error.to_string())),
                None => is_over = true,
            },
            told = publisher.acknowledged() => {
                let told = told.map_err(|error| unfinished(error, pushed, safe))?;
                safe = told.nonce + 1;
                last = told.sequence.or(last);
                if arguments.acknowledge && let Some(sequence) = told.sequence {
                    println!("{sequence}");
                }
            }
        }
    }
    let up_to = last.map(|last| format!(", up to sequence {last}")).unwrap_or_default();
    eprintln!("{safe} data of topic {topic} are queued{up_to}");
    Ok(())
}

fn failed(error: PublishError) -> Failure {
    match error {
        PublishError::Client(error) => error.into(),
        error => Failure::new(6, error.to_string()),
    }
}

fn unfinished(error: PublishError, pushed: u64, safe: u64) -> Failure {
    let Failure { code, text } = failed(error);
    Failure::new(code, format!("{text}; of {pushed} data {safe} are queued for certain"))
}

fn datum(arguments: &PublishArguments, line: String) -> Datum {
    match arguments.id_before.as_ref().and_then(|before| line.split_once(before.as_str())) {
        Some((id, value)) => Datum { id: id.to_owned().into(), value: value.to_owned().into() },
        None => Datum { id: Default::default(), value: line.into() },
    }
}

/// Lines as they come, read by a thread of its own.
fn read_lines(arguments: &PublishArguments) -> Result<mpsc::Receiver<std::io::Result<String>>, Failure> {
    let (sender, receiver) = mpsc::channel(LINES_AHEAD);
    let named = |path: &Path, error: std::io::Error| Failure::new(1, format!("{}: {error}", path.display()));
    let source: Box<dyn FnOnce() + Send> = match &arguments.file {
        None => Box::new(move || {
            for line in std::io::stdin().lock().lines() {
                if sender.blocking_send(line).is_err() {
                    return;
                }
            }
        }),
        Some(path) => {
            let file = File::open(path).map_err(|error| named(path, error))?;
            let follow = arguments.follow;
            Box::new(move || read_file(file, follow, &sender))
        }
    };
    std::thread::Builder::new().name("lines".to_owned()).spawn(source)?;
    Ok(receiver)
}

/// Whole lines alone: what has no end yet is read again when it has.
fn read_file(file: File, follow: bool, sender: &mpsc::Sender<std::io::Result<String>>) {
    let mut reader = BufReader::new(file);
    let mut position = 0;
    loop {
        let mut line = String::new();
        match reader.read_line(&mut line) {
            Ok(0) if !follow => return,
            Ok(read) if read > 0 && (line.ends_with('\n') || !follow) => {
                position += read as u64;
                let line = line.trim_end_matches(['\n', '\r']).to_owned();
                if sender.blocking_send(Ok(line)).is_err() {
                    return;
                }
            }
            Ok(_) => {
                if sender.is_closed() || reader.seek(SeekFrom::Start(position)).is_err() {
                    return;
                }
                // Nobody tells when something is appended.
                std::thread::park_timeout(LOOK_AGAIN);
            }
            Err(error) => {
                drop(sender.blocking_send(Err(error)));
                return;
            }
        }
    }
}

fn micros_since_epoch() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    now.as_micros() as u64
}
