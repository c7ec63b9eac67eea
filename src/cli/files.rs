//! Files that commands write: whole or not at all, and told of by their names where they cannot be.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::Failure;

/// What went wrong, with the file or folder that it is about.
pub(super) fn at(path: &Path) -> impl Fn(io::Error) -> Failure + use<> {
    let path = path.to_owned();
    move |error| Failure::new(1, format!("{}: {error}", path.display()))
}

/// Writes a file.
pub(super) fn write(path: &Path, text: impl AsRef<[u8]>) -> Result<(), Failure> {
    fs::write(path, text).map_err(at(path))
}

/// Makes a folder, and those that it is in.
pub(super) fn make_folder(path: &Path) -> Result<(), Failure> {
    fs::create_dir_all(path).map_err(at(path))
}

/// Writes a file that only its owner may read, and that is not there yet.
pub(super) fn write_private(path: &Path, text: &str) -> Result<(), Failure> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(at(path))
}

/// Puts a file in the place of another, whole or not at all, also through a loss of power.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    put(path, &mut OpenOptions::new(), bytes)
}

/// The same with a file that only its owner may read.
pub(super) fn replace_private(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    put(path, OpenOptions::new().mode(0o600), bytes)
}

fn put(path: &Path, options: &mut OpenOptions, bytes: &[u8]) -> Result<(), Failure> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&new)(error)),
        _ => {}
    }
    let mut file: File = options.write(true).create_new(true).open(&new).map_err(at(&new))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(at(&new))?;
    fs::rename(&new, path).map_err(at(path))
}
