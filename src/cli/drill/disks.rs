//! Disks that tear, rot and fill up.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::super::demo::DEMO_RESERVE_BYTES;
use super::{Drill, Ended, Failure};

const SOON: Duration = Duration::from_secs(20);
pub(super) const VICTIM: usize = 3;

pub(super) async fn log_torn(drill: &mut Drill) -> Result<(), Failure> {
    drill.network.kill(VICTIM).await?;
    let (path, end) = last_record_end(&drill.network.data(VICTIM).join("log"))?;
    // The beginning of a record that never got further: a length, and a part of the rest.
    let file = OpenOptions::new().write(true).open(&path)?;
    file.write_all_at(&[200, 1, 0, 0, 9, 9, 9], end)?;
    let begun = Instant::now();
    drill.network.start_node(VICTIM)?;
    drill.network.wait_ready(SOON).await?;
    drill.recovery_ms = Some(begun.elapsed().as_millis() as u64);
    let told = drill.network.output(VICTIM).contains("torn tail");
    drill.check("a torn tail is cut and told", told, format!("{} at {end}", path.display()));
    drill.progress("after the torn tail", 300, SOON).await;
    drill.caught_up(VICTIM, SOON).await?;

    drill.network.kill(VICTIM).await?;
    let saved = save_log(&drill.network.data(VICTIM).join("log"))?;
    let damaged = saved.first().map(|(path, _)| path.clone()).unwrap_or_default();
    flip_byte(&damaged, 100)?;
    drill.network.start_node(VICTIM)?;
    let refused = wait_for_end(drill).await;
    let said = drill.network.output(VICTIM);
    let named = said.contains("damaged at offset") && said.contains(&damaged.display().to_string());
    let last_words = drill.network.last_words(VICTIM);
    drill.check("damage in the middle refuses, with file and offset", refused && named, last_words);
    for (path, bytes) in saved {
        fs::write(path, bytes)?;
    }
    drill.network.start_node(VICTIM)?;
    drill.network.wait_ready(SOON).await?;
    drill.caught_up(VICTIM, SOON).await
}

/// The last segment, and where its records end: at the zeros that it was preallocated with.
fn last_record_end(folder: &Path) -> Result<(PathBuf, u64), Failure> {
    let mut segments: Vec<_> = fs::read_dir(folder)?.flatten().map(|entry| entry.path()).collect();
    segments.sort();
    let path = segments.pop().ok_or_else(|| Failure::new(1, "there is no log"))?;
    let bytes = fs::read(&path)?;
    let mut offset = 64;
    while let Some(length) = bytes.get(offset..offset + 4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes)
        && length > 0
    {
        offset += 16 + length as usize;
    }
    Ok((path, offset as u64))
}

fn save_log(folder: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>, Failure> {
    let mut saved = Vec::new();
    for entry in fs::read_dir(folder)?.flatten() {
        saved.push((entry.path(), fs::read(entry.path())?));
    }
    saved.sort();
    Ok(saved)
}

fn flip_byte(path: &Path, offset: u64) -> Result<(), Failure> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset)?;
    file.write_all_at(&[byte[0] ^ 0x40], offset)?;
    Ok(())
}

/// Waits until the victim has ended by itself.
async fn wait_for_end(drill: &mut Drill) -> bool {
    let begun = Instant::now();
    while drill.network.is_running(VICTIM) && begun.elapsed() < SOON {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    !drill.network.is_running(VICTIM)
}

/// A small tmpfs under the victim's data folder; unmounted when dropped.
pub(super) struct SmallDisk(PathBuf);

impl SmallDisk {
    pub(super) fn mount(path: &Path) -> Result<Self, Ended> {
        fs::create_dir_all(path)?;
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=160m", "tmpfs"])
            .arg(path)
            .output()
            .map_err(|error| Ended::Skipped(format!("`mount` cannot be run: {error}")))?;
        if mounted.status.success() {
            return Ok(Self(path.to_owned()));
        }
        let why = String::from_utf8_lossy(&mounted.stderr).trim().to_owned();
        Err(Ended::Skipped(format!("a small tmpfs cannot be mounted (root is needed): {why}")))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Nothing more can be done about it here; the folder is temporary.
        let _ = std::process::Command::new("umount").arg(&self.0).output();
    }
}

pub(super) async fn disk_full(drill: &mut Drill) -> Result<(), Failure> {
    let filler = drill.network.data(VICTIM).join("filler");
    fill(&filler, DEMO_RESERVE_BYTES / 2)?;
    ended_for_want_of_space(drill, "below the reserve the node stops in order and says why").await;
    drill.recovery_ms = drill.progress("of the others", 300, SOON).await;
    drill.network.start_node(VICTIM)?;
    ended_for_want_of_space(drill, "a start below the reserve is refused and says why").await;
    restart_with_space(drill, &filler).await?;
    // Faster than any look at the free space: the system may end the process at a write through a mapping.
    fill(&filler, 0)?;
    let ended = wait_for_end(drill).await;
    let last_words = drill.network.last_words(VICTIM);
    drill.check("without any space the node does not run on", ended, last_words);
    restart_with_space(drill, &filler).await
}

pub(super) async fn ended_for_want_of_space(drill: &mut Drill, name: &str) {
    let ended = wait_for_end(drill).await;
    let said = drill.network.output(VICTIM);
    let told = said.lines().any(|line| line.starts_with("standin:") && line.contains("must stay free"));
    let last_words = drill.network.last_words(VICTIM);
    drill.check(name, ended && told, last_words);
}

pub(super) async fn restart_with_space(drill: &mut Drill, filler: &Path) -> Result<(), Failure> {
    fs::remove_file(filler)?;
    drill.network.start_node(VICTIM)?;
    drill.network.wait_ready(SOON).await?;
    drill.caught_up(VICTIM, SOON).await
}

/// Writes until only so many bytes are left.
pub(super) fn fill(path: &Path, leave: u64) -> Result<(), Failure> {
    use std::io::Write;
    let mut file = File::create(path)?;
    let block = vec![1u8; 1 << 20];
    let free = || rustix::fs::statvfs(path).map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize));
    while free() > leave && file.write_all(&block).is_ok() {}
    Ok(())
}
