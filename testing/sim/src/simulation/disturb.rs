//! Faults as they happen, and as they end.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use keepd_env::sim::CrashMode;
use keepd_machine::tables::ActiveKeys;
use keepd_machine::{Command, MembershipChange};
use keepd_node::Handle;
use keepd_types::MemberId;

use super::Simulation;
use super::replace::{Manner, Replacement};
use crate::faults::{self, Fault};
use crate::fixture;
use crate::invariants::{Verdict, nothing_plain};
use crate::workload::PATIENCE;

/// Time between the start of a member that was killed and the cut of its power.
const BETWEEN_DEATHS: Duration = Duration::from_millis(400);
/// The id of the first learner that is not there; no id is used again.
const LEARNER: u64 = 77;
/// Encryption keys that are added in a run, at most.
const FURTHER_KEYS: usize = 3;
/// Bytes of a log's last file from which on what is damaged in its first quarter has proofs behind it.
const PROVEN_BYTES: usize = 8 * 1024;
/// Free bytes of a disk that is about to be full.
const SPARE_BYTES: u64 = 4096;

/// An event that is to happen at a time.
#[derive(Clone, Debug)]
enum End {
    Resume(usize),
    Links,
    Network,
    Fast(usize),
    Disk(usize),
    Cut(usize, CrashMode),
    Forget(usize),
    RemoveLearner(MemberId),
}

impl End {
    /// The member that it is about.
    const fn member(&self) -> Option<usize> {
        match self {
            Self::Resume(member)
            | Self::Fast(member)
            | Self::Disk(member)
            | Self::Cut(member, _)
            | Self::Forget(member) => Some(*member),
            Self::Links | Self::Network | Self::RemoveLearner(_) => None,
        }
    }
}

/// A byte that was changed.
#[derive(Clone, Debug)]
pub(super) struct Rot {
    member: usize,
    path: PathBuf,
    offset: u64,
    mask: u8,
    /// The byte since then.
    rotten: u8,
}

/// All that is still to come.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pub(super) next_fault: Option<Duration>,
    ends: Vec<(Duration, End)>,
    pub(super) restarts: Vec<(Duration, usize)>,
    /// Members with a planned failure of a disk's call.
    pub(super) disk_faults: BTreeSet<usize>,
    rot: Vec<Rot>,
    /// Encryption keys that were added so far.
    keys: usize,
    /// The next member that comes to a new term is killed, and started again at once.
    pub(super) kills_voters: bool,
    /// Learners that were added so far.
    learners: u64,
    /// Members that are asked once all faults have ended, and those that have answered.
    pub(super) asked: BTreeSet<usize>,
    pub(super) served: Rc<RefCell<BTreeSet<usize>>>,
}

impl Pending {
    /// A member is gone.
    pub(super) fn forget(&mut self, member: usize) {
        self.disk_faults.remove(&member);
        self.restarts.retain(|(_, waiting)| *waiting != member);
        self.ends.retain(|(_, end)| end.member() != Some(member));
        self.rot.retain(|rot| rot.member != member);
    }

    pub(super) fn has_disk_fault(&self, member: usize) -> bool {
        self.disk_faults.contains(&member)
    }
}

impl Simulation {
    /// Lets happen what is due.
    pub(super) fn disturb(&mut self) -> Verdict {
        self.end_due()?;
        self.restart_due()?;
        self.replace()?;
        if self.pending.next_fault.is_some_and(|at| at <= self.now()) {
            let (fault, lasts) = faults::draw(&self.world, &self.present);
            self.pending.next_fault = Some(self.now() + faults::calm(&self.world));
            self.happen(&fault, self.now() + lasts)?;
        }
        Ok(())
    }

    /// Starts the members that are to be started.
    pub(super) fn restart_due(&mut self) -> Verdict {
        let now = self.now();
        let due: Vec<_> = self.pending.restarts.extract_if(.., |(at, _)| *at <= now).collect();
        for (_, member) in due {
            self.start(member)?;
        }
        Ok(())
    }

    fn end_due(&mut self) -> Verdict {
        let now = self.now();
        let due: Vec<_> = self.pending.ends.extract_if(.., |(at, _)| *at <= now).collect();
        for (_, end) in due {
            self.world.note(format_args!("it ends: {end:?}"));
            self.checks.disturb(now);
            match end {
                End::Resume(member) => self.pause(member, false),
                End::Links => self.cluster.network().mend(),
                End::Network => self.cluster.network().set_faults(crate::Faults::calm()),
                End::Fast(member) => self.cluster.host_mut(member).set_slow(Duration::ZERO),
                End::Disk(member) => self.heal_disk(member),
                End::Cut(member, mode) => {
                    self.crash(member, Some(mode))?;
                    self.pending.restarts.push((now + BETWEEN_DEATHS, member));
                }
                End::Forget(member) => {
                    self.crash(member, Some(CrashMode::LoseUnsynced))?;
                    self.pending.restarts.push((now + BETWEEN_DEATHS, member));
                }
                End::RemoveLearner(id) => self.change(MembershipChange::Remove { id }),
            }
        }
        Ok(())
    }

    fn pause(&mut self, member: usize, is_paused: bool) {
        self.cluster.host_mut(member).set_paused(is_paused);
        self.world.hosts.borrow_mut()[member].is_paused = is_paused;
    }

    fn heal_disk(&mut self, member: usize) {
        self.pending.disk_faults.remove(&member);
        self.cluster.host(member).disk().heal();
    }

    /// The process dies, or the power fails; then a disk that lies has forgotten.
    fn crash(&mut self, member: usize, mode: Option<CrashMode>) -> Verdict {
        if self.is_ending(member) {
            return Ok(());
        }
        self.observe_log(member)?;
        self.observe_disk(member)?;
        self.observe_death(member)?;
        self.report.crashes += 1;
        self.pending.disk_faults.remove(&member);
        match mode {
            Some(_) if self.lying.remove(&member) => {
                self.cluster.cut_power(member, CrashMode::LoseUnsynced);
                self.checks.forget(member);
                self.forgetful.insert(member);
                self.report.forgot += 1;
                self.world.note(format_args!("m{member} has forgotten what it had synced"));
            }
            Some(mode) => self.cluster.cut_power(member, mode),
            None => self.cluster.kill(member),
        }
        self.world.note(format_args!("m{member} dies: {mode:?}"));
        let host = &mut self.world.hosts.borrow_mut()[member];
        (host.handle, host.is_paused) = (None, false);
        self.cluster.host_mut(member).set_paused(false);
        Ok(())
    }

    fn happen(&mut self, fault: &Fault, until: Duration) -> Verdict {
        self.world.note(format_args!("fault until {:.3}: {fault:?}", until.as_secs_f64()));
        self.report.faults += 1;
        self.checks.disturb(self.now());
        match fault {
            Fault::Kill(_)
            | Fault::CutPower(..)
            | Fault::KillThenCut(..)
            | Fault::CutAll(_)
            | Fault::Pause(_) => self.end_process(fault, until)?,
            Fault::Isolate(_) | Fault::OneWay(..) | Fault::Links(_) | Fault::Network(_) => {
                self.disturb_network(fault, until);
            }
            Fault::Rate(member, rate) => self.cluster.host(*member).clock().set_rate(*rate),
            Fault::Wall(member, forward, back) => {
                self.cluster.host(*member).clock().jump_wall(*forward, *back);
            }
            Fault::Disk(member, plan) => {
                self.pending.disk_faults.insert(*member);
                self.cluster.host(*member).disk().fail(*plan);
                self.pending.ends.push((until, End::Disk(*member)));
            }
            Fault::FullDisk(member, refusals) => {
                let disk = self.cluster.host(*member).disk();
                disk.set_capacity_until(disk.used_bytes() + SPARE_BYTES, *refusals);
                self.pending.disk_faults.insert(*member);
                self.pending.ends.push((until, End::Disk(*member)));
            }
            Fault::SlowDisk(member, slow) => {
                self.cluster.host_mut(*member).set_slow(*slow);
                self.pending.ends.push((until, End::Fast(*member)));
            }
            Fault::Rot(member) => self.rot(*member),
            Fault::RotLog(member) => {
                self.crash(*member, None)?;
                self.rot_log(*member);
                self.pending.restarts.push((until, *member));
            }
            Fault::MoveLeader(_)
            | Fault::Learner
            | Fault::Replace(..)
            | Fault::ReplaceLeader(_)
            | Fault::Keys => self.change_cluster(fault, until)?,
            Fault::Forget(member) => self.forget(*member, until),
            Fault::KillVoters => self.pending.kills_voters = true,
        }
        Ok(())
    }

    /// Changes the cluster as an operator does; other faults do nothing here.
    fn change_cluster(&mut self, fault: &Fault, until: Duration) -> Verdict {
        match fault {
            Fault::MoveLeader(to) => self.move_leader(*to),
            Fault::Learner => {
                self.pending.learners += 1;
                let id = MemberId(LEARNER + self.pending.learners);
                let peer_urls = vec![format!("http://learner{}:2380", self.pending.learners)];
                let (is_learner, max_learners) = (true, 1);
                self.change(MembershipChange::Add { id, peer_urls, is_learner, max_learners });
                self.pending.ends.push((until, End::RemoveLearner(id)));
            }
            Fault::Replace(member, manner) => self.replace_member(*member, *manner)?,
            Fault::ReplaceLeader(manner) => {
                if let Some(leader) = self.cluster.leader() {
                    self.replace_member(leader, *manner)?;
                }
            }
            Fault::Keys => self.change_keys(),
            _ => {}
        }
        Ok(())
    }

    /// Has the disk of a member lie, if so many may forget what they have.
    fn forget(&mut self, member: usize, until: Duration) {
        if self.forgets && self.may_lose(member) && self.lying.insert(member) {
            self.cluster.host(member).disk().set_lying(true);
            self.pending.ends.push((until, End::Forget(member)));
        }
    }

    /// Whether a member has been removed, or is gone, and has only to end.
    pub(super) fn is_ending(&self, member: usize) -> bool {
        let ends = |replacement: &Replacement| replacement.ends(member);
        self.replacement.as_ref().is_some_and(ends)
            || self.found.contains(&member)
            || self.cluster.is_gone(member)
    }

    /// Whether a member may lose what it has: less than half of all may, itself included.
    fn may_lose(&self, member: usize) -> bool {
        let mut lost = &(&self.damaged | &self.lying) | &self.forgetful;
        lost.insert(member);
        let is_changing = self.replacement.is_some() || !self.found.is_empty();
        !is_changing && lost.len() * 2 < self.size
    }

    fn replace_member(&mut self, member: usize, manner: Manner) -> Verdict {
        let mut lost = &(&self.damaged | &self.lying) | &self.forgetful;
        lost.remove(&member);
        if !lost.is_empty() {
            // With another one gone too, the rest would be no majority.
            return Ok(());
        }
        // Where disks lie, who starts waits for a member that is gone.
        let is_lost = manner.is_lost && !self.forgets && self.may_lose(member);
        self.begin_replacement(member, Manner { is_lost, ..manner })
    }

    /// Ends processes, or stops them for a while; other faults do nothing here.
    fn end_process(&mut self, fault: &Fault, until: Duration) -> Verdict {
        match fault {
            Fault::Kill(member) => {
                self.crash(*member, None)?;
                self.pending.restarts.push((until, *member));
            }
            Fault::CutPower(member, mode) => {
                self.crash(*member, Some(*mode))?;
                self.pending.restarts.push((until, *member));
            }
            Fault::KillThenCut(member, mode) => {
                self.crash(*member, None)?;
                self.pending.restarts.push((self.now(), *member));
                let between = self.world.draw_time(BETWEEN_DEATHS);
                self.pending.ends.push((self.now() + between, End::Cut(*member, *mode)));
            }
            Fault::CutAll(mode) => {
                for member in self.present.clone() {
                    self.crash(member, Some(*mode))?;
                    self.pending.restarts.push((until, member));
                }
            }
            Fault::Pause(member) if self.cluster.is_running(*member) => {
                self.pause(*member, true);
                self.pending.ends.push((until, End::Resume(*member)));
            }
            _ => {}
        }
        Ok(())
    }

    /// Cuts links or has them lose messages; other faults do nothing here.
    fn disturb_network(&mut self, fault: &Fault, until: Duration) {
        let id = |simulation: &Self, member: usize| simulation.cluster.id(member);
        match fault {
            Fault::Isolate(member) => {
                let all = self.cluster.ids().to_vec();
                self.cluster.network().isolate(id(self, *member), all);
                self.pending.ends.push((until, End::Links));
            }
            Fault::OneWay(from, to) => {
                self.cluster.network().cut(id(self, *from), id(self, *to));
                self.pending.ends.push((until, End::Links));
            }
            Fault::Links(links) => {
                for (from, to) in links {
                    self.cluster.network().cut(id(self, *from), id(self, *to));
                }
                self.pending.ends.push((until, End::Links));
            }
            Fault::Network(faults) => {
                self.cluster.network().set_faults(*faults);
                self.pending.ends.push((until, End::Network));
            }
            _ => {}
        }
    }

    /// Has the leader, if there is one, do something; nobody waits for it.
    pub(super) fn at_leader<T>(&mut self, call: impl AsyncFnOnce(Handle) -> T + 'static) {
        let Some(leader) = self.cluster.leader() else { return };
        let (handle, world) = (self.cluster.handle(leader), Rc::clone(&self.world));
        self.begun.push(Box::pin(async move {
            // What comes of it is seen by the invariants.
            let _ended = world.within(leader, PATIENCE, call(handle)).await;
        }));
    }

    fn move_leader(&mut self, to: usize) {
        let to = self.cluster.id(to);
        self.at_leader(async move |leader| leader.move_leader(to).await);
    }

    fn change(&mut self, change: MembershipChange) {
        self.at_leader(async move |leader| leader.change_membership(change).await);
    }

    /// Gives all members another encryption key, in front of the ones that they have; those that are down
    /// get it with their start.
    fn change_keys(&mut self) {
        if self.pending.keys == FURTHER_KEYS {
            return;
        }
        self.pending.keys += 1;
        let config = fixture::encryption_with(self.pending.keys);
        let mut readable = None;
        for member in self.present.clone() {
            self.cluster.host_mut(member).set_config(config.clone());
            if !self.cluster.is_running(member) || self.cluster.host(member).is_paused() {
                readable = None;
                break;
            }
            let encryption = Arc::clone(self.cluster.handle(member).encryption());
            // Every key is in use.
            let reloaded = encryption.reload(config.clone(), &|_| 1);
            let rotated = encryption.rotate_data_key();
            self.world.note(format_args!(
                "m{member} has another key: {:?}, {:?}",
                reloaded.is_ok(),
                rotated.is_ok()
            ));
            readable = reloaded.ok().map(|_| encryption.readable());
        }
        for member in self.present.clone() {
            self.cluster.host_mut(member).set_config(config.clone());
        }
        if let Some(keys) = readable {
            let epoch = self.pending.keys as u64;
            let command = Command::SetActiveKeys(ActiveKeys { epoch, keys });
            self.at_leader(async move |leader| leader.propose(command).await);
        }
    }

    /// Kills a member that has just come to a new term: what it has voted must not be forgotten.
    pub(super) fn kill_voter(&mut self, member: usize) -> Verdict {
        self.pending.kills_voters = false;
        self.crash(member, None)?;
        self.pending.restarts.push((self.now(), member));
        Ok(())
    }

    /// Whether all members are whole.
    fn may_rot(&self) -> bool {
        let is_whole =
            self.damaged.is_empty() && self.lying.is_empty() && self.forgetful.is_empty();
        is_whole && self.replacement.is_none()
    }

    /// Changes a byte of a file that is not written any more. One member's at a time, and only if all
    /// others are whole.
    fn rot(&mut self, member: usize) {
        if !self.may_rot() {
            return;
        }
        let disk = self.cluster.host(member).disk().clone();
        let files = disk.files();
        let mut logs: Vec<&PathBuf> =
            files.iter().filter(|it| it.extension().is_some_and(|it| it == "wal")).collect();
        logs.sort();
        // The last one is written.
        let written = logs.last().map(|path| (*path).clone());
        let old = |path: &&PathBuf| Some(*path) != written.as_ref() && !path.ends_with("LOCK");
        let old: Vec<&PathBuf> = files.iter().filter(old).collect();
        if old.is_empty() {
            return;
        }
        let path = old[self.world.draw_index(old.len())].clone();
        let Some(bytes) = disk.peek(&path).filter(|bytes| !bytes.is_empty()) else { return };
        let place = self.world.draw_index(bytes.len());
        self.flip(member, &path, place);
    }

    /// Changes a byte in the first quarter of the log's last file: what follows proves that it was synced.
    fn rot_log(&mut self, member: usize) {
        let disk = self.cluster.host(member).disk().clone();
        let is_log = |path: &PathBuf| path.extension().is_some_and(|it| it == "wal");
        let Some(path) = disk.files().into_iter().filter(is_log).max() else { return };
        let bytes = disk.peek(&path).unwrap_or_default();
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0);
        if self.may_rot() && used > PROVEN_BYTES {
            let place = self.world.draw_index(used / 4);
            self.flip(member, &path, place);
        }
    }

    fn flip(&mut self, member: usize, path: &Path, place: usize) {
        let disk = self.cluster.host(member).disk().clone();
        let mask = u8::try_from(1 + self.world.draw(255)).expect("below 256");
        let byte = disk.peek(path).and_then(|bytes| bytes.get(place).copied());
        let (Some(byte), offset) = (byte, place as u64) else { return };
        if disk.flip(path, offset, mask) {
            self.world.note(format_args!("m{member}: {} rots at {offset}", path.display()));
            self.damaged.insert(member);
            let (path, rotten) = (path.to_owned(), byte ^ mask);
            self.pending.rot.push(Rot { member, path, offset, mask, rotten });
        }
    }

    /// Ends all faults and starts whoever is down.
    pub(super) fn heal_all(&mut self) -> Verdict {
        self.pending.ends.clear();
        self.pending.restarts.clear();
        self.cluster.network().heal();
        for Rot { member, path, offset, mask, rotten } in std::mem::take(&mut self.pending.rot) {
            let disk = self.cluster.host(member).disk();
            let place = usize::try_from(offset).expect("it was one");
            let byte = disk.peek(&path).and_then(|bytes| bytes.get(place).copied());
            if byte == Some(rotten) {
                assert!(disk.flip(&path, offset, mask), "it was just there");
            }
        }
        for member in self.present.clone() {
            self.pause(member, false);
            self.cluster.host_mut(member).set_slow(Duration::ZERO);
            self.heal_disk(member);
            self.start(member)?;
        }
        Ok(())
    }

    /// Whether nothing that was written can be read on a member's disk.
    pub(super) fn observe_disk(&self, member: usize) -> Verdict {
        nothing_plain::observe(self.cluster.id(member), self.cluster.host(member).disk())
    }
}
