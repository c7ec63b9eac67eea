//! `certificate`: when a node's certificate expires, and a new one.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;
use standin::config::NodeConfig;
use standin_console::actor::unix_ms;
use standin_stage::bridge::TlsIdentity;
use standin_stage::bridge::tls::{CERTIFICATE_DAYS, make_certificate};

use super::Failure;
use super::files::replace_private;
use super::output::OutputArguments;

#[derive(Debug, Args)]
pub(super) struct CertificateArguments {
    #[command(subcommand)]
    command: CertificateCommand,
}

#[derive(Debug, Subcommand)]
enum CertificateCommand {
    /// Show when a node's certificate expires; ends with 3 if it has.
    Show {
        /// The node's configuration.
        #[arg(short, long)]
        config: PathBuf,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Make a new certificate in the place of a node's. Nobody has to be told: nodes know each other by their keys. A node that runs takes it on SIGHUP.
    Renew {
        /// The node's configuration.
        #[arg(short, long)]
        config: PathBuf,
        /// For how many days it is good.
        #[arg(long, default_value_t = CERTIFICATE_DAYS, value_parser = clap::value_parser!(u32).range(1..=36_500))]
        days: u32,
        #[command(flatten)]
        output: OutputArguments,
    },
}

pub(super) fn certificate(arguments: &CertificateArguments) -> Result<(), Failure> {
    match &arguments.command {
        CertificateCommand::Show { config, output } => show(&NodeConfig::read(config)?, *output),
        CertificateCommand::Renew { config, days, output } => {
            let config = NodeConfig::read(config)?;
            let made = make_certificate("standin", *days).map_err(|error| Failure::new(1, error.to_string()))?;
            // Whoever reads between the two finds a key that is not the certificate's, and keeps what it has.
            replace_private(&config.certificate_key_file, made.1.as_bytes())?;
            replace_private(&config.certificate_file, made.0.as_bytes())?;
            eprintln!("a node that runs takes it on SIGHUP (systemctl reload)");
            show(&config, *output)
        }
    }
}

fn show(config: &NodeConfig, output: OutputArguments) -> Result<(), Failure> {
    let identity = TlsIdentity::read(&config.certificate_file, &config.certificate_key_file);
    let identity = identity.map_err(|error| Failure::new(78, error.to_string()))?;
    let left = identity.expires_unix_s() - i64::try_from(unix_ms() / 1_000).unwrap_or(i64::MAX);
    let days = left.div_euclid(24 * 60 * 60);
    let path = config.certificate_file.display();
    let expires = identity.expires_unix_s();
    let told =
        json!({ "file": config.certificate_file, "expires_unix_s": expires, "days_left": days, "expired": left <= 0 });
    match left > 0 {
        true => output.one(&told, |_| println!("{path}: expires in {days} days")),
        false => {
            output.one(&told, |_| {});
            return Err(Failure::new(3, format!("{path}: has expired, {} days ago", -days)));
        }
    }
    Ok(())
}
