//! `status`, `health`, `query`, `tx`, `block`: what nodes say.

use std::path::PathBuf;

use bytes::Bytes;
use clap::Args;
use serde::Serialize;
use serde_json::json;
use standin::api::{BlockView, BytesView, WhichBlock};
use standin::client::{Client, ClientError, percent_encoded};
use standin_foundation::{ClusterId, Height};
use standin_ledger::builtin::Question;
use standin_ledger::{Outcome, SignedGrant, Title, Transaction, TransactionId};

use super::orders::read_key;
use super::output::OutputArguments;
use super::trust::TrustArguments;
use super::{ClientArguments, Failure};

#[derive(Debug, Args)]
pub(super) struct StatusArguments {
    #[command(flatten)]
    client: ClientArguments,
    #[command(flatten)]
    output: OutputArguments,
    /// Show who holds the seats, who follows, and how far: of this cluster, or of `all`.
    #[arg(long, value_name = "CLUSTER")]
    cluster: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct HealthArguments {
    #[command(flatten)]
    client: ClientArguments,
    #[command(flatten)]
    output: OutputArguments,
}

/// Which nodes to ask, and as whom.
#[derive(Debug, Args)]
pub(super) struct ReadingArguments {
    #[command(flatten)]
    client: ClientArguments,
    /// Key file of the client that reads: needed where the chain admits listed clients only.
    #[arg(long = "as", value_name = "FILE", env = "STANDIN_KEY")]
    reader: Option<PathBuf>,
}

impl ReadingArguments {
    pub(super) fn clients(&self) -> Result<Vec<Client>, Failure> {
        let clients = self.client.clients();
        match &self.reader {
            None => Ok(clients),
            Some(path) => clients.into_iter().map(|client| Ok(client.reading_as(read_key(path)?))).collect(),
        }
    }

    pub(super) fn first(&self) -> Result<Client, Failure> {
        self.clients()?.into_iter().next().ok_or_else(|| Failure::new(2, "--node needs an address"))
    }
}

#[derive(Debug, Args)]
pub(super) struct QueryArguments {
    #[command(flatten)]
    client: ReadingArguments,
    /// The record's title.
    #[arg(long, requires = "key")]
    title: Option<String>,
    /// The record's key.
    #[arg(long, requires = "title")]
    key: Option<String>,
    /// An account's public key: asks for its balance.
    #[arg(long, conflicts_with = "title")]
    account: Option<String>,
    /// Wait until the node has executed this block, such as the one that a transaction was answered with; at most 5 s, and ends with 5 then.
    #[arg(long, value_name = "HEIGHT", conflicts_with = "cluster")]
    at_least: Option<u64>,
    /// A cluster: asks who held its seat, by the newest grant that was on the chain's record by then, and checks it; ends with 3 if it does
    /// not hold. A grant is on record about a second after it was made; a block's certificate names the terms of its votes.
    #[arg(long, conflicts_with_all = ["title", "account"])]
    cluster: Option<String>,
    /// The block at which the seat was held; the newest without it.
    #[arg(long, value_name = "HEIGHT", requires = "cluster")]
    at: Option<u64>,
    #[command(flatten)]
    trust: TrustArguments,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Debug, Args)]
pub(super) struct TransactionArguments {
    #[command(flatten)]
    client: ReadingArguments,
    /// The transaction's id.
    id: String,
    /// Check its proofs, at every node given; ends with 3 if one does not hold.
    #[arg(long)]
    verify: bool,
    #[command(flatten)]
    trust: TrustArguments,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Debug, Args)]
pub(super) struct BlockArguments {
    #[command(flatten)]
    client: ReadingArguments,
    /// The block's height, or its hash; the newest without it.
    #[arg(value_name = "HEIGHT|HASH")]
    which: Option<WhichBlock>,
    /// Show all transactions of this title in the block, and check the proof that there are no others; ends with 3 if it
    /// does not hold.
    #[arg(long, requires = "which")]
    title: Option<String>,
    #[command(flatten)]
    trust: TrustArguments,
    #[command(flatten)]
    output: OutputArguments,
}

pub(super) async fn status(arguments: StatusArguments) -> Result<(), Failure> {
    if let Some(cluster) = &arguments.cluster {
        return super::cluster::status(&arguments.client, cluster, arguments.output).await;
    }
    let mut last = None;
    let mut views = Vec::new();
    for client in arguments.client.clients() {
        match client.status().await {
            Ok(view) => views.push((client.base().to_owned(), view)),
            Err(error) => {
                eprintln!("standin: {error}");
                last = Some(error);
            }
        }
    }
    let (bases, views): (Vec<_>, Vec<_>) = views.into_iter().unzip();
    arguments.output.all(&views, |views| {
        println!(
            "{:<28} {:>4} {:>5} {:>7} {:>9} {:>9} {:>7} {:>5}",
            "node", "seat", "view", "primary", "height", "stable", "pending", "peers"
        );
        for (base, view) in bases.iter().zip(views) {
            let peers = view.peers.iter().filter(|peer| peer.connected).count();
            println!(
                "{base:<28} {:>4} {:>5} {:>7} {:>9} {:>9} {:>7} {peers:>5}",
                view.seat, view.view, view.primary, view.height, view.stable, view.pending_batches
            );
        }
    });
    match last {
        Some(error) if views.is_empty() => Err(error.into()),
        _ => Ok(()),
    }
}

pub(super) async fn health(arguments: HealthArguments) -> Result<(), Failure> {
    let (ready, text) = arguments.client.first()?.ready().await?;
    let line = |line: &str| {
        let sound = line.starts_with("[+]");
        json!({ "passed": sound, "what": line.trim_start_matches("[+]").trim_start_matches("[-]") })
    };
    let told = json!({ "ready": ready, "checks": text.lines().map(line).collect::<Vec<_>>() });
    arguments.output.one(&told, |_| print!("{text}"));
    if ready { Ok(()) } else { Err(Failure::new(3, "")) }
}

pub(super) async fn query(arguments: QueryArguments) -> Result<(), Failure> {
    let client = arguments.client.first()?;
    if let Some(cluster) = &arguments.cluster {
        return held(&client, cluster, &arguments).await;
    }
    let (query, question) = match (&arguments.title, &arguments.key, &arguments.account) {
        (Some(title), Some(key), _) => {
            let parsed: Title = title.parse().map_err(|error| Failure::new(2, format!("{error}")))?;
            let question = Question::Record { title: parsed, key: key.clone().into_bytes() };
            (format!("title={}&key={}", percent_encoded(title), percent_encoded(key)), question)
        }
        (_, _, Some(account)) => {
            let parsed = account.parse().map_err(|error| Failure::new(2, format!("{error}")))?;
            (format!("account={account}"), Question::Balance { account: parsed })
        }
        _ => return Err(Failure::new(2, "--title and --key, or --account, or --cluster is needed")),
    };
    let fresh = arguments.at_least.map(|height| format!("&at_least={height}")).unwrap_or_default();
    let answer = client.query(&format!("{query}{fresh}")).await.map_err(|error| match (error, arguments.at_least) {
        (ClientError::Busy(why), Some(_)) => Failure::new(5, why),
        (error, _) => error.into(),
    })?;
    // A node of a version that does not know of it answers at once.
    if let Some(wanted) = arguments.at_least.filter(|wanted| answer.height.0 < *wanted) {
        return Err(Failure::new(3, format!("the node answers as of height {}, and not of {wanted}", answer.height)));
    }
    let proven = answer.proof.verify(&answer.root, &question.state_key());
    let proven = proven.ok_or_else(|| Failure::new(3, "the node's proof does not hold"))?;
    match (proven, &question) {
        (None, _) => return Err(Failure::new(4, format!("nothing stands there as of height {}", answer.height))),
        (Some(value), Question::Balance { .. }) => {
            let balance = value.try_into().map_or(0, u64::from_be_bytes);
            let told = json!({ "height": answer.height, "balance": balance });
            arguments.output.one(&told, |_| println!("{balance}"));
        }
        (Some(value), Question::Record { .. }) => {
            let told = json!({ "height": answer.height, "value": BytesView::from(&Bytes::copy_from_slice(value)) });
            arguments.output.one(&told, |_| println!("{}", String::from_utf8_lossy(value)));
        }
    }
    eprintln!("as of height {}", answer.height);
    Ok(())
}

async fn held(client: &Client, cluster: &str, arguments: &QueryArguments) -> Result<(), Failure> {
    let cluster: ClusterId = cluster.parse().map_err(|error| Failure::new(2, format!("--cluster: {error}")))?;
    let genesis = arguments.trust.genesis(std::slice::from_ref(client)).await?;
    let view = client.held(&cluster, arguments.at.map(Height)).await?;
    let asked = arguments.at.is_none_or(|at| view.at == Height(at));
    let verified = view.verify(&cluster, &client.grant_table(&genesis).await?);
    verified
        .and(asked.then_some(()).ok_or("another block came back".to_owned()))
        .map_err(|what| Failure::new(3, what))?;
    let Some(SignedGrant { grant, .. }) = &view.grant else {
        return Err(Failure::new(4, format!("no grant of cluster {cluster} was on record at block {}", view.at)));
    };
    let since = match &view.record {
        Some(proven) => format!("on record since block {}", proven.record.height),
        None => "named by the chain's own order".to_owned(),
    };
    let in_sync: Vec<_> = grant.in_sync.iter().map(standin_foundation::NodeId::short).collect();
    let recorded = view.record.as_ref().map(|proven| proven.record.height);
    let told = json!({ "at": view.at, "height": view.height, "grant": grant, "recorded": recorded });
    arguments.output.one(&told, |_| {
        println!(
            "node {} with key {}: term {} ({}), in sync {}, {since}",
            grant.holder_id().short(),
            grant.holder,
            grant.term,
            format!("{:?}", grant.cause).to_lowercase(),
            in_sync.join(" ")
        );
    });
    eprintln!("at block {} as of height {}", view.at, view.height);
    Ok(())
}

/// A node that has shown a transaction's proofs.
#[derive(Debug, Serialize)]
struct Proven {
    node: String,
    height: Height,
    outcome: Outcome,
}

pub(super) async fn transaction(arguments: TransactionArguments) -> Result<(), Failure> {
    let id: TransactionId = arguments.id.parse().map_err(|error| Failure::new(2, format!("{error}")))?;
    if !arguments.verify {
        arguments.output.one(&arguments.client.first()?.transaction(&id).await?, |view| {
            let proven = if view.checkpoint.is_some() { "yes" } else { "not yet: no checkpoint covers the block" };
            println!("transaction {id}");
            println!("block       {}", view.header.height());
            println!("place       {} in batch {}", view.index_in_batch, view.batch);
            println!("outcome     {:?}", view.receipt.outcome);
            println!("provable    {proven}");
        });
        return Ok(());
    }
    let mut proven = Vec::new();
    let clients = arguments.client.clients()?;
    let genesis = arguments.trust.genesis(&clients).await?;
    for client in clients {
        let view = client.transaction(&id).await?;
        let verified = view.verify(&id, &client.grant_table(&genesis).await?);
        verified.map_err(|what| Failure::new(3, format!("{}: {what}", client.base())))?;
        let (node, height, outcome) = (client.base().to_owned(), view.header.height(), view.receipt.outcome);
        proven.push(Proven { node, height, outcome });
    }
    arguments.output.all(&proven, |proven| {
        for Proven { node, height, outcome } in proven {
            println!("{node}: in block {height}, receipt {outcome:?}: proven");
        }
    });
    Ok(())
}

pub(super) async fn block(arguments: BlockArguments) -> Result<(), Failure> {
    if let Some(title) = &arguments.title {
        let Some(WhichBlock::At(height)) = arguments.which else {
            return Err(Failure::new(2, "--title needs the block's height"));
        };
        let title: Title = title.parse().map_err(|error| Failure::new(2, format!("{error}")))?;
        return title_of_block(&arguments, height, title).await;
    }
    let block = arguments.client.first()?.block(arguments.which.unwrap_or(WhichBlock::Latest)).await?;
    arguments.output.one(&block, |block| {
        let BlockView { height, hash, header, certificate, receipts, .. } = block;
        println!("block        {height}");
        println!("hash         {hash}");
        println!("parent       {}", header.parent);
        println!("view         {}", certificate.view);
        println!("transactions {}", receipts.len());
        receipts.iter().for_each(|receipt| println!("  {}  {:?}", receipt.transaction, receipt.outcome));
    });
    Ok(())
}

async fn title_of_block(arguments: &BlockArguments, height: Height, title: Title) -> Result<(), Failure> {
    let client = arguments.client.first()?;
    let genesis = arguments.trust.genesis(std::slice::from_ref(&client)).await?;
    let view = client.title(height, title).await?;
    let transactions =
        view.verify(title, height, &client.grant_table(&genesis).await?).map_err(|what| Failure::new(3, what))?;
    let ids: Vec<_> = transactions.iter().map(Transaction::id).collect();
    arguments.output.all(&ids, |ids| ids.iter().for_each(|id| println!("{id}")));
    eprintln!("{} transactions of `{title}` in block {height}: proven to be all there are", transactions.len());
    Ok(())
}
