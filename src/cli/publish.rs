//! `publish`: pushes lines to a topic, from stdin or a file.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use standin::publication::{PublishError, Publisher};
use standin_foundation::SecretKey;
use standin_publisher::frame::Datum;
use standin_publisher::machine::source::SourceConfig;
use standin_publisher::{Sequence, Topic};
use tokio::sync::mpsc;

use super::files::at;
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
                    let nonce = publisher.push(datum(&arguments, &line));
                    pushed = nonce.map_err(|error| unfinished(error, pushed, safe))? + 1;
                }
                Some(Err(error)) => {
                    let text = format!("{error}; of {pushed} data {safe} are queued for certain");
                    return Err(Failure::new(1, text));
                }
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

fn datum(arguments: &PublishArguments, line: &[u8]) -> Datum {
    let parts = arguments.id_before.as_ref().filter(|before| !before.is_empty()).and_then(|before| {
        let before = before.as_bytes();
        let place = line.windows(before.len()).position(|part| part == before)?;
        Some((line.get(..place)?, line.get(place + before.len()..)?))
    });
    let (id, value) = parts.unwrap_or((&[], line));
    Datum { id: id.to_vec().into(), value: value.to_vec().into() }
}

type Lines = mpsc::Sender<std::io::Result<Vec<u8>>>;

/// Lines as they come, read by a thread of its own.
fn read_lines(arguments: &PublishArguments) -> Result<mpsc::Receiver<std::io::Result<Vec<u8>>>, Failure> {
    let (sender, receiver) = mpsc::channel(LINES_AHEAD);
    let source: Box<dyn FnOnce() + Send> = match &arguments.file {
        None => Box::new(move || read_stdin(&sender)),
        Some(path) => {
            let file = File::open(path).map_err(at(path))?;
            let (path, follow) = (path.clone(), arguments.follow);
            Box::new(move || {
                if let Err(error) = read_file(file, follow.then_some(path.as_path()), &sender) {
                    let named = std::io::Error::new(error.kind(), format!("{}: {error}", path.display()));
                    drop(sender.blocking_send(Err(named)));
                }
            })
        }
    };
    std::thread::Builder::new().name("lines".to_owned()).spawn(source)?;
    Ok(receiver)
}

fn without_end(mut line: Vec<u8>) -> Vec<u8> {
    while line.pop_if(|byte| *byte == b'\n' || *byte == b'\r').is_some() {}
    line
}

fn read_stdin(sender: &Lines) {
    let mut stdin = std::io::stdin().lock();
    loop {
        let mut line = Vec::new();
        let said = match stdin.read_until(b'\n', &mut line) {
            Ok(0) => return,
            Ok(_) => Ok(without_end(line)),
            Err(error) => Err(error),
        };
        let is_over = said.is_err();
        if sender.blocking_send(said).is_err() || is_over {
            return;
        }
    }
}

/// Whole lines alone: what has no end yet is read again when it has. A file that is followed may be cut, or another may take its place under
/// its name: it is read from its beginning then, once the one before has no more.
fn read_file(mut file: File, followed: Option<&Path>, sender: &Lines) -> std::io::Result<()> {
    let (mut reader, mut position) = (BufReader::new(file.try_clone()?), 0);
    loop {
        let mut line = Vec::new();
        let read = reader.read_until(b'\n', &mut line)?;
        if read > 0 && (line.ends_with(b"\n") || followed.is_none()) {
            position += read as u64;
            if sender.blocking_send(Ok(without_end(line))).is_err() {
                return Ok(());
            }
            continue;
        }
        let Some(path) = followed.filter(|_| !sender.is_closed()) else { return Ok(()) };
        let own = file.metadata()?;
        // Between two files of a name there may be none for a moment.
        let other = std::fs::metadata(path).is_ok_and(|named| (named.dev(), named.ino()) != (own.dev(), own.ino()));
        if other && let Ok(next) = File::open(path) {
            // Its last line will never have an end.
            if !line.is_empty() && sender.blocking_send(Ok(without_end(line))).is_err() {
                return Ok(());
            }
            file = next;
            (reader, position) = (BufReader::new(file.try_clone()?), 0);
            continue;
        }
        position = if own.len() < position { 0 } else { position };
        reader.seek(SeekFrom::Start(position))?;
        // Nobody tells when something is appended.
        std::thread::park_timeout(LOOK_AGAIN);
    }
}

fn micros_since_epoch() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    now.as_micros() as u64
}
