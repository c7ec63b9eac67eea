//! `client`: who may submit, read and publish, as the chain says.

use std::collections::BTreeSet;

use clap::{Args, Subcommand, ValueEnum};
use standin::client::Client as Node;
use standin_foundation::PublicKey;
use standin_ledger::approval::Approved;
use standin_ledger::clients::{Admission, Client, ClientChange, ClientOrder, Clients, Role};

use super::orders::{Approving, Draft};
use super::output::OutputArguments;
use super::{ClientArguments, Failure};

#[derive(Debug, Args)]
pub(super) struct ClientsArguments {
    #[command(subcommand)]
    command: ClientsCommand,
}

#[derive(Debug, Subcommand)]
enum ClientsCommand {
    /// Show the listed clients, and whether others may do anything.
    List {
        #[command(flatten)]
        node: ClientArguments,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// List a client, or say something else of one that is listed.
    Set {
        #[command(flatten)]
        node: ClientArguments,
        #[command(flatten)]
        approving: Approving,
        /// The client's public key.
        public_key: PublicKey,
        /// What it may do, with commas: submit, read, publish.
        #[arg(long, value_delimiter = ',', required = true)]
        roles: Vec<Role>,
        /// Transactions that each node takes from it in a second; 0 for as many as come.
        #[arg(long, default_value_t = 0)]
        per_second: u32,
    },
    /// List a client no more.
    Remove {
        #[command(flatten)]
        node: ClientArguments,
        #[command(flatten)]
        approving: Approving,
        /// The client's public key.
        public_key: PublicKey,
    },
    /// Say whether those who are not listed may submit and read.
    Admission {
        #[command(flatten)]
        node: ClientArguments,
        #[command(flatten)]
        approving: Approving,
        /// From whom the chain takes transactions.
        #[arg(value_enum)]
        admission: AdmissionArgument,
    },
}

/// From whom the chain takes transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum AdmissionArgument {
    /// From everybody.
    Open,
    /// From listed clients, by their roles.
    Listed,
}

pub(super) async fn client(arguments: ClientsArguments) -> Result<(), Failure> {
    match arguments.command {
        ClientsCommand::List { node, output } => list(&node.first()?, output).await,
        ClientsCommand::Set { node, approving, public_key, roles, per_second } => {
            let roles: BTreeSet<_> = roles.into_iter().collect();
            let change = ClientChange::Set(public_key, Client { roles, per_second });
            order(&node.first()?, &approving, change).await
        }
        ClientsCommand::Remove { node, approving, public_key } => {
            order(&node.first()?, &approving, ClientChange::Remove(public_key)).await
        }
        ClientsCommand::Admission { node, approving, admission } => {
            let admission = match admission {
                AdmissionArgument::Open => Admission::Open,
                AdmissionArgument::Listed => Admission::Listed,
            };
            order(&node.first()?, &approving, ClientChange::Admission(admission)).await
        }
    }
}

async fn order(node: &Node, approving: &Approving, change: ClientChange) -> Result<(), Failure> {
    let (chain, clients) = (node.genesis().await?.digest(), node.chain_clients().await?);
    let order = ClientOrder { chain, number: clients.orders, changes: vec![change] };
    if approving.settle(Draft::Clients(Approved::draft(order)), Some(node), None).await? {
        println!("done: client order {}", clients.orders);
    }
    Ok(())
}

async fn list(node: &Node, output: OutputArguments) -> Result<(), Failure> {
    output.one(&node.chain_clients().await?, print_clients);
    Ok(())
}

fn print_clients(clients: &Clients) {
    match clients.admission {
        Admission::Open => println!("everybody may submit and read; of those that are listed"),
        Admission::Listed => println!("nobody but these may submit and read"),
    }
    for (key, Client { roles, per_second }) in &clients.list {
        let roles = roles.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let rate = if *per_second == 0 { "any rate".to_owned() } else { format!("{per_second}/s at each node") };
        println!("  {key}  {roles:<20} {rate}");
    }
}
