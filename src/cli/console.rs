//! `console-token`: a link to a node's console.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use standin::config::NodeConfig;
use standin_console::actor::unix_ms;
use standin_console::login::{Login, LoginError, Tokens};
use standin_console::protocol::{Role, UserView};

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
    println!("http://{}/console/#t={token}", config.http_listen);
    Ok(())
}

/// Makes a one-time link's token.
pub(super) fn make(data_dir: &Path, user: &str, role: Role, minutes: u64) -> Result<String, LoginError> {
    let now = unix_ms();
    let user = UserView { name: user.to_owned(), role };
    Tokens::links(data_dir).make(&Login { user, expires_unix_ms: now + minutes * 60_000 }, now)
}
