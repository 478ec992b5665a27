//! Runs `tests/golden/*.txt`: commands of the log, applied through their encoding, and outcomes.
//!
//! | command | effect |
//! |---|---|
//! | `put KEY VALUE [lease=7] [prev] [ignore-value] [ignore-lease]` | one of the operations below |
//! | `delete KEY [prev]`, `get KEY [at=3] [limit=2]` | `KEY` is `a`, `a..c` or `a..` |
//! | `txn [if CONDITIONS] then OPERATIONS [else OPERATIONS]` | see below |
//! | `grant 7 ttl=60`, `revoke 7`, `checkpoint 7 30`, `expire 7` | leases; `decided=5` sets the term in which the leader decided |
//! | `compact 3`, `raise NOSPACE 5`, `clear NOSPACE 5` | history and alarms |
//! | `publish-member 1 NAME URL`, `active-keys EPOCH KEY...` | facts about the cluster |
//! | `add-member 2 URL... [learner] [max-learners=1]`, `update-member 2 URL...` | changes of the membership |
//! | `promote-member 2`, `remove-member 2` | others |
//! | `cluster-version 3.7.0 decided=7` | the version that all members agree on |
//! | `members` | members, removed ids, cluster version, Raft's configuration |
//! | `term 7` | the following entries are of this term |
//! | `entry 02 ff` | an entry of these bytes |
//! | `restart` | flushes, and opens the store again |
//! | `state` | leases, keys attached to them, alarms, members, active keys |
//!
//! Conditions are separated by `,`: `version(a)=0`, `create(a..c)>1`, `mod(a)<5`, `lease(a)!=7`; a
//! comparison of values that the proposer has resolved is `holds(a)[1@2]` or `fails(a)[1@2]`, with
//! the guard's number of keys and revision. Operations are separated by `;`; a nested transaction
//! is `( if ... then ... else ... )`.
//!
//! An outcome is the store's revision after the command and what it answers; a record is shown as
//! `key=value`, with its revision. `@5` is the revision that the header of an operation shows.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a wrong script fails the test")]

mod bench;
mod parse;

use std::path::Path;

use keepd_machine::command::{ALARM_CORRUPT, ALARM_NOSPACE, Alarm};
use keepd_machine::tables::ActiveKeys;
use keepd_machine::{Command, Envelope, MembershipChange};
use keepd_types::{KeyId, LeaseId, MemberId, Term};
use testkit::golden;

use self::bench::Bench;

#[test]
fn scripts() {
    golden::check(Path::new("tests/golden"), || {
        let mut bench = Bench::new();
        move |command| run(&mut bench, command)
    });
}

fn run(bench: &mut Bench, line: &golden::Command) -> String {
    let decided_in = line.named("decided").map(|term| Term(term.parse().unwrap()));
    match line.name.as_str() {
        "get" => return bench.get(line.rest()),
        "state" => return bench.state(),
        "members" => return bench.members(),
        name if name.ends_with("-member") && name != "publish-member" => {
            return bench.change(change(line));
        }
        "term" => {
            bench.term = u64::try_from(line.number(0)).unwrap();
            return String::new();
        }
        "restart" => {
            bench.restart();
            return String::new();
        }
        "entry" => {
            let bytes = line.words.iter().map(|byte| u8::from_str_radix(byte, 16).unwrap());
            return match Envelope::decode(bytes.collect()) {
                Ok(envelope) => bench.apply_envelope(&envelope),
                Err(error) => format!("refused: {error}\n"),
            };
        }
        _ => {}
    }
    bench.apply(command(line), decided_in)
}

/// The command that a line stands for.
fn command(line: &golden::Command) -> Command {
    let lease = || LeaseId(line.number(0));
    match line.name.as_str() {
        "put" => Command::Put(parse::put(line.rest())),
        "delete" => Command::DeleteRange(parse::delete(line.rest())),
        "txn" => Command::Txn(Box::new(parse::txn(line.rest()))),
        "compact" => Command::Compact { revision: line.number(0) },
        "grant" => Command::LeaseGrant { id: lease(), ttl: line.named_number("ttl", 60) },
        "revoke" => Command::LeaseRevoke { id: lease() },
        "expire" => Command::LeaseExpire { id: lease() },
        "checkpoint" => Command::LeaseCheckpoint { id: lease(), remaining_ttl: line.number(1) },
        "raise" => Command::AlarmActivate(alarm(line)),
        "clear" => Command::AlarmDeactivate(alarm(line)),
        "publish-member" => Command::PublishMember {
            id: MemberId(u64::try_from(line.number(0)).unwrap()),
            name: line.word(1).to_owned(),
            client_urls: vec![line.word(2).to_owned()],
        },
        "active-keys" => {
            let numbers = line.words.iter().map(|word| word.parse::<u64>().unwrap());
            let keys = numbers.clone().skip(1).map(KeyId).collect();
            Command::SetActiveKeys(ActiveKeys { epoch: numbers.clone().next().unwrap(), keys })
        }
        "cluster-version" => Command::SetClusterVersion { version: line.word(0).to_owned() },
        other => panic!("no command {other}: {}", line.line),
    }
}

/// The change of the membership that a line stands for.
fn change(line: &golden::Command) -> MembershipChange {
    let id = MemberId(u64::try_from(line.number(0)).unwrap());
    let urls = line.words.iter().filter(|word| word.contains("://")).cloned().collect();
    match line.name.as_str() {
        "add-member" => MembershipChange::Add {
            id,
            peer_urls: urls,
            is_learner: line.words.iter().any(|word| word == "learner"),
            max_learners: u32::try_from(line.named_number("max-learners", 1)).unwrap(),
        },
        "promote-member" => MembershipChange::Promote { id },
        "remove-member" => MembershipChange::Remove { id },
        "update-member" => MembershipChange::UpdatePeerUrls { id, peer_urls: urls },
        other => panic!("no change {other}: {}", line.line),
    }
}

fn alarm(line: &golden::Command) -> Alarm {
    let kind = match line.word(0) {
        "NOSPACE" => ALARM_NOSPACE,
        "CORRUPT" => ALARM_CORRUPT,
        other => panic!("no alarm {other}"),
    };
    Alarm { member: MemberId(u64::try_from(line.number(1)).unwrap()), kind }
}
