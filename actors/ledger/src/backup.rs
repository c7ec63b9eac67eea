//! Backups: the state at a proven checkpoint, in one stream of bytes. With the genesis alone anyone can check it.
//!
//! The stream is a line that names the format, and then frames: a byte for the kind, the length as four bytes, big end first, and the frame's wire bytes.
//! Proofs of epochs and grants come first, then what the snapshot consists of, then its parts, then an empty frame that ends it.

use std::io::{self, Read, Write};

use standin_foundation::Height;
use standin_foundation::wire::{Wire, WireError};

use crate::certificate::CheckpointCertificate;
use crate::epoch::EpochProof;
use crate::error::LedgerError;
use crate::genesis::Genesis;
use crate::grant::{GrantTable, SignedGrant};
use crate::snapshot::{Chunk, Manifest, ServedSnapshot, Snapshot, SnapshotBuilder};

/// What a backup begins with.
const FORMAT: &[u8] = b"standin-backup-1\n";

const EPOCH: u8 = b'e';
const GRANT: u8 = b'g';
const MANIFEST: u8 = b'm';
const CHUNK: u8 = b'c';
const END: u8 = b'z';

/// Proofs that are read before the snapshot's own.
const PROOFS_MAX: usize = 1_000_000;

/// Why a backup cannot be written or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// The system refused.
    #[error("backup: {0}")]
    Io(#[from] io::Error),
    /// It is no backup, or a later format.
    #[error("this is no backup of this format: it does not begin with `standin-backup-1`")]
    Format,
    /// It ends too early.
    #[error("the backup ends after {chunks} parts: it was not written to its end, or cut")]
    Cut {
        /// Parts that were whole.
        chunks: usize,
    },
    /// A frame that cannot be read.
    #[error("the backup is damaged: {0}")]
    Damaged(#[from] WireError),
    /// A frame that has no place there.
    #[error("the backup is damaged: {0}")]
    Misplaced(&'static str),
    /// More proofs than a chain can have.
    #[error("the backup names more than {0} grants and epochs")]
    TooMany(usize),
    /// What it says is not proven by this genesis.
    #[error("the backup does not belong to this genesis, or is damaged: {0}")]
    Unproven(#[from] LedgerError),
}

/// What is in a backup, checked.
#[derive(Debug)]
pub struct Restored {
    /// The state, with what the blocks after it must remember.
    pub snapshot: Snapshot,
    /// Its proof.
    pub certificate: CheckpointCertificate,
    /// The proofs of the epochs up to it, by rising number.
    pub epochs: Vec<EpochProof>,
    /// The grants that the votes in it are judged by.
    pub grants: Vec<SignedGrant>,
}

/// A backup that is being written, piece by piece.
#[derive(Debug)]
pub struct Backup {
    epochs: std::vec::IntoIter<EpochProof>,
    grants: std::vec::IntoIter<SignedGrant>,
    snapshot: ServedSnapshot,
    next: Next,
}

#[derive(Debug)]
enum Next {
    Format,
    Proofs,
    Chunk(usize),
    Done,
}

impl Backup {
    /// A backup of `snapshot`, which `certificate` proves to whoever knows these epochs and grants.
    pub fn new(
        snapshot: &Snapshot,
        certificate: CheckpointCertificate,
        epochs: Vec<EpochProof>,
        grants: Vec<SignedGrant>,
    ) -> Self {
        let snapshot = ServedSnapshot::new(snapshot, certificate);
        Self { epochs: epochs.into_iter(), grants: grants.into_iter(), snapshot, next: Next::Format }
    }

    /// The height of the snapshot.
    pub fn height(&self) -> Height {
        self.snapshot.manifest().certificate.result.height
    }

    /// The next piece; none at the end.
    pub fn next_piece(&mut self) -> Result<Option<Vec<u8>>, BackupError> {
        match self.next {
            Next::Format => {
                self.next = Next::Proofs;
                Ok(Some(FORMAT.to_vec()))
            }
            Next::Proofs => {
                // A grant may be of an epoch that is proven by grants of the one before: readers take in what they can, twice.
                if let Some(grant) = self.grants.next() {
                    return frame(GRANT, &grant).map(Some);
                }
                if let Some(epoch) = self.epochs.next() {
                    return frame(EPOCH, &epoch).map(Some);
                }
                self.next = Next::Chunk(0);
                frame(MANIFEST, self.snapshot.manifest()).map(Some)
            }
            Next::Chunk(index) => match self.snapshot.chunk(index) {
                Some(chunk) => {
                    self.next = Next::Chunk(index + 1);
                    frame(CHUNK, &chunk).map(Some)
                }
                None => {
                    self.next = Next::Done;
                    Ok(Some(vec![END, 0, 0, 0, 0]))
                }
            },
            Next::Done => Ok(None),
        }
    }

    /// Writes all of it.
    pub fn write(mut self, out: &mut impl Write) -> Result<(), BackupError> {
        while let Some(piece) = self.next_piece()? {
            out.write_all(&piece)?;
        }
        Ok(out.flush()?)
    }
}

fn frame<T: Wire>(kind: u8, value: &T) -> Result<Vec<u8>, BackupError> {
    let bytes = value.to_wire()?;
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    Ok([&[kind][..], &length.to_be_bytes(), &bytes].concat())
}

impl Restored {
    /// Reads a backup of the chain with this genesis, and checks all of it.
    pub fn read(input: &mut impl Read, genesis: &Genesis) -> Result<Self, BackupError> {
        let mut format = [0; FORMAT.len()];
        input.read_exact(&mut format).map_err(|_| BackupError::Format)?;
        if format != FORMAT {
            return Err(BackupError::Format);
        }
        let (mut epochs, mut grants) = (Vec::new(), Vec::new());
        let mut chunks = 0;
        let mut builder: Option<SnapshotBuilder> = None;
        loop {
            let (kind, bytes) = match next_frame(input) {
                Err(BackupError::Io(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err(BackupError::Cut { chunks });
                }
                frame => frame?,
            };
            match (kind, &mut builder) {
                (GRANT | EPOCH, None) if grants.len() + epochs.len() >= PROOFS_MAX => {
                    return Err(BackupError::TooMany(PROOFS_MAX));
                }
                (GRANT, None) => grants.push(SignedGrant::from_wire(&bytes)?),
                (EPOCH, None) => epochs.push(EpochProof::from_wire(&bytes)?),
                (MANIFEST, None) => {
                    let manifest = Manifest::from_wire(&bytes)?;
                    manifest.certificate.verify(&known(genesis, &epochs, &grants)?)?;
                    builder = Some(SnapshotBuilder::new(manifest)?);
                }
                (CHUNK, Some(builder)) => {
                    builder.accept(chunks, Chunk::from_wire(&bytes)?)?;
                    chunks += 1;
                }
                (END, Some(_)) => break,
                _ => return Err(BackupError::Misplaced("a frame has no place where it stands")),
            }
        }
        let finished = builder.and_then(|builder| builder.finish().ok());
        let missing = BackupError::Misplaced("a part of the snapshot is missing");
        let (snapshot, certificate) = finished.ok_or(missing)?;
        Ok(Self { snapshot, certificate, epochs, grants })
    }
}

/// Who may speak for which seat, from the genesis on.
fn known(genesis: &Genesis, epochs: &[EpochProof], grants: &[SignedGrant]) -> Result<GrantTable, LedgerError> {
    let mut table = genesis.grant_table();
    // What does not hold is left out: a vote that would need it is of an unknown term then.
    let take_in = |table: &mut GrantTable| grants.iter().for_each(|grant| drop(table.note(grant.clone())));
    take_in(&mut table);
    for proof in epochs {
        let begun = proof.verify(&table)?;
        table.begin(begun);
        take_in(&mut table);
    }
    Ok(table)
}

fn next_frame(input: &mut impl Read) -> Result<(u8, Vec<u8>), BackupError> {
    let mut head = [0; 5];
    input.read_exact(&mut head)?;
    let [kind, length @ ..] = head;
    let limit = match kind {
        EPOCH => EpochProof::BYTES_MAX,
        GRANT => SignedGrant::BYTES_MAX,
        MANIFEST => Manifest::BYTES_MAX,
        CHUNK => Chunk::BYTES_MAX,
        END => 0,
        _ => return Err(BackupError::Misplaced("a frame is of no known kind")),
    };
    let length = u32::from_be_bytes(length) as usize;
    if length > limit {
        return Err(BackupError::Misplaced("a frame is larger than its kind may be"));
    }
    let mut bytes = vec![0; length];
    input.read_exact(&mut bytes)?;
    Ok((kind, bytes))
}

#[cfg(test)]
mod tests {
    use standin_foundation::{Digest, Domain, Epoch, Seat, Term};

    use super::*;
    use crate::certificate::{SeatVote, VoteTarget};
    use crate::chain::Chain;
    use crate::chain::tests::{chain, genesis, put, step};
    use crate::transaction::tests::key;

    fn backup() -> (Chain, Vec<u8>) {
        let genesis = genesis(40);
        let mut chain = chain(40);
        let mut result = None;
        for height in 1..=32 {
            result = step(&mut chain, vec![put(height, height + 9)]).checkpoint.or(result);
        }
        let result = result.unwrap();
        let content = |seat| {
            let target: VoteTarget = result.target(Epoch(0));
            target.signed_content(&genesis.digest(), Seat(seat), Term(0))
        };
        let vote = |seat: u16| SeatVote {
            seat: Seat(seat),
            term: Term(0),
            signature: key(seat as u8 + 1).sign(Domain::Consensus, &content(seat)),
        };
        let certificate = CheckpointCertificate { epoch: Epoch(0), result, votes: (0..3).map(vote).collect() };
        let mut bytes = Vec::new();
        Backup::new(&chain.snapshot(), certificate, Vec::new(), Vec::new()).write(&mut bytes).unwrap();
        (chain, bytes)
    }

    #[test]
    fn a_backup_reads_back_and_nobody_can_change_it() {
        let (chain, bytes) = backup();
        let restored = Restored::read(&mut bytes.as_slice(), &genesis(40)).unwrap();
        assert_eq!(restored.snapshot.header.height(), Height(32));
        assert_eq!(restored.snapshot.state_root(), chain.snapshot().state_root());
        // Whatever byte is changed, it is noticed: all of it is proven, or read as something else.
        let step = bytes.len() / 400 + 1;
        for place in (0..bytes.len()).step_by(step) {
            let mut changed = bytes.clone();
            changed[place] ^= 1;
            let read = Restored::read(&mut changed.as_slice(), &genesis(40));
            assert!(
                read.as_ref().is_err()
                    || read.is_ok_and(|read| read.snapshot.state_root() == chain.snapshot().state_root()),
                "byte {place}"
            );
        }
        for length in (0..bytes.len()).step_by(step) {
            assert!(Restored::read(&mut bytes.get(..length).unwrap(), &genesis(40)).is_err(), "{length} bytes");
        }
        let other = Genesis { time_ms: 2, ..genesis(40) };
        let error = Restored::read(&mut bytes.as_slice(), &other).unwrap_err().to_string();
        assert!(error.contains("does not belong to this genesis"), "{error}");
        assert!(matches!(Restored::read(&mut &b"something else entirely"[..], &other), Err(BackupError::Format)));
        let huge = [FORMAT, &[CHUNK], &u32::MAX.to_be_bytes()].concat();
        assert!(matches!(Restored::read(&mut huge.as_slice(), &other), Err(BackupError::Misplaced(_))));
        assert_ne!(restored.certificate.result.state_root, Digest::ZERO);
    }
}
