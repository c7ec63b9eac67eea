use super::*;
use crate::frame::tests::content;

fn topic(name: &str) -> Topic {
    name.parse().unwrap()
}

fn open(folder: &Path) -> Journal {
    let options = LogOptions { segment_bytes: 4_096, chain: Digest::sha256(b"chain") };
    Journal::open(folder, options, 16_384).unwrap()
}

fn fill(journal: &Journal, name: &str, from: u64, count: u64) -> Vec<Entry> {
    let mut before = journal.chain_behind(topic(name), Sequence(from - 1)).unwrap().unwrap_or_default();
    let mut entries = Vec::new();
    for n in from..from + count {
        let content = content(&[&format!("{name}-{n}-{}", "x".repeat(60))]);
        let entry = Entry::following(&before, Sequence(n), &content).unwrap();
        journal.append(Height(n), &[(topic(name), entry, content)], |_| Sequence(u64::MAX)).unwrap();
        before = entry.chain;
        entries.push(entry);
    }
    entries
}

#[test]
fn frames_are_found_after_opening_again_and_blocks_are_followed_from_where_it_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path());
    let entries = fill(&journal, "a", 1, 20);
    fill(&journal, "b", 1, 3);
    journal.append(Height(40), &[], |_| Sequence(0)).unwrap();
    journal.close().unwrap();
    drop(journal);
    let journal = open(folder.path());
    assert_eq!(journal.height(), Height(40));
    assert_eq!(journal.range(topic("a")), Some((Sequence(1), Sequence(20))));
    assert_eq!(journal.find(topic("a"), Sequence(7)).unwrap(), Found::Frame(entries[6]));
    assert_eq!(journal.find(topic("a"), Sequence(21)).unwrap(), Found::Beyond);
    assert_eq!(journal.find(topic("c"), Sequence(1)).unwrap(), Found::Beyond);
    let (entry, content) = journal.frame(topic("a"), Sequence(7)).unwrap().unwrap();
    assert_eq!((entry, content.hash()), (entries[6], entries[6].content));
    assert_eq!(journal.chain_behind(topic("a"), Sequence(20)).unwrap(), Some(entries[19].chain));
    // The same block once more changes nothing.
    fill(&journal, "b", 1, 3);
    assert_eq!(journal.range(topic("b")), Some((Sequence(1), Sequence(3))));
}

/// H18: what is forgotten is said to be, with what is left.
#[test]
fn h18_what_is_forgotten_is_never_a_silent_gap() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path());
    fill(&journal, "a", 1, 300);
    let (first, last) = journal.range(topic("a")).unwrap();
    assert!(first > Sequence(1) && last == Sequence(300), "{first}");
    assert_eq!(journal.find(topic("a"), Sequence(1)).unwrap(), Found::Forgotten { first });
    assert!(matches!(journal.find(topic("a"), first).unwrap(), Found::Frame(_)));
    let bytes: u64 = fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum();
    assert!(bytes <= 16_384 + 4_096, "{bytes}");
    drop(journal);
    assert_eq!(open(folder.path()).range(topic("a")), Some((first, last)));
}

/// H7, H15: whatever a crash leaves of the last file, what is read is what was written, and the rest comes from blocks.
#[test]
fn h7_a_journal_that_is_cut_anywhere_has_a_beginning_of_what_it_had() {
    let folder = tempfile::tempdir().unwrap();
    let entries = fill(&open(folder.path()), "a", 1, 10);
    let file = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    let whole = fs::read(&file).unwrap();
    for end in (64..whole.len()).step_by(7) {
        let mut cut = whole.clone();
        cut[end..].fill(0);
        fs::write(&file, cut).unwrap();
        let journal = open(folder.path());
        let last = journal.range(topic("a")).map_or(0, |(_, last)| last.0);
        assert!(journal.height().0 < last.max(1), "the last block is looked at once more");
        for n in 1..=last {
            assert_eq!(journal.find(topic("a"), Sequence(n)).unwrap(), Found::Frame(entries[n as usize - 1]));
        }
        fill(&journal, "a", 1, 10);
        assert_eq!(journal.range(topic("a")), Some((Sequence(1), Sequence(10))), "cut at {end}");
    }
    let mut damaged = whole;
    damaged[200] ^= 1;
    fs::write(&file, damaged).unwrap();
    assert_eq!(open(folder.path()).height(), Height(0), "the first or the second record is broken");
}

/// A block whose frames were written in part is looked at once more, and one that is missing leaves no hole.
#[test]
fn h7_frames_of_a_block_that_was_cut_come_again_and_a_hole_is_no_history() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (content(&["a"]), content(&["b"]));
    let one = Entry::following(&Digest::ZERO, Sequence(1), &first).unwrap();
    let two = Entry::following(&one.chain, Sequence(2), &second).unwrap();
    let block = [(topic("a"), one, first), (topic("a"), two, second)];
    open(folder.path()).append(Height(9), &block[..1], |_| Sequence(0)).unwrap();
    let journal = open(folder.path());
    assert_eq!(journal.height(), Height(8));
    journal.append(Height(9), &block, |_| Sequence(0)).unwrap();
    assert_eq!(journal.range(topic("a")), Some((Sequence(1), Sequence(2))));
    let content = content(&["z"]);
    let far = Entry::following(&two.chain, Sequence(7), &content).unwrap();
    journal.append(Height(20), &[(topic("a"), far, content)], |_| Sequence(0)).unwrap();
    drop(journal);
    let journal = open(folder.path());
    assert_eq!(journal.range(topic("a")), Some((Sequence(7), Sequence(7))));
    assert_eq!(journal.chain_behind(topic("a"), Sequence(6)).unwrap(), Some(two.chain), "the first frame knows it");
}

/// What waits to be published is kept, however much that is.
#[test]
fn what_waits_is_never_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path());
    let mut before = Digest::ZERO;
    for n in 1..=400 {
        let content = content(&[&"x".repeat(60)]);
        let entry = Entry::following(&before, Sequence(n), &content).unwrap();
        before = entry.chain;
        let published = Sequence(if n < 300 { 0 } else { n - 1 });
        journal.append(Height(n), &[(topic("a"), entry, content)], |_| published).unwrap();
        let first = journal.range(topic("a")).unwrap().0;
        assert!(n > 300 || first == Sequence(1), "{n}: {first}");
    }
    assert!(journal.range(topic("a")).unwrap().0 > Sequence(1));
}

/// A topic that nobody publishes keeps its own frames, in order and over openings, and does not make the journal grow with those of others.
#[test]
fn h18_a_topic_that_waits_does_not_hold_the_files_of_others() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = open(folder.path());
    let waits = fill(&journal, "waits", 1, 30);
    let published = |name: Topic| Sequence(if name == topic("waits") { 10 } else { u64::MAX });
    let mut before = Digest::ZERO;
    for n in 1..=2_000 {
        let content = content(&[&format!("{n}-{}", "x".repeat(60))]);
        let entry = Entry::following(&before, Sequence(n), &content).unwrap();
        before = entry.chain;
        journal.append(Height(n), &[(topic("others"), entry, content)], published).unwrap();
        if n % 300 == 0 {
            journal.close().unwrap();
            journal = open(folder.path());
        }
        if n % 50 == 0 {
            let (first, last) = journal.range(topic("waits")).unwrap();
            assert!(first <= Sequence(11) && last == Sequence(30), "{n}: {first} to {last}");
            for entry in waits.iter().skip(10) {
                assert_eq!(journal.find(topic("waits"), entry.first).unwrap(), Found::Frame(*entry), "after {n}");
            }
        }
    }
    let (first, last) = journal.range(topic("others")).unwrap();
    assert!(first > Sequence(1_700) && last == Sequence(2_000), "{first}");
    let files = fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().metadata().unwrap().len());
    let bytes: u64 = files.sum();
    // What is kept, twice what waits, and the file that is written.
    assert!(bytes <= 16_384 + 2 * 20 * 400 + 2 * 4_096, "{bytes}");
    // Opened again it has nothing that it had forgotten: `others` behind `waits` were cut, and the copies of `waits` stand in newer files.
    // Once they are published they go like all others.
    let mut first = Some(Sequence(1));
    for n in 2_001..=2_600 {
        let content = content(&[&format!("{n}-{}", "x".repeat(60))]);
        let entry = Entry::following(&before, Sequence(n), &content).unwrap();
        before = entry.chain;
        journal.append(Height(n), &[(topic("others"), entry, content)], |_| Sequence(u64::MAX)).unwrap();
        first = journal.range(topic("waits")).map(|(first, _)| first);
    }
    assert_eq!(first, None);
    assert_eq!(journal.find(topic("waits"), Sequence(11)).unwrap(), Found::Beyond);
    drop(journal);
    let journal = open(folder.path());
    journal.keep_whole(|name| if name == topic("waits") { Sequence(30) } else { Sequence(2_600) });
    assert_eq!(journal.range(topic("waits")).map(|(_, last)| last).unwrap_or(Sequence(30)), Sequence(30));
}

/// Frames that were copied while they waited stand in newer files than those behind them: what is forgotten of the middle does not come back at the next start.
#[test]
fn h18_what_was_forgotten_does_not_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path());
    fill(&journal, "a", 1, 5);
    drop(journal);
    let journal = open(folder.path());
    assert_eq!(journal.range(topic("a")), Some((Sequence(1), Sequence(5))));
    journal.keep_whole(|_| Sequence(5));
    assert_eq!(journal.range(topic("a")), Some((Sequence(1), Sequence(5))), "it has the end");
    journal.keep_whole(|_| Sequence(10));
    assert_eq!(journal.range(topic("a")), None, "6 to 10 were cut: nobody goes on from 5");
    // Without anything it takes the end, and then what stands before that.
    let made = |n: u64| {
        let content = content(&[&format!("a-{n}")]);
        (Entry::following(&Digest::ZERO, Sequence(n), &content).unwrap(), content)
    };
    let put = |n| {
        let (entry, content) = made(n);
        journal.put_before(topic("a"), (&entry, Sequence(10)), &content).unwrap()
    };
    assert!(!put(7) && put(10) && !put(7) && put(9) && put(8));
    assert_eq!(journal.range(topic("a")), Some((Sequence(8), Sequence(10))));
}

/// A frame that waits and is damaged is not copied as if it were sound, and what is sound goes on.
#[test]
fn h7_a_frame_that_cannot_be_read_is_not_copied() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path());
    fill(&journal, "waits", 1, 10);
    journal.close().unwrap();
    let place = journal.read_lock(|inner| inner.index[&topic("waits")][3].place);
    let path = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&path).unwrap();
    bytes[place.offset as usize + place.length as usize - 3] ^= 1;
    fs::write(&path, bytes).unwrap();
    let published = |name: Topic| Sequence(if name == topic("waits") { 0 } else { u64::MAX });
    let mut before = Digest::ZERO;
    for n in 1..=400 {
        let content = content(&[&format!("{n}-{}", "x".repeat(60))]);
        let entry = Entry::following(&before, Sequence(n), &content).unwrap();
        before = entry.chain;
        journal.append(Height(n), &[(topic("others"), entry, content)], published).unwrap();
    }
    assert_eq!(journal.range(topic("waits")), Some((Sequence(5), Sequence(10))));
}

/// The newest file is not synced while it is written: the power may leave a hole in it, and sound records behind that. What stands before is kept.
#[test]
fn h7_a_hole_in_the_newest_file_loses_nothing_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path());
    let entries = fill(&journal, "a", 1, 50);
    let (broken, place) = journal.read_lock(|inner| {
        let frames = &inner.index[&topic("a")];
        let broken = frames.partition_point(|indexed| indexed.place.segment < inner.log.last_segment()) + 1;
        (broken as u64, frames[broken].place)
    });
    assert!(broken < 48, "sound records stand behind it");
    drop(journal);
    let newest = fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().path());
    let path = newest.max().unwrap();
    let whole = fs::read(&path).unwrap();
    for fault in [0, 1] {
        let mut bytes = whole.clone();
        let at = place.offset as usize;
        match fault {
            0 => bytes[at + 5] ^= 1,
            _ => bytes[at - 16..at + place.length as usize].fill(0),
        }
        fs::write(&path, bytes).unwrap();
        let journal = open(folder.path());
        let (first, last) = journal.range(topic("a")).unwrap();
        assert_eq!((first, last), (Sequence(1), Sequence(broken)));
        fill(&journal, "a", broken + 1, 50 - broken);
        drop(journal);
        let journal = open(folder.path());
        assert_eq!(journal.find(topic("a"), Sequence(50)).unwrap(), Found::Frame(entries[49]));
    }
}

/// A payload is had by the hash that the chain has of it.
#[test]
fn a_content_is_found_by_its_hash_in_memory_and_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let entries = fill(&open(folder.path()), "a", 1, 20);
    let journal = open(folder.path());
    for expected in &entries {
        let (entry, content) = journal.content(topic("a"), &expected.content).unwrap().unwrap();
        assert_eq!((entry, content.hash()), (*expected, expected.content));
    }
    assert!(journal.content(topic("a"), &Digest::sha256(b"another")).unwrap().is_none());
    assert!(journal.content(topic("b"), &entries[0].content).unwrap().is_none());
}

/// Frames are read while files are cut behind their back: what is read is the frame, or that it is forgotten, and never an error.
#[test]
fn frames_are_read_while_files_are_cut() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path());
    fill(&journal, "a", 1, 100);
    let reader = journal.clone();
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let seen = Arc::clone(&done);
    let reads = std::thread::spawn(move || {
        let mut count = 0u64;
        while !seen.load(std::sync::atomic::Ordering::Relaxed) {
            let (first, _) = reader.range(topic("a")).unwrap();
            reader.shared.write().unwrap().recent.clear();
            assert!(matches!(reader.find(topic("a"), first).unwrap(), Found::Frame(_) | Found::Forgotten { .. }));
            count += 1;
        }
        count
    });
    fill(&journal, "a", 101, 5_000);
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(reads.join().unwrap() > 0);
}
