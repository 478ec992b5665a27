//! A state machine on a simulated disk, and its outcomes as text.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use keepd_crypto::FileKeys;
use keepd_env::Env;
use keepd_machine::membership::{ConfState, MembershipChange};
use keepd_machine::{
    Command, CommandResponse, Envelope, OpResponse, Options, Origin, Outcome, RecordRef,
    StateMachine, TxnResponse, membership, tables,
};
use keepd_mvcc::{Applied, JobRequest, Store, View};
use keepd_types::{ClusterId, KeyValue, MemberId, Term};

use crate::parse;

const STORE: &str = "/store";

pub(crate) struct Bench {
    env: Env,
    machine: StateMachine,
    pub(crate) term: u64,
}

impl Bench {
    /// An empty store of a cluster whose only member is 1.
    pub(crate) fn new() -> Self {
        let (env, _, _) = Env::simulated(1);
        env.disk.create_dir(Path::new(STORE)).unwrap();
        let mut machine = open(&env);
        let member = membership::Member { id: 1, ..membership::Member::default() };
        member.store(machine.store_mut());
        ConfState::of_voters([MemberId(1)]).store(machine.store_mut());
        Self { env, machine, term: 1 }
    }

    pub(crate) fn restart(&mut self) {
        while self.machine.store_mut().run(JobRequest::Flush).unwrap() {}
        self.machine = open(&self.env);
    }

    /// Applies a command as every member sees it: through the log.
    pub(crate) fn apply(&mut self, command: Command, decided_in: Option<Term>) -> String {
        let sequence = self.machine.applied().index;
        let origin = Some(Origin { member: MemberId(1), boot: 2, sequence });
        let encoded = Envelope { origin, decided_in, command }.encode();
        self.apply_envelope(&Envelope::decode(encoded).unwrap())
    }

    /// Applies a change of the membership as the node does: the machine judges, Raft follows.
    pub(crate) fn change(&mut self, change: MembershipChange) -> String {
        let Applied { index, .. } = self.machine.applied();
        let origin = Some(Origin { member: MemberId(1), boot: 2, sequence: index });
        let command = Command::ChangeMembership(change.clone());
        let context = Envelope { origin, decided_in: None, command }.encode();
        let at = Applied { index: index + 1, term: self.term };
        let judgement = self.machine.judge_change(at, &context).unwrap();
        let table = self.machine.store().meta(tables::CONF_STATE);
        let mut raft = ConfState::load(table).unwrap();
        if judgement.is_accepted {
            follow(&mut raft, &change);
        }
        self.machine.set_conf_state(&raft);
        let view = self.machine.publish().view;
        outcome_text(&view, judgement.outcome)
    }

    pub(crate) fn apply_envelope(&mut self, envelope: &Envelope) -> String {
        let index = self.machine.applied().index + 1;
        let outcome = self.machine.apply(Applied { index, term: self.term }, envelope).unwrap();
        let view = self.machine.publish().view;
        outcome_text(&view, outcome)
    }

    /// The members, and what Raft counts votes with.
    pub(crate) fn members(&self) -> String {
        let meta = |table| self.machine.store().meta(table);
        let known = membership::Membership::of(ClusterId(1), meta).unwrap();
        let mut out = String::new();
        known.members.iter().for_each(|member| writeln!(out, "{}", member_text(member)).unwrap());
        for id in &known.removed {
            assert!(membership::is_removed(meta(tables::MEMBERS_REMOVED), *id));
            writeln!(out, "removed {}", id.0).unwrap();
        }
        if let Some(version) = known.cluster_version {
            writeln!(out, "version {version}").unwrap();
        }
        let raft = ConfState::load(meta(tables::CONF_STATE)).unwrap();
        writeln!(out, "voters {:?} learners {:?}", raft.voters, raft.learners).unwrap();
        out
    }

    /// Reads keys from the published view.
    pub(crate) fn get(&self, rest: &str) -> String {
        let view = self.machine.store().views().load();
        let get = parse::get(rest);
        let limit = usize::try_from(get.fetch_limit).unwrap();
        let keys = match view.range(&get.range, get.revision, limit) {
            Ok(found) => found.keys,
            Err(error) => return format!("error: {error}\n"),
        };
        let mut out = String::new();
        for (_, revision) in keys {
            let kv = KeyValue::decode(&view.load(revision).unwrap().encoded).unwrap();
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            write!(out, "{}={}", text(&kv.key), text(&kv.value)).unwrap();
            let KeyValue { create_revision, mod_revision, version, .. } = kv;
            write!(out, " create={create_revision} mod={mod_revision} version={version}").unwrap();
            let lease =
                if kv.lease.is_none() { String::new() } else { format!(" lease={}", kv.lease.0) };
            writeln!(out, "{lease}").unwrap();
        }
        if out.is_empty() { "none\n".to_owned() } else { out }
    }

    pub(crate) fn state(&self) -> String {
        let lessor = self.machine.lessor();
        let mut out = String::new();
        for lease in lessor.leases() {
            let keys = lessor.keys(lease.id).into_iter().flatten();
            let keys: Vec<_> = keys.map(|key| String::from_utf8_lossy(key).into_owned()).collect();
            write!(out, "lease {} ttl={}", lease.id.0, lease.ttl).unwrap();
            if lease.remaining_ttl > 0 {
                write!(out, " remaining={}", lease.remaining_ttl).unwrap();
            }
            writeln!(out, " keys=[{}]", keys.join(" ")).unwrap();
        }
        for alarm in self.machine.alarms() {
            writeln!(out, "alarm {} of {}", alarm.name(), alarm.member.0).unwrap();
        }
        for member in membership::members(self.machine.store().meta(tables::MEMBERS)).unwrap() {
            let urls = member.client_urls.join(" ");
            writeln!(out, "member {} name={:?} clients=[{urls}]", member.id, member.name).unwrap();
        }
        if let Some(active) = tables::active_keys(self.machine.store().meta(tables::CLUSTER)) {
            let keys: Vec<_> = active.keys.iter().map(|key| key.0.to_string()).collect();
            writeln!(out, "active keys of epoch {}: {}", active.epoch, keys.join(" ")).unwrap();
        }
        out
    }
}

/// Changes the configuration as Raft's core does.
fn follow(raft: &mut ConfState, change: &MembershipChange) {
    let id = change.member().0;
    match change {
        MembershipChange::UpdatePeerUrls { .. } => return,
        MembershipChange::Add { is_learner: true, .. } => raft.learners.push(id),
        MembershipChange::Add { .. } => raft.voters.push(id),
        MembershipChange::Promote { .. } => {
            raft.learners.retain(|learner| *learner != id);
            raft.voters.push(id);
        }
        MembershipChange::Remove { .. } => {
            raft.learners.retain(|learner| *learner != id);
            raft.voters.retain(|voter| *voter != id);
        }
    }
    raft.voters.sort_unstable();
}

fn member_text(member: &membership::Member) -> String {
    let kind = if member.is_learner { "learner" } else { "voter" };
    let urls = |urls: &[String]| urls.join(" ");
    let (peers, clients) = (urls(&member.peer_urls), urls(&member.client_urls));
    format!("{kind} {} name={:?} peers=[{peers}] clients=[{clients}]", member.id, member.name)
}

fn outcome_text(view: &Arc<View>, outcome: Outcome) -> String {
    let mut out = format!("revision {}: ", outcome.revision);
    match outcome.result {
        Ok(response) => response_text(view, &response, &mut out),
        Err(error) => writeln!(out, "error: {error}").unwrap(),
    }
    out
}

fn open(env: &Env) -> StateMachine {
    let options = keepd_mvcc::Options::default();
    let store = Store::open(env.clone(), Path::new(STORE), FileKeys::plain(), options).unwrap();
    StateMachine::new(store, Options::default()).unwrap()
}

fn response_text(view: &Arc<View>, response: &CommandResponse, out: &mut String) {
    match response {
        CommandResponse::Put { prev } => writeln!(out, "put{}", previous(view, prev.iter())),
        CommandResponse::DeleteRange { deleted, prev } => {
            writeln!(out, "deleted {deleted}{}", previous(view, prev.iter()))
        }
        CommandResponse::Txn(txn) => {
            txn_text(view, txn, "  ", out);
            Ok(())
        }
        CommandResponse::LeaseGrant { id, ttl } => writeln!(out, "lease {} ttl={ttl}", id.0),
        CommandResponse::Alarms(alarms) => {
            let names: Vec<_> = alarms.iter().map(|alarm| alarm.name()).collect();
            writeln!(out, "alarms [{}]", names.join(" "))
        }
        CommandResponse::Members(members) => {
            let ids: Vec<_> = members.iter().map(|member| member.id.to_string()).collect();
            writeln!(out, "members [{}]", ids.join(" "))
        }
        CommandResponse::Done => writeln!(out, "done"),
    }
    .unwrap();
}

fn txn_text(view: &Arc<View>, txn: &TxnResponse, indent: &str, out: &mut String) {
    writeln!(out, "{}", if txn.succeeded { "then" } else { "else" }).unwrap();
    for response in &txn.responses {
        out.push_str(indent);
        match response {
            OpResponse::Range { header_revision, records, count } => {
                let records: Vec<_> = records.iter().map(|handle| record(view, handle)).collect();
                writeln!(out, "got [{}] of {count} @{header_revision}", records.join(" "))
            }
            OpResponse::Put { header_revision, prev } => {
                writeln!(out, "put{} @{header_revision}", previous(view, prev.iter()))
            }
            OpResponse::DeleteRange { header_revision, deleted, prev } => {
                let previous = previous(view, prev.iter());
                writeln!(out, "deleted {deleted}{previous} @{header_revision}")
            }
            OpResponse::Txn(nested) => {
                txn_text(view, nested, &format!("{indent}  "), out);
                Ok(())
            }
        }
        .unwrap();
    }
}

fn previous<'a>(view: &Arc<View>, records: impl Iterator<Item = &'a RecordRef>) -> String {
    let records: Vec<_> = records.map(|handle| record(view, handle)).collect();
    if records.is_empty() { String::new() } else { format!(", before: {}", records.join(" ")) }
}

/// `key=value` and the revision at which it was written.
fn record(view: &Arc<View>, handle: &RecordRef) -> String {
    let kv = KeyValue::decode(&view.load(handle.revision).unwrap().encoded).unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (main, sub) = (handle.revision.main, handle.revision.sub);
    format!("{}={}({main}.{sub})", text(&kv.key), text(&kv.value))
}
