//! Members with a log on a disk that forgets what was not synced, and the network between them.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use keepd_env::SeededRandom;
use keepd_raft::{
    Actions, Body, ConfChange, ConfState, Core, Entry, EntryKind, Fetch, Fetched, HardState,
    InitialState, LogPosition, Message, ReadRequest, Settings, SnapshotEnd, SnapshotMeta, Status,
    Step, Transition, Verdict,
};
use testkit::golden::Command;

use crate::transcript;

/// All members, and what is on its way between them.
#[derive(Default)]
pub(crate) struct Cluster {
    members: BTreeMap<u64, Member>,
    network: Vec<Message>,
    /// One side of a partition.
    cut_off: Vec<u64>,
    lines: Vec<String>,
}

struct Member {
    /// `None` after a crash.
    core: Option<Core>,
    settings: Settings,
    conf_state: ConfState,
    log: Log,
    /// Batches in the log that are not confirmed yet.
    unsynced: Vec<Actions>,
    /// Reads of the log that are not answered yet.
    fetches: Vec<Fetch>,
    applied: u64,
    starts: u64,
    last_status: Option<Status>,
}

/// The synced part of a member's log.
#[derive(Default)]
struct Log {
    start: LogPosition,
    hard_state: HardState,
    entries: Vec<Entry>,
}

impl Log {
    fn append(&mut self, entries: Vec<Entry>, hard_state: Option<HardState>) {
        if let Some(first) = entries.first() {
            self.entries.retain(|entry| entry.index < first.index);
        }
        self.entries.extend(entries);
        self.hard_state = hard_state.unwrap_or(self.hard_state);
    }
}

impl Member {
    fn core(&mut self) -> &mut Core {
        self.core.as_mut().expect("the member runs")
    }

    fn start(&mut self) {
        self.starts += 1;
        let restored = InitialState {
            hard_state: self.log.hard_state,
            start_index: self.log.start.index,
            start_term: self.log.start.term,
            entries: self.log.entries.clone(),
            applied_index: self.applied,
            conf_state: self.conf_state.clone(),
        };
        let random = SeededRandom::new(self.settings.id * 100 + self.starts);
        self.core = Some(Core::new(self.settings, restored, Arc::new(random)).unwrap());
        self.last_status = self.core.as_ref().map(Core::status);
    }
}

impl Cluster {
    pub(crate) fn take_transcript(&mut self) -> String {
        self.lines.drain(..).map(|line| line + "\n").collect()
    }

    fn say(&mut self, line: impl Into<String>) {
        self.lines.push(line.into());
    }

    fn member(&mut self, id: u64) -> &mut Member {
        self.members.get_mut(&id).unwrap_or_else(|| panic!("no member {id}"))
    }

    pub(crate) fn add_nodes(&mut self, voters: u64, learners: u64, pre_vote: bool) {
        let voters: Vec<u64> = (1..=voters).collect();
        let first = voters.len() as u64 + 1;
        let learners: Vec<u64> = (first..first + learners).collect();
        let ids = [&voters[..], &learners[..]].concat();
        let conf_state = ConfState { voters, learners, ..ConfState::default() };
        self.add_members(&ids, &conf_state, pre_vote);
    }

    /// Starts members with an empty log and the given configuration.
    pub(crate) fn add_members(&mut self, ids: &[u64], conf_state: &ConfState, pre_vote: bool) {
        for id in ids.iter().copied() {
            let settings = Settings {
                id,
                heartbeat_ticks: 1,
                election_ticks: 10,
                pre_vote,
                read_retry_ticks: 5,
                rejoin_ticks: 0,
                catch_up_entries: 5000,
            };
            let mut member = Member {
                core: None,
                settings,
                conf_state: conf_state.clone(),
                log: Log::default(),
                unsynced: Vec::new(),
                fetches: Vec::new(),
                applied: 0,
                starts: 0,
                last_status: None,
            };
            member.start();
            self.members.insert(id, member);
        }
    }

    pub(crate) fn campaign(&mut self, id: u64) {
        if let Err(error) = self.member(id).core().campaign() {
            self.say(format!("error: {error}"));
        }
    }

    pub(crate) fn boot(&mut self, id: u64) {
        self.member(id).core().campaign_if_alone().expect("a lone voter may stand");
    }

    pub(crate) fn tick(&mut self, id: u64) {
        self.member(id).core().tick();
    }

    pub(crate) fn propose(&mut self, id: u64, commands: Vec<Bytes>) {
        match self.member(id).core().propose(commands) {
            Ok((first, term)) => self.say(format!("proposed from {term}/{first} on")),
            Err(error) => self.say(format!("error: {error}")),
        }
    }

    pub(crate) fn read_index(&mut self, id: u64) {
        match self.member(id).core().read_index() {
            Ok(read) => self.say(format!("read {read} of {id}")),
            Err(error) => self.say(format!("error: {error}")),
        }
    }

    /// Handles everything that the core of a member asks for now.
    pub(crate) fn process_ready(&mut self, id: u64, syncs: bool) {
        while let Some(mut actions) = self.member(id).core().actions() {
            self.say(format!("> {id} handling Ready"));
            self.say_state(id);
            self.say_indented(transcript::ready(&actions));
            self.send(std::mem::take(&mut actions.messages));
            let committed = std::mem::take(&mut actions.committed);
            let member = self.member(id);
            member.fetches.append(&mut actions.fetches);
            member.unsynced.push(actions);
            for entry in committed {
                self.apply(id, &entry);
            }
            if syncs {
                self.sync(id);
            }
        }
    }

    /// Applies an entry; a change whose context is `reject` is rejected.
    fn apply(&mut self, id: u64, entry: &Entry) {
        let member = self.member(id);
        member.applied = entry.index;
        if entry.kind == EntryKind::Normal {
            member.core().applied(entry.index);
            return;
        }
        let change = ConfChange::decode(&entry.data).expect("the core has read it");
        let is_accepted = change.context != "reject";
        let verdict = if is_accepted { Verdict::Accepted } else { Verdict::Rejected };
        let conf_state = member.core().apply_conf_change(entry.index, verdict);
        member.conf_state = conf_state.clone();
        self.say_indented([transcript::conf_state(&conf_state)]);
        self.say_state(id);
    }

    pub(crate) fn change(&mut self, id: u64, command: &Command) {
        let member = |word: &str| word[1..].parse().expect("a member");
        let steps = command.words.iter().skip(1).filter(|word| *word != "quiet");
        let steps = steps.map(|word| match &word[..1] {
            "v" => Step::AddVoter(member(word)),
            "l" => Step::AddLearner(member(word)),
            "p" => Step::Promote(member(word)),
            "r" => Step::Remove(member(word)),
            "u" => Step::Update(member(word)),
            other => panic!("no step {other}: {}", command.line),
        });
        let transition = match command.named("transition") {
            None => Transition::Auto,
            Some("joint") => Transition::Joint,
            Some("until-left") => Transition::JointUntilLeft,
            Some(other) => panic!("no transition {other}: {}", command.line),
        };
        let context = Bytes::from(command.named("context").unwrap_or_default().to_owned());
        let change = ConfChange { transition, steps: steps.collect(), context };
        match self.member(id).core().propose_conf_change(&change) {
            Ok((index, term)) => self.say(format!("proposed at {term}/{index}")),
            Err(error) => self.say(format!("error: {error}")),
        }
    }

    /// Makes the log of a member durable, then confirms, and only now lets go what must wait for
    /// it.
    pub(crate) fn sync(&mut self, id: u64) {
        let member = self.member(id);
        let mut messages = Vec::new();
        for mut actions in std::mem::take(&mut member.unsynced) {
            if let Some(snapshot) = &actions.snapshot {
                member.log.start = snapshot.last;
                member.log.entries.clear();
                member.conf_state = snapshot.conf_state.clone();
            }
            let installed = actions.snapshot.take().map(|snapshot| snapshot.last.index);
            member.log.append(actions.entries, actions.hard_state);
            member.core().persisted(actions.number);
            if let Some(index) = installed {
                member.applied = index;
                member.core().applied(index);
            }
            messages.append(&mut actions.messages_after_sync);
        }
        self.send(messages);
    }

    fn send(&mut self, messages: Vec<Message>) {
        for message in messages {
            let is_cut_off = |id| self.cut_off.contains(id);
            let is_up = self.members.get(&message.to).is_some_and(|to| to.core.is_some());
            if is_up && is_cut_off(&message.from) == is_cut_off(&message.to) {
                self.network.push(message);
            }
        }
    }

    /// Gives a member the messages on their way to it, in the order in which they were sent.
    pub(crate) fn deliver(&mut self, id: u64, wanted: &dyn Fn(&Message) -> bool) {
        let is_wanted = |message: &mut Message| message.to == id && wanted(message);
        let messages: Vec<Message> = self.network.extract_if(.., is_wanted).collect();
        if messages.is_empty() || self.member(id).core.is_none() {
            return;
        }
        self.say(format!("> {id} receiving messages"));
        for message in messages {
            self.say_indented([transcript::message(&message)]);
            self.step(id, message);
        }
    }

    fn step(&mut self, id: u64, message: Message) {
        if let Err(error) = self.member(id).core().step(message) {
            self.say_indented([format!("refused: {error}")]);
        }
    }

    pub(crate) fn lose(&mut self, id: u64, wanted: &dyn Fn(&Message) -> bool) {
        let is_wanted = |message: &mut Message| message.to == id && wanted(message);
        let lost: Vec<Message> = self.network.extract_if(.., is_wanted).collect();
        self.lines
            .extend(lost.iter().map(|lost| format!("dropped: {}", transcript::message(lost))));
    }

    pub(crate) fn partition(&mut self, cut_off: Vec<u64>) {
        self.cut_off = cut_off;
        let on_their_way = std::mem::take(&mut self.network);
        self.send(on_their_way);
    }

    /// Lets members (all if none is named) handle and receive until there is nothing left to do.
    pub(crate) fn stabilize(&mut self, ids: &[u64]) {
        let is_named = |id: &u64| ids.is_empty() || ids.contains(id);
        let ids: Vec<u64> = self.members.keys().copied().filter(is_named).collect();
        loop {
            let before = self.lines.len();
            for id in &ids {
                if self.member(*id).core.is_some() {
                    self.process_ready(*id, true);
                    self.fetch(*id, false);
                }
            }
            for id in &ids {
                self.deliver(*id, &|_| true);
            }
            if self.lines.len() == before {
                return;
            }
        }
    }

    pub(crate) fn transfer(&mut self, id: u64, to: u64) {
        if let Err(error) = self.member(id).core().transfer_leader(to) {
            self.say(format!("error: {error}"));
        }
    }

    pub(crate) fn step_down(&mut self, id: u64) {
        let line = match self.member(id).core().step_down() {
            Some(heir) => format!("{id} asks {heir} to take over"),
            None => format!("{id} asks nobody"),
        };
        self.say(line);
        self.say_state(id);
    }

    pub(crate) fn stall(&mut self, id: u64, is_stalled: bool) {
        self.member(id).core().set_stalled(is_stalled);
    }

    pub(crate) fn report_snapshot(&mut self, id: u64, of: u64, end: SnapshotEnd) {
        self.member(id).core().report_snapshot(of, end);
    }

    /// Cuts the start of a member's log off, as far as it is applied.
    pub(crate) fn truncate(&mut self, id: u64) {
        let member = self.member(id);
        let applied = member.applied;
        let cut: Vec<Entry> =
            member.log.entries.extract_if(.., |entry| entry.index <= applied).collect();
        if let Some(last) = cut.last() {
            member.log.start = LogPosition { term: last.term, index: last.index };
        }
        self.crash(id);
        self.restart(id);
    }

    /// Truncates a member's log while it runs.
    pub(crate) fn release(&mut self, id: u64, index: u64) {
        let member = self.member(id);
        let cut: Vec<Entry> =
            member.log.entries.extract_if(.., |entry| entry.index <= index).collect();
        let last = cut.last().expect("something is cut off");
        member.log.start = LogPosition { term: last.term, index: last.index };
        member.core().log_starts_at(index);
    }

    /// Answers what a member wants to read of its log; `fails`: as one that cannot be read.
    pub(crate) fn fetch(&mut self, id: u64, fails: bool) {
        for fetch in std::mem::take(&mut self.member(id).fetches) {
            let log = &self.member(id).log;
            let wanted = |entry: &&Entry| (fetch.low..fetch.high).contains(&entry.index);
            let found = if fails {
                Fetched::Failed
            } else if fetch.low <= log.start.index {
                Fetched::Compacted
            } else {
                Fetched::Entries(log.entries.iter().filter(wanted).cloned().collect())
            };
            let said = match &found {
                Fetched::Entries(entries) => format!("{} entries", entries.len()),
                other => format!("{other:?}"),
            };
            self.say(format!("> {id} has read {}..{}: {said}", fetch.low, fetch.high));
            self.member(id).core().fetched(&fetch, found);
        }
    }

    pub(crate) fn show_progress(&mut self, id: u64) {
        let progress = self.member(id).core().progress();
        self.lines.extend(progress.into_iter().map(transcript::progress));
    }

    /// Ends a member at once: what was not synced is gone, and what is on its way to it too.
    pub(crate) fn crash(&mut self, id: u64) {
        let member = self.member(id);
        member.core = None;
        member.unsynced.clear();
        member.fetches.clear();
        self.network.retain(|message| message.to != id);
    }

    pub(crate) fn restart(&mut self, id: u64) {
        self.member(id).start();
    }

    pub(crate) fn inject(&mut self, command: &Command) {
        let named = |name| u64::try_from(command.named_number(name, 0)).expect("a number");
        let at = LogPosition { term: named("logterm"), index: named("index") };
        let request = ReadRequest { boot: named("boot"), number: named("number") };
        let body = match command.word(0) {
            "MsgAppend" => {
                Body::Append { previous: at, commit: named("commit"), entries: Vec::new() }
            }
            "MsgAppendResponse" => Body::Appended { index: at.index, commit: 0 },
            "MsgAppendRejected" => Body::AppendRejected { index: at.index, commit: 0, hint: at },
            "MsgHeartbeat" => Body::Heartbeat { commit: named("commit"), round: None },
            "MsgHeartbeatResponse" => {
                Body::HeartbeatResponse { commit: named("commit"), round: None }
            }
            "MsgSnapshot" => {
                let conf_state = ConfState { voters: vec![named("from")], ..ConfState::default() };
                Body::Snapshot(SnapshotMeta { last: at, conf_state })
            }
            kind @ ("MsgRequestVote" | "MsgRequestPreVote") => Body::Vote {
                is_pre: kind == "MsgRequestPreVote",
                is_handover: false,
                last: at,
                commit: LogPosition::default(),
            },
            kind @ ("MsgRequestVoteResponse" | "MsgRequestPreVoteResponse") => {
                let (commit, is_pre) =
                    (LogPosition::default(), kind == "MsgRequestPreVoteResponse");
                Body::VoteResponse { is_pre, is_granted: true, commit }
            }
            "MsgTimeoutNow" => Body::TimeoutNow,
            "MsgReadIndex" => Body::ReadIndex(request),
            "MsgReadIndexResp" => Body::ReadIndexResponse { request, index: at.index },
            other => panic!("no message {other}: {}", command.line),
        };
        let message = Message { from: named("from"), to: named("to"), term: named("term"), body };
        self.say(transcript::message(&message));
        self.step(named("to"), message);
    }

    pub(crate) fn show_log(&mut self, id: u64) {
        let log = &self.member(id).log;
        let mut lines = vec![transcript::hard_state(log.hard_state)];
        lines.extend(log.entries.iter().map(transcript::entry));
        self.lines.extend(lines);
    }

    pub(crate) fn show_status(&mut self, ids: &[u64]) {
        for (id, member) in &self.members {
            if ids.is_empty() || ids.contains(id) {
                self.lines.push(match &member.core {
                    Some(core) => transcript::status(*id, core.status()),
                    None => format!("{id}: down"),
                });
            }
        }
    }

    /// Prints a member's role and leader when they have changed.
    fn say_state(&mut self, id: u64) {
        let member = self.member(id);
        let status = member.core().status();
        let shown = |status: Status| (status.role, status.leader);
        if member.last_status.replace(status).map(shown) != Some(shown(status)) {
            self.say_indented([format!("Lead:{} State:{:?}", status.leader, status.role)]);
        }
    }

    fn say_indented(&mut self, lines: impl IntoIterator<Item = String>) {
        self.lines.extend(lines.into_iter().map(|line| format!("  {line}")));
    }
}
