//! `follow`: a terminal that prints what is published.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use standin::client::ClientError;
use standin::publication::{Begin, Delivered, FollowError, Notice, Terminal};
use standin_publisher::machine::terminal::Position;
use standin_publisher::terminal::BytesView;
use standin_publisher::{Sequence, Topic};

use super::Failure;
use super::files::replace;
use super::output::{Output, json};
use super::read::ReadingArguments;
use super::trust::TrustArguments;

#[derive(Debug, Args)]
pub(super) struct FollowArguments {
    #[command(flatten)]
    client: ReadingArguments,
    /// The topic.
    topic: Topic,
    /// Begin with this datum; without it with the next that is published.
    #[arg(long, value_name = "SEQ", conflicts_with = "position")]
    from: Option<u64>,
    /// Keep in this file how far it has come, and go on from there. Nothing is left out, whatever dies; if this process does, the last frame
    /// (at most 128 data) is printed again.
    #[arg(long, value_name = "FILE")]
    position: Option<PathBuf>,
    /// End after so many data.
    #[arg(long, value_name = "COUNT")]
    count: Option<u64>,
    #[command(flatten)]
    trust: TrustArguments,
    /// How to print: values, or a JSON object a datum.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

pub(super) async fn follow(arguments: FollowArguments) -> Result<(), Failure> {
    let nodes = arguments.client.clients()?;
    let stored = arguments.position.as_deref().map(read_position).transpose()?.flatten();
    let begin = match (stored, arguments.from) {
        (Some(position), _) => Begin::Behind(position),
        (None, Some(from)) => Begin::At(Sequence(from)),
        // Whoever keeps its position wants all that there is.
        (None, None) if arguments.position.is_some() => Begin::At(Sequence(1)),
        (None, None) => Begin::Now,
    };
    let genesis = arguments.trust.genesis(&nodes).await?;
    let mut terminal = Terminal::begin(nodes, genesis, arguments.topic, begin);
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    let mut printed = 0;
    let is_enough = |printed| arguments.count.is_some_and(|count| printed >= count);
    while !is_enough(printed) {
        let notice = tokio::select! {
            biased;
            _ = interrupt.recv() => break,
            notice = terminal.next() => notice.map_err(failed)?,
        };
        match notice {
            Notice::Delivered(delivered) => {
                let left = arguments.count.map(|count| count - printed);
                printed += print(&arguments, &delivered, left)?;
                // A frame that was printed in part comes again.
                let is_whole = left.is_none_or(|left| delivered.data.len() as u64 <= left);
                if let Some(path) = arguments.position.as_ref().filter(|_| is_whole) {
                    write_position(path, &delivered.position)?;
                }
            }
            Notice::Takeover { takeover, position } => {
                if let Some(path) = &arguments.position {
                    write_position(path, &position)?;
                }
                let owner = takeover.owner.node_id().short();
                eprintln!(
                    "{}: node {owner} publishes from {} on, under fence {}",
                    takeover.topic, takeover.from, takeover.fence
                );
            }
            Notice::Renewed { position } => {
                if let Some(path) = &arguments.position {
                    write_position(path, &position)?;
                }
            }
            Notice::Alarm { node, alarm } => eprintln!("ALARM: {node}: {alarm}: it is not listened to any more"),
        }
    }
    let counters = terminal.counters();
    eprintln!(
        "{printed} data printed; {} repeated, {} frames of superseded servers, {} gaps, {} alarms",
        counters.repeated, counters.stale, counters.gaps, counters.alarms
    );
    Ok(())
}

fn failed(error: FollowError) -> Failure {
    match error {
        FollowError::Refused(error @ ClientError::NotFound(_)) => {
            let Failure { code, text } = error.into();
            Failure::new(code, format!("{text}: it begins with its first datum, or operators make it"))
        }
        FollowError::Refused(error) => error.into(),
        error => Failure::new(6, error.to_string()),
    }
}

/// Prints a frame; gives how many data. Those before the one that was asked for are left out.
fn print(arguments: &FollowArguments, delivered: &Delivered, left: Option<u64>) -> Result<u64, Failure> {
    let mut out = std::io::stdout().lock();
    let mut printed = 0;
    for (sequence, datum) in (delivered.entry.first.0..).zip(&delivered.data) {
        if arguments.from.is_some_and(|from| sequence < from) || left.is_some_and(|left| printed >= left) {
            continue;
        }
        printed += 1;
        match arguments.output {
            Output::Table => {
                out.write_all(&datum.value)?;
                out.write_all(b"\n")?;
            }
            Output::Json | Output::Jsonl => {
                let (fence, id, value) =
                    (delivered.position.fence, BytesView::from(&datum.id), BytesView::from(&datum.value));
                let line = serde_json::json!({ "sequence": sequence, "fence": fence, "id": id, "value": value });
                writeln!(out, "{line}")?;
            }
        }
    }
    out.flush()?;
    Ok(printed)
}

fn read_position(path: &Path) -> Result<Option<Position>, Failure> {
    match std::fs::read_to_string(path) {
        Ok(text) => serde_json::from_str(&text)
            .map(Some)
            .map_err(|error| Failure::new(78, format!("{}: no position of a terminal: {error}", path.display()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::new(1, format!("{}: {error}", path.display()))),
    }
}

fn write_position(path: &Path, position: &Position) -> Result<(), Failure> {
    replace(path, format!("{}\n", json(position)).as_bytes())
}
