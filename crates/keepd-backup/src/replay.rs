//! Entries of the log applied to a restored snapshot, by the machine that applies them in a member.
//!
//! The store is filled as the source had it, its members and facts included, for entries are judged by
//! them; the new cluster's membership takes their place at the end, and the log begins behind the last
//! entry. The source's running digest goes on from the snapshot's, and wherever the log says what it was,
//! both are compared: a base of another history, an exchanged batch, or a version that applies
//! otherwise shows there.
//!
//! Values stay as they were sealed; each is opened, since what was sealed to a public key could have been
//! made by anyone.

use keepd_crypto::ValueSealer;
use keepd_machine::command::Put;
use keepd_machine::membership::ConfState;
use keepd_machine::{Command, Envelope, Halt, MembershipChange, Options, StateMachine, tables};
use keepd_mvcc::{Applied, Store};
use keepd_raft::{ConfChange, Step as MemberStep, Transition};
use keepd_types::{Entry, EntryKind};

use crate::making::flush;
use crate::{Error, LogPosition};

/// Entries that become visible at once.
const PUBLISH_ENTRIES: u64 = 1024;
/// Bytes of entries that may wait in memory to be flushed.
const FLUSH_BYTES: u64 = 16 << 20;
/// Entries that may.
const FLUSH_ENTRIES: u64 = 32 * 1024;

/// The log behind a snapshot.
pub trait ShippedLog {
    /// The next step, in the order of the log; none at its end. Entries may come again.
    ///
    /// # Errors
    /// If it cannot be read.
    fn next(&mut self) -> Result<Option<Step>, Box<dyn std::error::Error + Send + Sync>>;
}

/// A step of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A committed entry.
    Entry(Entry),
    /// The state that the source had.
    Mark(Mark),
}

/// The state that the source had after an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// The entry.
    pub position: LogPosition,
    /// The revision.
    pub revision: i64,
}

/// The entry after which a replay ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndOfReplay {
    /// The one that made this revision.
    Revision(i64),
    /// The one of this index.
    Index(u64),
}

/// The result of a replay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Entries that were applied.
    pub entries: u64,
    /// The last one.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// The revision after it, before any bump.
    pub revision: i64,
    /// Places at which the state was compared with the source's.
    pub compared: u64,
}

/// Applies a log to a store, which has the source's tables; the machine then, and what was done.
pub(crate) fn run(
    store: Store,
    sealer: Option<&ValueSealer>,
    log: &mut dyn ShippedLog,
    end: EndOfReplay,
) -> Result<(StateMachine, Replayed), Error> {
    let mut replay = Replay::new(store, sealer)?;
    replay.run(log, end)?;
    let Replay { mut machine, mut done, .. } = replay;
    machine.publish();
    done.revision = machine.store().revision();
    Ok((machine, done))
}

/// A replay under way.
struct Replay<'a> {
    machine: StateMachine,
    sealer: Option<&'a ValueSealer>,
    done: Replayed,
    unflushed_bytes: u64,
    unflushed_entries: u64,
}

impl<'a> Replay<'a> {
    fn new(store: Store, sealer: Option<&'a ValueSealer>) -> Result<Self, Error> {
        let index = store.applied().index;
        let machine = StateMachine::new(store, Options::default());
        let machine = machine.map_err(|halt| halted(index, &halt))?;
        let Applied { index, term } = machine.applied();
        let done = Replayed { index, term, ..Replayed::default() };
        Ok(Self { machine, sealer, done, unflushed_bytes: 0, unflushed_entries: 0 })
    }

    fn is_over(&self, end: EndOfReplay) -> bool {
        match end {
            EndOfReplay::Revision(revision) => self.machine.store().revision() >= revision,
            EndOfReplay::Index(index) => self.done.index >= index,
        }
    }

    fn run(&mut self, log: &mut dyn ShippedLog, end: EndOfReplay) -> Result<(), Error> {
        let mut is_over = self.is_over(end);
        loop {
            let step = log.next().map_err(Error::Log)?;
            match step {
                // A mark behind the last entry is compared too.
                Some(Step::Mark(mark)) => self.compare(&mark)?,
                _ if is_over => return Ok(()),
                Some(Step::Entry(entry)) => {
                    self.take(entry)?;
                    is_over = self.is_over(end);
                }
                None => {
                    let revision = self.machine.store().revision();
                    return Err(Error::LogEnds { index: self.done.index, revision });
                }
            }
        }
    }

    /// Compares the state with the one that the source had, if it is the one of this entry.
    fn compare(&mut self, mark: &Mark) -> Result<(), Error> {
        let (index, store) = (self.done.index, self.machine.store());
        if mark.position.index != index {
            return Ok(());
        }
        let digest = store.digest();
        for (is_equal, what) in [
            (mark.position.term == self.done.term, "the term"),
            (mark.revision == store.revision(), "the revision"),
            (mark.position.since == digest.since, "the begin of the digest"),
            (mark.position.digest == digest.value, "the digest"),
        ] {
            if !is_equal {
                return Err(Error::OtherHistory { index, what });
            }
        }
        self.done.compared += 1;
        Ok(())
    }

    fn take(&mut self, entry: Entry) -> Result<(), Error> {
        let (last, index) = (self.done.index, entry.index);
        if index <= last {
            let is_other = index == last && entry.term != self.done.term;
            let what = "the term";
            return if is_other { Err(Error::OtherHistory { index, what }) } else { Ok(()) };
        }
        if index != last + 1 {
            return Err(Error::LogGap { last, next: index });
        }
        if entry.term < self.done.term {
            let reason = "its term is lower than the one before".to_owned();
            return Err(Error::LogEntry { index, reason });
        }
        let at = Applied { index, term: entry.term };
        self.unflushed_bytes += entry.data.len() as u64;
        self.apply(at, entry)?;
        self.done = Replayed { entries: self.done.entries + 1, index, term: at.term, ..self.done };
        self.unflushed_entries += 1;
        if self.unflushed_bytes >= FLUSH_BYTES || self.unflushed_entries >= FLUSH_ENTRIES {
            self.machine.publish();
            flush(self.machine.store_mut())?;
            (self.unflushed_bytes, self.unflushed_entries) = (0, 0);
        } else if self.done.entries.is_multiple_of(PUBLISH_ENTRIES) {
            self.machine.publish();
        }
        Ok(())
    }

    fn apply(&mut self, at: Applied, entry: Entry) -> Result<(), Error> {
        if entry.kind != EntryKind::Normal {
            return self.change_members(at, &entry);
        }
        if entry.data.is_empty() {
            self.machine.advance(at);
            return Ok(());
        }
        let applied = self.machine.apply_entry(at, entry.data);
        let (command, _outcome) = applied.map_err(|halt| halted(at.index, &halt))?;
        let mut checked = Ok(());
        command.for_each_put(&mut |put| {
            if checked.is_ok() {
                checked = self.check_value(put);
            }
        });
        checked.map_err(|reason| Error::LogEntry { index: at.index, reason })
    }

    /// Refuses a value that could not be read afterwards, or that anybody could have made.
    fn check_value(&self, put: &Put) -> Result<(), String> {
        let key = put.key.escape_ascii();
        if put.value.seal.is_none() {
            let is_taken = self.sealer.is_none_or(|sealer| sealer.takes_plain(&put.key));
            return if is_taken || put.ignore_value {
                Ok(())
            } else {
                Err(format!(
                    "the value of key {key} is plain, and the encryption configuration takes no plain value \
                     of it; if that is what you mean, add `- identity: {{}}` last in the rule for it, or give \
                     --encryption-trust-plain-data once"
                ))
            };
        }
        let Some(sealer) = self.sealer else {
            return Err(format!(
                "the value of key {key} is sealed under an encryption configuration: give \
                 --encryption-provider-config"
            ));
        };
        sealer.open(&put.key, &put.value).map(drop).map_err(|error| format!("key {key}: {error}"))
    }

    /// Judges a change of the source's members, and has its configuration follow.
    fn change_members(&mut self, at: Applied, entry: &Entry) -> Result<(), Error> {
        let index = at.index;
        let refused = |reason: &str| Error::LogEntry { index, reason: reason.to_owned() };
        let change = ConfChange::decode(&entry.data);
        let change = change.map_err(|_malformed| refused("a malformed change of the members"))?;
        let stored = ConfState::load(self.machine.store().meta(tables::CONF_STATE));
        let stored = stored.map_err(|halt| halted(index, &halt))?;
        let changed = followed(&stored, &change).ok_or_else(|| {
            refused("a change of several members at once, which a replay does not follow")
        })?;
        let judged = self.machine.judge_change(at, &change.context);
        let judgement = judged.map_err(|halt| halted(index, &halt))?;
        self.machine.set_conf_state(if judgement.is_accepted { &changed } else { &stored });
        Ok(())
    }
}

/// Raft's configuration after a change of one member, or the end of a joint one; none if the change is no
/// such one, or its record says something else than its step.
fn followed(state: &ConfState, change: &ConfChange) -> Option<ConfState> {
    let mut state = state.clone();
    let step = match (change.steps.as_slice(), change.transition) {
        ([], _) if change.context.is_empty() => {
            state.voters_outgoing.clear();
            state.learners.append(&mut state.learners_next);
            return Some(state);
        }
        ([step], Transition::Auto) => *step,
        _ => return None,
    };
    let Command::ChangeMembership(record) = Envelope::decode(change.context.clone()).ok()?.command
    else {
        return None;
    };
    if step_of(&record) != step {
        return None;
    }
    let id = step.member();
    if !matches!(step, MemberStep::Update(_)) {
        state.voters.retain(|it| *it != id);
        state.learners.retain(|it| *it != id);
    }
    match step {
        MemberStep::AddVoter(_) | MemberStep::Promote(_) => state.voters.push(id),
        MemberStep::AddLearner(_) => state.learners.push(id),
        MemberStep::Remove(_) | MemberStep::Update(_) => {}
    }
    state.voters.sort_unstable();
    state.learners.sort_unstable();
    Some(state)
}

/// The step of Raft's configuration that a change of the membership is proposed with.
const fn step_of(change: &MembershipChange) -> MemberStep {
    match change {
        MembershipChange::Add { id, is_learner: true, .. } => MemberStep::AddLearner(id.0),
        MembershipChange::Add { id, .. } => MemberStep::AddVoter(id.0),
        MembershipChange::Promote { id } => MemberStep::Promote(id.0),
        MembershipChange::Remove { id } => MemberStep::Remove(id.0),
        MembershipChange::UpdatePeerUrls { id, .. } => MemberStep::Update(id.0),
    }
}

fn halted(index: u64, halt: &Halt) -> Error {
    Error::LogEntry { index, reason: halt.to_string() }
}
