//! `keygen`, and a node's identity on disk: its key, and the certificate of its bridge.

use std::path::{Path, PathBuf};

use clap::Args;
use standin_foundation::{PublicKey, SecretKey};
use standin_stage::bridge::tls::{CERTIFICATE_DAYS, make_certificate};

use super::Failure;
use super::files::{make_folder, write, write_private};

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
    make_folder(folder)?;
    let key = new_key(&folder.join("node.key"))?;
    let (certificate, private) =
        make_certificate("standin", CERTIFICATE_DAYS).map_err(|e| Failure::new(1, e.to_string()))?;
    write(&folder.join("tls.pem"), certificate)?;
    write_private(&folder.join("tls.key"), &private)?;
    Ok(key)
}

pub(super) fn new_key(path: &Path) -> Result<PublicKey, Failure> {
    let key = SecretKey::generate().map_err(|error| Failure::new(1, error.to_string()))?;
    key.write_new(path).map_err(|error| Failure::new(78, error.to_string()))?;
    Ok(key.public())
}
