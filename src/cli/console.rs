//! `console-token`: a link to a node's console. `audit`: what people did at it.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;
use standin::config::NodeConfig;
use standin_console::actor::unix_ms;
use standin_console::audit::{self, AuditError, Head};
use standin_console::login::{Login, LoginError, Tokens};
use standin_console::protocol::{Role, UserView};

use super::files::at;
use super::output::OutputArguments;
use super::{Failure, chain_of};

#[derive(Debug, Args)]
pub(super) struct TokenArguments {
    /// The node's configuration. Whoever may write to the node's data folder may make a link.
    #[arg(short, long)]
    config: PathBuf,
    /// Who opens it: the name stands in the console and its records.
    #[arg(long, default_value = "operator")]
    user: String,
    /// What they may do.
    #[arg(long, value_enum, default_value_t = RoleArgument::Viewer)]
    role: RoleArgument,
    /// For how many minutes the link can be opened. It opens once.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=1_440))]
    minutes: u64,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum RoleArgument {
    /// See.
    Viewer,
    /// Also act on running nodes.
    Operator,
    /// Also change members and keys.
    Admin,
}

#[derive(Debug, Args)]
pub(super) struct AuditArguments {
    #[command(subcommand)]
    command: AuditCommand,
}

#[derive(Debug, Subcommand)]
enum AuditCommand {
    /// Check a node's audit log: ends with 3 if a line was changed, left out or put in.
    Verify {
        /// The node's configuration.
        #[arg(short, long)]
        config: PathBuf,
        /// The first line that is to be there, where sealed files were put away.
        #[arg(long, default_value_t = 1)]
        from: u64,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Check a node's audit log, and print it: JSON lines.
    Export {
        /// The node's configuration.
        #[arg(short, long)]
        config: PathBuf,
        /// The first line that is to be there, where sealed files were put away.
        #[arg(long, default_value_t = 1)]
        from: u64,
    },
}

pub(super) fn audit(arguments: &AuditArguments) -> Result<(), Failure> {
    let (AuditCommand::Verify { config, from, .. } | AuditCommand::Export { config, from }) = &arguments.command;
    let config = NodeConfig::read(config)?;
    let Head { entries, hash } = audit::verify(&config.data_dir, *from)?;
    let sound = format!("{entries} entries are sound; the last has the hash {hash}");
    match arguments.command {
        AuditCommand::Verify { output, .. } => {
            output.one(&json!({ "entries": entries, "hash": hash }), |_| println!("{sound}"));
        }
        AuditCommand::Export { .. } => {
            // What the node is just adding is not finished.
            let mut left = (entries + 1).saturating_sub(*from.max(&1)) as usize;
            for path in audit::files(&config.data_dir)? {
                let text = std::fs::read_to_string(&path).map_err(at(&path))?;
                let lines: Vec<_> = text.split_inclusive('\n').take(left).collect();
                lines.iter().for_each(|line| print!("{line}"));
                left -= lines.len();
            }
            eprintln!("{sound}");
        }
    }
    Ok(())
}

impl From<AuditError> for Failure {
    fn from(error: AuditError) -> Self {
        let code = match &error {
            AuditError::Broken { .. } => 3,
            AuditError::File { source, .. } if source.kind() == std::io::ErrorKind::NotFound => 4,
            _ => 1,
        };
        Self::new(code, chain_of(&error))
    }
}

impl From<LoginError> for Failure {
    fn from(error: LoginError) -> Self {
        Self::new(1, chain_of(&error))
    }
}

pub(super) fn token(arguments: &TokenArguments) -> Result<(), Failure> {
    let config = NodeConfig::read(&arguments.config)?;
    let role = match arguments.role {
        RoleArgument::Viewer => Role::Viewer,
        RoleArgument::Operator => Role::Operator,
        RoleArgument::Admin => Role::Admin,
    };
    let token = make(&config.data_dir, &arguments.user, role, arguments.minutes)?;
    let base = config.console.url.unwrap_or_else(|| format!("http://{}", config.http_listen));
    println!("{base}/console/#t={token}");
    Ok(())
}

/// Makes a one-time link's token.
pub(super) fn make(data_dir: &Path, user: &str, role: Role, minutes: u64) -> Result<String, LoginError> {
    let now = unix_ms();
    let user = UserView { name: user.to_owned(), role };
    Tokens::links(data_dir).make(&Login { user, expires_unix_ms: now + minutes * 60_000 }, now)
}
