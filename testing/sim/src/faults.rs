//! The faults of a run: which happen, when and for how long, all drawn from its seed.

use std::io::ErrorKind;
use std::time::Duration;

use keepd_env::IoOp;
use keepd_env::sim::{CrashMode, FaultPlan};

use crate::network::Faults;
use crate::simulation::Manner;
use crate::workload::World;

/// The longest time between two faults.
const CALM_MAX: Duration = Duration::from_millis(2500);
/// The longest time that a member is down, apart or stopped.
const FAULT_MAX: Duration = Duration::from_secs(6);
/// The shortest of these times.
const FAULT_MIN: Duration = Duration::from_millis(50);
/// Calls of the disk that go well before one fails, at most.
const CALLS_MAX: u64 = 60;
/// Drift of a clock, in parts of a million.
const DRIFT_MAX: u64 = 50_000;
/// The slowest write to the log.
const SLOW_MAX: Duration = Duration::from_millis(2500);

/// The lowest and the highest rate of a clock, in parts of a million.
pub(crate) const RATES: (u32, u32) = (950_000, 1_050_000);

/// A fault, of a member by its place in the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The process dies and is started again after a while.
    Kill(usize),
    /// The power fails.
    CutPower(usize, CrashMode),
    /// The process dies, is started again, and then the power fails.
    KillThenCut(usize, CrashMode),
    /// The power of all members fails.
    CutAll(CrashMode),
    /// The process is stopped as it is and goes on after a while.
    Pause(usize),
    /// The member reaches nobody and nobody reaches it.
    Isolate(usize),
    /// One member does not reach another one.
    OneWay(usize, usize),
    /// Some links are cut, one after the other, in whichever direction.
    Links(Vec<(usize, usize)>),
    /// Messages are lost, doubled and late.
    Network(Faults),
    /// The clock runs at another pace.
    Rate(usize, u32),
    /// The wall time jumps forward, or back.
    Wall(usize, Duration, Duration),
    /// A call of the disk fails.
    Disk(usize, FaultPlan),
    /// The disk is full, until some calls have failed.
    FullDisk(usize, u64),
    /// Writes to the log take long.
    SlowDisk(usize, Duration),
    /// A byte of a file that is not written any more changes.
    Rot(usize),
    /// The process dies, and a byte of its log changes, long before the end.
    RotLog(usize),
    /// Leadership is to move.
    MoveLeader(usize),
    /// A learner that is not there is added and removed again.
    Learner,
    /// Members get another encryption key.
    Keys,
    /// The next member that comes to a new term is killed at once.
    KillVoters,
    /// A member goes and another one comes.
    Replace(usize, Manner),
    /// The leader goes and another member comes.
    ReplaceLeader(Manner),
    /// The disk acknowledges syncs and does nothing, until the power fails.
    Forget(usize),
}

/// Draws the next fault, and how long it lasts.
pub(crate) fn draw(world: &World, members: &[usize]) -> (Fault, Duration) {
    let place = world.draw_index(members.len());
    let after = world.draw_index(members.len().max(2) - 1);
    let other = members[(place + 1 + after) % members.len()];
    let member = members[place];
    let fault = match world.draw(49) {
        0..4 => Fault::Kill(member),
        4..8 => Fault::CutPower(member, crash_mode(world)),
        8..11 => Fault::KillThenCut(member, crash_mode(world)),
        11 => Fault::CutAll(crash_mode(world)),
        12..16 => Fault::Pause(member),
        16..19 => Fault::Isolate(member),
        19..21 => Fault::OneWay(member, other),
        21..23 => Fault::Links(links(world, members)),
        23..26 => Fault::Network(network(world)),
        26..28 => Fault::Rate(member, rate(world)),
        28 => wall(world, member),
        29..32 => Fault::Disk(member, disk(world)),
        32 => Fault::FullDisk(member, 1 + world.draw(3)),
        33..35 => Fault::SlowDisk(member, world.draw_time(SLOW_MAX)),
        35 => Fault::Rot(member),
        36..38 => Fault::MoveLeader(member),
        38 => Fault::Learner,
        39 => Fault::Keys,
        40 => Fault::RotLog(member),
        41..43 => Fault::Replace(member, manner(world)),
        43 => Fault::ReplaceLeader(manner(world)),
        44..47 => Fault::Forget(member),
        _ => Fault::KillVoters,
    };
    (fault, FAULT_MIN + world.draw_time(FAULT_MAX))
}

/// The time until the next fault.
pub(crate) fn calm(world: &World) -> Duration {
    world.draw_calm(CALM_MAX)
}

/// A crash of any kind.
pub(crate) fn crash_mode(world: &World) -> CrashMode {
    let seed = world.draw(1 << 40);
    match world.draw(4) {
        0 => CrashMode::LoseUnsynced,
        1 => CrashMode::WrittenBack,
        2 => CrashMode::Random { seed },
        _ => CrashMode::Torn { seed },
    }
}

fn links(world: &World, members: &[usize]) -> Vec<(usize, usize)> {
    let all = members.iter().flat_map(|from| members.iter().map(move |to| (*from, *to)));
    all.filter(|(from, to)| from != to && world.draw(2) == 0).collect()
}

fn manner(world: &World) -> Manner {
    let coin = || world.draw(2) == 0;
    Manner { is_lost: coin(), comes_first: coin(), is_learner: coin() }
}

fn network(world: &World) -> Faults {
    let jitter = Duration::from_millis(1 + world.draw(400));
    Faults { lost: world.draw(300_000), doubled: world.draw(300_000), jitter }
}

fn rate(world: &World) -> u32 {
    let parts = 1_000_000 - DRIFT_MAX + world.draw(2 * DRIFT_MAX + 1);
    u32::try_from(parts).expect("around a million")
}

fn wall(world: &World, member: usize) -> Fault {
    let jump = Duration::from_secs([3600, 24 * 3600, 30][world.draw_index(3)]);
    match world.draw(2) {
        0 => Fault::Wall(member, jump, Duration::ZERO),
        _ => Fault::Wall(member, Duration::ZERO, jump),
    }
}

fn disk(world: &World) -> FaultPlan {
    let op = match world.draw(4) {
        0 => Some(IoOp::Write),
        1 => Some(IoOp::Sync),
        2 => Some(IoOp::Read),
        _ => None,
    };
    FaultPlan::once(op, world.draw(CALLS_MAX), ErrorKind::Other)
}
