//! The durable log: records made durable a second, one sync each and in groups, against a bare append and fdatasync of the
//! same bytes into a preallocated file.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::indexing_slicing, reason = "a bench")]

mod common;

use std::fs::File;
use std::os::unix::fs::FileExt;

use standin_foundation::Digest;
use standin_ledger::log::{Log, LogOptions};

const SYNCS: usize = 500;

fn main() {
    let folder = tempfile::tempdir().unwrap();
    let options = LogOptions { segment_bytes: 64 << 20, chain: Digest::ZERO };
    let (mut log, _) = Log::open(&folder.path().join("log"), options).unwrap();
    let bare = File::create(folder.path().join("bare")).unwrap();
    let mut offset = 64 << 20;
    bare.write_all_at(&vec![0; offset as usize], 0).unwrap();
    bare.sync_all().unwrap();
    for (bytes, group) in [(200, 1), (200, 64), (64 * 1024, 1)] {
        let record = vec![7u8; bytes];
        let ours = || {
            common::rate(SYNCS * group, || {
                for _ in 0..SYNCS {
                    for _ in 0..group {
                        log.append(&[&record]).unwrap();
                    }
                    log.sync().unwrap();
                }
            })
        };
        let joined = vec![7u8; (bytes + 16) * group];
        let floor = || {
            common::rate(SYNCS * group, || {
                for _ in 0..SYNCS {
                    offset = (offset + joined.len() as u64) % (48 << 20);
                    bare.write_all_at(&joined, offset).unwrap();
                    bare.sync_data().unwrap();
                }
            })
        };
        let name = format!("log: {bytes} B, {group} a sync");
        common::against_floor(&name, "records/s", "write and fdatasync", ours, floor);
    }
}
