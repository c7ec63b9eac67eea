//! When nodes crash, freeze, are cut off, and when disks are slow. A seed makes a plan; the plan ends with healing.

use fastrand::Rng;

use crate::network::NodeIndex;

/// Something that goes wrong, or right again.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The power fails: the process dies, and what was not synced may be gone.
    Crash(NodeIndex),
    /// The process is killed: what it wrote and did not sync is still in the page cache.
    Kill(NodeIndex),
    /// Nothing more fits on the disk: the process stops at the next record. There is room again when it is started.
    DiskFull(NodeIndex),
    /// The process starts again.
    Restart(NodeIndex),
    /// The process stands still; its messages and timers wait.
    Freeze(NodeIndex),
    /// The process goes on.
    Thaw(NodeIndex),
    /// Nothing passes between the two groups; with `one_way`, nothing from the first to the second.
    Partition {
        /// The first group.
        group: Vec<NodeIndex>,
        /// Only one direction is cut.
        one_way: bool,
    },
    /// All links work again.
    Heal,
    /// A sync takes this long from now on, in µs.
    DiskLatency(NodeIndex, u64),
    /// The log is cut.
    CutLog(NodeIndex),
    /// The process is killed and its disk is lost.
    Wipe(NodeIndex),
    /// An operator moves the seat away from this node.
    Resign(NodeIndex),
    /// Something happens to a member of this seat's cluster, mostly to its active: what, the moment decides. With `passing`
    /// the seat is handed on most of the time.
    Storm {
        /// The seat.
        seat: usize,
        /// Mostly on purpose.
        passing: bool,
    },
    /// Nothing passes from the first node to the second.
    Cut(NodeIndex, NodeIndex),
    /// It passes again.
    Mend(NodeIndex, NodeIndex),
    /// The auth node crashes.
    AuthDown,
    /// The auth node starts again.
    AuthUp,
    /// The auth node starts from an old copy of its register, and says so.
    AuthFromBackup,
}

/// A plan of faults: when, in µs, and what.
pub type Plan = Vec<(u64, Fault)>;

/// A plan for `nodes` nodes over `length_us`. Everything that it starts it ends before that.
pub fn plan(rng: &mut Rng, nodes: usize, length_us: u64) -> Plan {
    let mut plan = Plan::new();
    for _ in 0..rng.usize(0..10) {
        let from = rng.u64(0..length_us);
        let until = (from + rng.u64(1_000..length_us / 2)).min(length_us);
        let node = rng.usize(0..nodes);
        match rng.u8(0..13) {
            0..=2 => plan.extend([(from, Fault::Crash(node)), (until, Fault::Restart(node))]),
            3 => {
                // Everyone at once: a power cut.
                plan.extend((0..nodes).map(|node| (from, Fault::Crash(node))));
                let back = |rng: &mut Rng| (until + rng.u64(0..500_000)).min(length_us);
                plan.extend((0..nodes).map(|node| (back(rng), Fault::Restart(node))));
            }
            4..=5 => plan.extend([(from, Fault::Freeze(node)), (until, Fault::Thaw(node))]),
            6..=7 => {
                let mut group: Vec<_> = (0..nodes).collect();
                rng.shuffle(&mut group);
                group.truncate(rng.usize(1..nodes));
                plan.extend([(from, Fault::Partition { group, one_way: rng.bool() }), (until, Fault::Heal)]);
            }
            8 => {
                let slow = rng.choice([2_000, 20_000, 400_000]).unwrap_or(2_000);
                plan.extend([(from, Fault::DiskLatency(node, slow)), (until, Fault::DiskLatency(node, 150))]);
            }
            11 => plan.extend([(from, Fault::DiskFull(node)), (until, Fault::Restart(node))]),
            9..=10 => {
                // Killed, and soon after it is back the power fails.
                let soon = (until + rng.u64(0..20_000)).min(length_us);
                let back = (soon + rng.u64(1_000..500_000)).min(length_us);
                plan.extend([(from, Fault::Kill(node)), (until, Fault::Restart(node))]);
                plan.extend([(soon, Fault::Crash(node)), (back, Fault::Restart(node))]);
            }
            _ => plan.extend((0..rng.u64(1..4)).map(|i| (from + i * 100_000, Fault::CutLog(node)))),
        }
    }
    plan
}

/// What else goes wrong where seats are held by clusters. `nodes` are the members' indices; the auth node's comes behind.
pub fn cluster_plan(rng: &mut Rng, nodes: usize, seats: usize, length_us: u64) -> Plan {
    let mut plan = plan(rng, nodes, length_us);
    if rng.bool() {
        // One seat changes hands again and again, while late messages of earlier terms are under way.
        let (seat, mut at) = (rng.usize(0..seats), rng.u64(400_000..length_us / 2));
        let until = at + rng.u64(500_000..length_us / 3);
        let pace = rng.choice([60_000, 150_000, 400_000]).unwrap_or(60_000);
        let passing = rng.u8(0..3) == 0;
        while at < until {
            plan.push((at, Fault::Storm { seat, passing }));
            at += rng.u64(5_000..pace);
        }
    }
    for _ in 0..rng.usize(0..8) {
        let from = rng.u64(0..length_us);
        let until = (from + rng.u64(1_000..length_us / 4)).min(length_us);
        let node = rng.usize(0..nodes);
        match rng.u8(0..12) {
            0..=3 => plan.extend([(from, Fault::Kill(node)), (until, Fault::Restart(node))]),
            4..=6 => {
                // Frozen for about as long as it takes to be suspected and replaced.
                let until = (from + rng.u64(50_000..900_000)).min(length_us);
                plan.extend([(from, Fault::Freeze(node)), (until, Fault::Thaw(node))]);
            }
            7 => plan.extend([(from, Fault::Wipe(node)), (until, Fault::Restart(node))]),
            8 => plan.push((from, Fault::Resign(node))),
            9 if rng.u8(0..3) == 0 => plan.push((from, Fault::AuthFromBackup)),
            9 => plan.extend([(from, Fault::AuthDown), (until, Fault::AuthUp)]),
            10 => {
                plan.extend([
                    (from, Fault::Partition { group: vec![node], one_way: rng.bool() }),
                    (until, Fault::Heal),
                ]);
            }
            _ => plan
                .extend([(from, Fault::Partition { group: vec![nodes, node], one_way: false }), (until, Fault::Heal)]),
        }
    }
    plan
}
