//! The command line: what each command is called, and with which code it ends.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "data goes to stdout, talk to stderr")]

mod act;
mod backup;
mod certificate;
mod clients;
mod cluster;
mod commented;
mod config;
mod console;
mod consortium;
mod debug;
mod demo;
mod drill;
mod etcd;
mod files;
mod follow;
mod genesis;
mod identity;
mod init;
mod inputs;
mod layout;
mod links;
mod load;
mod lock;
mod logging;
mod member;
mod network;
mod newcomer;
mod orders;
mod output;
mod ports;
mod publish;
mod read;
mod reconfigure;
mod run;
mod service;
#[cfg(all(test, feature = "etcd"))]
#[path = "../../tests/it/skips.rs"]
mod skips;
mod submit;
mod trust;
mod verify;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand};
use standin::client::{Client, ClientError};
use standin::{ConfigError, NodeError};

const EXIT_CODES: &str = "Exit codes:
  0    done
  1    failed
  2    wrong usage
  3    the condition that was asked about does not hold (health, verify, audit)
  4    not found
  5    timed out
  6    refused by a rule
  69   the node cannot be reached
  77   not allowed
  78   bad configuration, key or genesis
  130  interrupted";

/// Replicated, supervised actors for consortium chains that do not stop.
#[derive(Debug, Parser)]
#[command(name = "standin", version, after_help = EXIT_CODES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show a whole network of real node processes at work, under signed load.
    Demo(demo::DemoArguments),
    /// Run failure drills on real node processes.
    Drill(drill::DrillArguments),
    /// Write keys, certificates, genesis and configurations of a network.
    Init(init::InitArguments),
    /// Make the genesis of a network from its nodes' descriptors, or check one.
    Genesis(genesis::GenesisArguments),
    /// Make a secret key; its public key goes to stdout.
    Keygen(identity::KeygenArguments),
    /// Check, show or explain a node's configuration.
    Config(config::ConfigArguments),
    /// Run a node until SIGTERM or SIGINT.
    Run(run::RunArguments),
    /// Show where nodes stand.
    Status(read::StatusArguments),
    /// Say whether a node is ready; ends with 3 if it is not.
    Health(read::HealthArguments),
    /// Move a cluster's seat to another member on purpose.
    Switch(cluster::SwitchArguments),
    /// Take a node out of service: it gives its seat up, takes no transactions, and is not ready.
    Drain(act::NodeArguments),
    /// Take a node back into service.
    Undrain(act::NodeArguments),
    /// Have a node say nothing to other seats.
    Pause(act::PauseArguments),
    /// Have a node speak to other seats again.
    Resume(act::NodeArguments),
    /// Have a node refuse transactions, or take them again.
    ReadOnly(act::ReadOnlyArguments),
    /// Have a node write its state at the newest proven checkpoint to a file of its own.
    Snapshot(act::NodeArguments),
    /// Set what a node logs.
    LogLevel(act::LogLevelArguments),
    /// Start one of a node's actors again.
    RestartActor(act::RestartActorArguments),
    /// Show or recall an auth node's register.
    Auth(cluster::AuthArguments),
    /// Show, admit, add or remove the members of clusters.
    Member(member::MemberArguments),
    /// Draft that clusters are added and removed: operators approve it.
    Cluster(consortium::ClusterArguments),
    /// Show or change who may submit, read and publish, as the chain says.
    Client(clients::ClientsArguments),
    /// Show or draft what operators order for the next epoch.
    Reconfigure(reconfigure::ReconfigureArguments),
    /// Show, approve or submit what operators order together.
    Order(orders::OrderArguments),
    /// Submit transactions: one, or a JSON-lines file, or stdin.
    Submit(submit::SubmitArguments),
    /// Push lines to a topic: from stdin, or a file.
    Publish(publish::PublishArguments),
    /// Print what is published on a topic: each datum once, in order, without a gap.
    Follow(follow::FollowArguments),
    /// Show or release the locks under which topics are published.
    Lock(lock::LockArguments),
    /// Say which topics there are, and who may push to them.
    Topic(lock::TopicArguments),
    /// Ask for a record or a balance.
    Query(read::QueryArguments),
    /// Show a transaction, and check its proofs.
    Tx(read::TransactionArguments),
    /// Show a block.
    Block(read::BlockArguments),
    /// Make a link to a node's console, which opens once.
    ConsoleToken(console::TokenArguments),
    /// Check or print what people did at a node's console.
    Audit(console::AuditArguments),
    /// Write down how nodes stand, for whoever is to find out what is wrong.
    Debug(debug::DebugArguments),
    /// Take a backup of a chain from a node, and check it.
    Backup(backup::BackupArguments),
    /// Make the data of a node that has none of a backup, or check one.
    Restore(backup::RestoreArguments),
    /// Show or renew the certificate of a node's bridge.
    Certificate(certificate::CertificateArguments),
    /// Check a stopped node's log and store.
    Verify(verify::VerifyArguments),
    /// Print completions for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page; with a folder, write a page for each command there.
    Man {
        /// The folder.
        folder: Option<std::path::PathBuf>,
    },
}

/// Which nodes to talk to.
#[derive(Debug, Clone, Args)]
struct ClientArguments {
    /// Addresses of nodes, separated by commas.
    #[arg(long, env = "STANDIN_NODE", value_delimiter = ',', default_value = "http://127.0.0.1:8001")]
    node: Vec<String>,
    /// How long to wait for an answer, in s.
    #[arg(long, default_value_t = 10)]
    timeout: u64,
}

impl ClientArguments {
    fn clients(&self) -> Vec<Client> {
        let timeout = Duration::from_secs(self.timeout.max(1));
        self.node.iter().map(|node| Client::new(node, timeout)).collect()
    }

    fn first(&self) -> Result<Client, Failure> {
        self.clients().into_iter().next().ok_or_else(|| Failure::new(2, "--node needs an address"))
    }
}

/// Why a command failed, and the code that it ends with.
#[derive(Debug)]
struct Failure {
    code: u8,
    text: String,
}

impl Failure {
    fn new(code: u8, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let code = match &error {
            ClientError::Unreachable { .. } => 69,
            ClientError::NotFound(_) => 4,
            ClientError::Refused(_) | ClientError::Conflict(_) => 6,
            ClientError::NotAllowed(_) => 77,
            _ => 1,
        };
        Self::new(code, chain_of(&error))
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::new(78, chain_of(&error))
    }
}

impl From<NodeError> for Failure {
    fn from(error: NodeError) -> Self {
        let code = match &error {
            NodeError::Config(_)
            | NodeError::Key(_)
            | NodeError::NoSeat(_)
            | NodeError::AuthKey { .. }
            | NodeError::Replaced { .. }
            | NodeError::NoAuth
            | NodeError::Tls(_) => 78,
            NodeError::NoDrill(_) => 6,
            _ => 1,
        };
        Self::new(code, chain_of(&error))
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(1, error.to_string())
    }
}

/// An error with its causes, as far as they say more than it does.
fn chain_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// Whoever reads what is printed may have seen enough, as in `… | head`: the standard library panics then, and there is nothing
/// to tell. What was begun is unwound.
fn is_reader_gone(told: &str) -> bool {
    told.contains("failed printing to std") && told.contains("Broken pipe")
}

/// Runs the command line; errors are printed with their causes.
pub(crate) fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !is_reader_gone(&panic.to_string()) {
            tell(panic);
        }
    }));
    // In a task of its own: what the system waits for is polled whenever any task is.
    let run = || match actix::System::new().block_on(async { actix::spawn(dispatch(arguments.command)).await }) {
        Ok(ended) => ended,
        // Nothing cancels it.
        Err(error) => error.try_into_panic().map_or(Ok(()), |panic| std::panic::resume_unwind(panic)),
    };
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).or_else(|panic| {
        match panic.downcast_ref::<String>().is_some_and(|told| is_reader_gone(told)) {
            true => Ok(Ok(())),
            false => Err(panic),
        }
    });
    match ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { code, text }) => {
            if !text.is_empty() {
                eprintln!("standin: {text}");
            }
            ExitCode::from(code)
        }
    }
}

async fn dispatch(command: Command) -> Result<(), Failure> {
    match command {
        Command::Demo(arguments) => demo::demo(arguments).await,
        Command::Drill(arguments) => drill::drill(arguments).await,
        Command::Init(arguments) => init::init(&arguments),
        Command::Genesis(arguments) => genesis::genesis(arguments),
        Command::Keygen(arguments) => identity::keygen(&arguments),
        Command::Config(arguments) => config::config(&arguments),
        Command::Run(arguments) => run::run(arguments).await,
        Command::Status(arguments) => read::status(arguments).await,
        Command::Health(arguments) => read::health(arguments).await,
        Command::Switch(arguments) => cluster::switch(arguments).await,
        Command::Drain(arguments) => act::plain("drain", arguments).await,
        Command::Undrain(arguments) => act::plain("undrain", arguments).await,
        Command::Pause(arguments) => act::pause(arguments).await,
        Command::Resume(arguments) => act::plain("resume", arguments).await,
        Command::ReadOnly(arguments) => act::read_only(arguments).await,
        Command::Snapshot(arguments) => act::plain("snapshot", arguments).await,
        Command::Backup(arguments) => backup::backup(arguments).await,
        Command::Restore(arguments) => backup::restore(&arguments),
        Command::Certificate(arguments) => certificate::certificate(&arguments),
        Command::LogLevel(arguments) => act::log_level(arguments).await,
        Command::RestartActor(arguments) => act::restart_actor(arguments).await,
        Command::Auth(arguments) => cluster::auth(arguments).await,
        Command::Cluster(arguments) => consortium::cluster(arguments).await,
        Command::Member(arguments) => member::member(arguments).await,
        Command::Reconfigure(arguments) => reconfigure::reconfigure(arguments).await,
        Command::Client(arguments) => clients::client(arguments).await,
        Command::Order(arguments) => orders::order(arguments).await,
        Command::Submit(arguments) => submit::submit(arguments).await,
        Command::Publish(arguments) => publish::publish(arguments).await,
        Command::Follow(arguments) => follow::follow(arguments).await,
        Command::Lock(arguments) => lock::lock(arguments).await,
        Command::Topic(arguments) => lock::topic(arguments).await,
        Command::Query(arguments) => read::query(arguments).await,
        Command::Tx(arguments) => read::transaction(arguments).await,
        Command::Block(arguments) => read::block(arguments).await,
        Command::Audit(arguments) => console::audit(&arguments),
        Command::ConsoleToken(arguments) => console::token(&arguments),
        Command::Debug(arguments) => debug::debug(arguments).await,
        Command::Verify(arguments) => verify::verify(&arguments),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), "standin", &mut std::io::stdout());
            Ok(())
        }
        Command::Man { folder: Some(folder) } => {
            files::make_folder(&folder)?;
            Ok(clap_mangen::generate_to(Arguments::command(), folder)?)
        }
        Command::Man { folder: None } => {
            Ok(clap_mangen::Man::new(Arguments::command()).render(&mut std::io::stdout())?)
        }
    }
}
