//! `lock` and `topic`: who publishes what, under which fence, and what operators say of topics.

use std::collections::BTreeSet;

use clap::{Args, Subcommand};
use standin::api::{FrameView, HoldingView, TopicView};
use standin::client::Client;
use standin_foundation::PublicKey;
use standin_ledger::approval::Approved;
use standin_publisher::messages::{Settings, TopicChange, TopicOrder};
use standin_publisher::{Fence, Sequence, Topic, WhichFrame};

use super::orders::{Approving, Draft};
use super::output::{Output, OutputArguments, json};
use super::{ClientArguments, Failure};

#[derive(Debug, Args)]
pub(super) struct LockArguments {
    #[command(subcommand)]
    command: LockCommand,
}

#[derive(Debug, Subcommand)]
enum LockCommand {
    /// Show all topics: who holds their locks, and how far they are published.
    List {
        #[command(flatten)]
        client: ClientArguments,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Show a topic's lock, and who published what under which fence.
    Show {
        #[command(flatten)]
        client: ClientArguments,
        /// The topic.
        topic: Topic,
        /// Show who published this datum.
        #[arg(long, value_name = "SEQ")]
        sequence: Option<u64>,
        /// Show older holdings than the one of this fence.
        #[arg(long, value_name = "FENCE", conflicts_with = "sequence")]
        before: Option<u64>,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Take a topic's lock from whoever holds it: the others compete. Operators order it.
    Release {
        #[command(flatten)]
        client: ClientArguments,
        #[command(flatten)]
        approving: Approving,
        /// The topic.
        topic: Topic,
    },
}

#[derive(Debug, Args)]
pub(super) struct TopicArguments {
    #[command(subcommand)]
    command: TopicCommand,
}

#[derive(Debug, Subcommand)]
enum TopicCommand {
    /// Make a topic, or say anew who may push to it. Operators order it.
    Set {
        #[command(flatten)]
        client: ClientArguments,
        #[command(flatten)]
        approving: Approving,
        /// The topic.
        topic: Topic,
        /// Public keys of the sources that may push, with commas; without it every client that may publish.
        #[arg(long, value_delimiter = ',')]
        sources: Vec<PublicKey>,
        /// Take UTF-8 alone.
        #[arg(long)]
        text: bool,
        /// The lock stands in the lock service that the nodes are configured with (`publisher.lock_store`), and not on the chain.
        #[arg(long)]
        outside: bool,
    },
    /// Give up data that wait and that no node has any more: the topic goes on behind them, and terminals are told that they are missing. All nodes of `--node` are
    /// asked first: it is refused if one of them has the data, or does not answer. Operators order it.
    Skip {
        #[command(flatten)]
        client: ClientArguments,
        #[command(flatten)]
        approving: Approving,
        /// The topic.
        topic: Topic,
        /// The last datum that is given up, which is the last of a frame; without it, the last before what some node has. The first is the first that waits.
        #[arg(long, value_name = "SEQ")]
        upto: Option<u64>,
    },
    /// Show the data of a frame: from the first of the nodes that keeps it, checked against its hash. That a number's frame has this hash is the node's word.
    Frame {
        #[command(flatten)]
        client: ClientArguments,
        /// The topic.
        topic: Topic,
        /// The number of a datum in it, or the hash of its content.
        which: WhichFrame,
        #[command(flatten)]
        output: OutputArguments,
    },
}

pub(super) async fn topic(arguments: TopicArguments) -> Result<(), Failure> {
    match arguments.command {
        TopicCommand::Set { client, approving, topic, sources, text, outside } => {
            let sources = (!sources.is_empty()).then(|| sources.into_iter().collect::<BTreeSet<_>>());
            let change = TopicChange::Set(topic, Settings { sources, text, outside });
            order(&client.first()?, &approving, change).await
        }
        TopicCommand::Skip { client, approving, topic, upto } => {
            let change = skip(&client, topic, upto.map(Sequence)).await?;
            order(&client.first()?, &approving, change).await
        }
        TopicCommand::Frame { client, topic, which, output } => frame(&client, topic, which, output).await,
    }
}

/// What is to be given up: from the first datum that waits to the last that no node has.
async fn skip(nodes: &ClientArguments, topic: Topic, upto: Option<Sequence>) -> Result<TopicChange, Failure> {
    let mut views = Vec::new();
    for client in nodes.clients() {
        let view = client.topic(topic).await.map_err(|error| {
            let Failure { code, text } = error.into();
            Failure::new(
                code,
                format!(
                    "{text}: whether it has the data is not known; leave it out of --node only if what it had is lost"
                ),
            )
        })?;
        if !view.lacks {
            let what =
                format!("{} does not lack data of topic {topic} that wait: nothing is to be given up", client.base());
            return Err(Failure::new(6, what));
        }
        views.push(view);
    }
    let published = views.iter().map(|view| view.published).max().unwrap_or_default();
    let queued = views.iter().map(|view| view.queued).max().unwrap_or_default();
    let kept = views.iter().filter_map(|view| view.kept_from).filter(|first| *first > published).min();
    let last = kept.map_or(queued, |first| Sequence(first.0.saturating_sub(1)));
    match upto {
        Some(upto) if upto > last => Err(Failure::new(
            6,
            format!("up to {upto}: a node has data of topic {topic} from {} on", last.0.saturating_add(1)),
        )),
        upto => {
            Ok(TopicChange::Skip { topic, from: Sequence(published.0.saturating_add(1)), upto: upto.unwrap_or(last) })
        }
    }
}

async fn frame(
    nodes: &ClientArguments,
    topic: Topic,
    which: WhichFrame,
    output: OutputArguments,
) -> Result<(), Failure> {
    let mut last = Failure::new(2, "--node needs an address");
    for client in nodes.clients() {
        match client.frame(topic, which).await {
            Ok(frame) => {
                print_frame(&frame, output);
                return Ok(());
            }
            Err(error) => last = error.into(),
        }
    }
    Err(last)
}

fn print_frame(frame: &FrameView, output: OutputArguments) {
    match output.output {
        Output::Json => println!("{}", json(frame)),
        Output::Jsonl => frame.data.iter().for_each(|datum| println!("{}", json(datum))),
        Output::Table => {
            println!("content  {}\nchain    {}\n\nsequence     id           value", frame.content, frame.chain);
            for (sequence, datum) in (frame.first.0..).zip(&frame.data) {
                println!("{sequence:<12} {:<12} {}", datum.id, datum.value);
            }
        }
    }
}

pub(super) async fn lock(arguments: LockArguments) -> Result<(), Failure> {
    match arguments.command {
        LockCommand::List { client, output } => list(&client.first()?, output).await,
        LockCommand::Show { client, topic, sequence, before, output } => {
            let (client, sequence) = (client.first()?, sequence.map(Sequence));
            let holdings = match before {
                Some(fence) => client.holdings_before(topic, Fence(fence)).await?,
                None => client.holdings(topic, sequence).await?,
            };
            show(&client.topic(topic).await?, holdings, sequence, output);
            Ok(())
        }
        LockCommand::Release { client, approving, topic } => {
            let client = client.first()?;
            let fence = client.topic(topic).await?.fence;
            order(&client, &approving, TopicChange::Release(topic, fence)).await
        }
    }
}

async fn order(client: &Client, approving: &Approving, change: TopicChange) -> Result<(), Failure> {
    let (chain, number) = (client.genesis().await?.digest(), client.topics().await?.orders);
    let order = TopicOrder { chain, number, changes: vec![change] };
    if approving.settle(Draft::Topics(Approved::draft(order)), Some(client), None).await? {
        println!("done: topic order {number}");
    }
    Ok(())
}

fn line(view: &TopicView) -> String {
    let owner = view.owner.map_or_else(|| "nobody".to_owned(), |owner| owner.node_id().short());
    format!(
        "{:<26} {:>6} {owner:<10} {:>12} {:>12} {:>8}",
        view.topic.as_str(),
        view.fence,
        view.queued,
        view.published,
        view.queued.0.saturating_sub(view.published.0)
    )
}

const HEAD: &str = "topic                       fence held by          queued    published  waiting";

async fn list(client: &Client, output: OutputArguments) -> Result<(), Failure> {
    let all = client.topics().await?;
    match output.output {
        Output::Json => println!("{}", json(&all)),
        Output::Jsonl => all.topics.iter().for_each(|view| println!("{}", json(view))),
        Output::Table => {
            println!("{HEAD}");
            all.topics.iter().for_each(|view| println!("{}", line(view)));
        }
    }
    Ok(())
}

fn show(view: &TopicView, holdings: Vec<HoldingView>, of: Option<Sequence>, output: OutputArguments) {
    let shown = serde_json::json!({ "topic": view, "holdings": holdings });
    output.one(&shown, |_| print_lock(view, holdings, of));
}

fn print_lock(view: &TopicView, holdings: Vec<HoldingView>, of: Option<Sequence>) {
    println!("{HEAD}\n{}\n", line(view));
    match (of, holdings.is_empty()) {
        (Some(sequence), true) => println!("no checkpoint says who published datum {sequence}"),
        _ => println!("fence  published by  from         up to        ended"),
    }
    for HoldingView { owner, fence, from, upto, ended, ended_at, .. } in holdings {
        let upto = upto.map_or_else(|| "-".to_owned(), |upto| upto.to_string());
        let ended = match (ended, ended_at) {
            (Some(reason), Some(height)) => format!("{reason}, in block {height}"),
            _ => "no".to_owned(),
        };
        println!("{fence:<6} {:<13} {from:<12} {upto:<12} {ended}", owner.node_id().short());
    }
}
