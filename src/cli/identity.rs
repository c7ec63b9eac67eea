//! `keygen`, and a node's identity on disk: its key, and the certificate of its bridge.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use standin_foundation::{PublicKey, SecretKey};
use standin_stage::bridge::tls::{CERTIFICATE_DAYS, make_certificate};

use super::Failure;

#[derive(Debug, Args)]
pub(super) struct KeygenArguments {
    /// The new key file.
    file: PathBuf,
}

pub(super) fn keygen(arguments: &KeygenArguments) -> Result<(), Failure> {
    println!("{}", new_key(&arguments.file)?);
    Ok(())
}

/// A node's key and certificate.
pub(super) fn write_identity(folder: &Path) -> Result<PublicKey, Failure> {
    fs::create_dir_all(folder)?;
    let key = new_key(&folder.join("node.key"))?;
    let (certificate, private) =
        make_certificate("standin", CERTIFICATE_DAYS).map_err(|e| Failure::new(1, e.to_string()))?;
    fs::write(folder.join("tls.pem"), certificate)?;
    write_private(&folder.join("tls.key"), &private)?;
    Ok(key)
}

pub(super) fn new_key(path: &Path) -> Result<PublicKey, Failure> {
    let key = SecretKey::generate().map_err(|error| Failure::new(1, error.to_string()))?;
    key.write_new(path).map_err(|error| Failure::new(78, error.to_string()))?;
    Ok(key.public())
}

pub(super) fn write_private(path: &Path, text: &str) -> Result<(), Failure> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    Ok(file.write_all(text.as_bytes())?)
}
