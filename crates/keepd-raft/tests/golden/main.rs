//! Transcripts of several cores: how a cluster elects, replicates, reads and recovers, in the form
//! of etcd/raft's own data-driven tests.
//!
//! | command | effect |
//! |---|---|
//! | `add-nodes 3 [learners=1] [prevote=false]` | starts members 1, 2, ... with an empty log |
//! | `join 4 [voters=1,2,3] [learners=4] [outgoing=1,2] [auto-leave=true]` | starts a member with an empty log and this configuration |
//! | `change 1 v4 l5 p5 r2 u3 [transition=joint] [context=x]` | proposes a change: add voter, add learner, promote, remove, update; without steps it leaves a joint configuration; context `reject`: the state machines reject it |
//! | `boot 1` | stands for election if alone, as at a start |
//! | `campaign 1` | the election timeout of member 1 runs out |
//! | `tick 1 [10]` | the clock of member 1 ticks; nothing is handled |
//! | `propose 1 foo bar [times=1]` | proposes one batch of commands |
//! | `read-index 1` | asks for a read index |
//! | `process-ready 1 [unsynced]` | does what the core asks for; `unsynced` leaves the sync to `sync 1` |
//! | `sync 1` | the log's sync ends: batches are confirmed, their messages leave |
//! | `deliver 2 [from=1] [type=MsgAppend]` | member 2 receives what is on its way to it |
//! | `drop 2 [from=1] [type=MsgAppend]` | loses messages instead |
//! | `partition 1` | cuts members off from the others; messages between both sides are lost |
//! | `heal` | ends the partition |
//! | `stabilize [1 2]` | handles and delivers until nothing is left to do |
//! | `crash 1`, `restart 1` | loses what was not synced; starts from the log |
//! | `transfer 1 2` | member 1 hands leadership to 2 |
//! | `step-down 1` | member 1 stops leading |
//! | `stall 1`, `recover 1` | member 1 does not stand for election until it recovers |
//! | `report-snapshot 1 2 finished` | sending a snapshot from 1 to 2 ended; or `failed` |
//! | `truncate 1` | cuts what is applied off the start of the log, and starts the member again |
//! | `release 1 4000` | truncates the log of member 1 while it runs |
//! | `fetch 1 [fails]` | what member 1 wants to read of its log is read; or cannot be |
//! | `progress 1` | the members' progress, as member 1 knows it |
//! | `inject MsgAppend from=2 to=1 [term=1] [index=1] [logterm=1] [commit=1]` | a message nobody sent |
//! | `log 1`, `status [1]` | shows the log on disk; the members' states |
//!
//! A last word `quiet` hides what a command prints.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a wrong script fails the test")]

mod cluster;
mod transcript;

use std::path::Path;

use bytes::Bytes;
use keepd_raft::{ConfState, Message, SnapshotEnd};
use testkit::golden::{self, Command};

use self::cluster::Cluster;

#[test]
fn scripts() {
    golden::check(Path::new("tests/golden"), || {
        let mut cluster = Cluster::default();
        move |command| {
            let output = run(&mut cluster, command);
            if command.has("quiet") { String::new() } else { output }
        }
    });
}

fn run(cluster: &mut Cluster, command: &Command) -> String {
    let id = |position| u64::try_from(command.number(position)).expect("an id");
    match command.name.as_str() {
        "add-nodes" => {
            let learners = u64::try_from(command.named_number("learners", 0)).expect("a count");
            let pre_vote = command.named("prevote").is_none_or(|word| word == "true");
            cluster.add_nodes(id(0), learners, pre_vote);
        }
        "join" => {
            let list = |name| -> Vec<u64> {
                let words = command.named(name).unwrap_or_default().split(',');
                words.filter(|word| !word.is_empty()).map(|word| word.parse().unwrap()).collect()
            };
            let conf_state = ConfState {
                voters: list("voters"),
                learners: list("learners"),
                voters_outgoing: list("outgoing"),
                auto_leave: command.named("auto-leave") == Some("true"),
                ..ConfState::default()
            };
            cluster.add_members(&[id(0)], &conf_state, true);
        }
        "change" => cluster.change(id(0), command),
        "boot" => cluster.boot(id(0)),
        "campaign" => cluster.campaign(id(0)),
        "tick" => {
            let times = if command.words.len() > 1 { command.number(1) } else { 1 };
            (0..times).for_each(|_| cluster.tick(id(0)));
        }
        "propose" => {
            let words = command.words.iter().skip(1).filter(|word| *word != "quiet");
            let times = usize::try_from(command.named_number("times", 1)).expect("a count");
            let words =
                words.flat_map(|word| std::iter::repeat_n(Bytes::from(word.clone()), times));
            cluster.propose(id(0), words.collect());
        }
        "read-index" => cluster.read_index(id(0)),
        "process-ready" => cluster.process_ready(id(0), !command.has("unsynced")),
        "sync" => cluster.sync(id(0)),
        "deliver" => cluster.deliver(id(0), &filter(command)),
        "drop" => cluster.lose(id(0), &filter(command)),
        "partition" => cluster.partition(ids(command)),
        "heal" => cluster.partition(Vec::new()),
        "stabilize" => cluster.stabilize(&ids(command)),
        "transfer" => cluster.transfer(id(0), id(1)),
        "step-down" => cluster.step_down(id(0)),
        "stall" => cluster.stall(id(0), true),
        "recover" => cluster.stall(id(0), false),
        "report-snapshot" => {
            let end = match command.word(2) {
                "finished" => SnapshotEnd::Finished,
                "failed" => SnapshotEnd::Failed,
                other => panic!("no end {other}: {}", command.line),
            };
            cluster.report_snapshot(id(0), id(1), end);
        }
        "truncate" => cluster.truncate(id(0)),
        "release" => cluster.release(id(0), id(1)),
        "fetch" => cluster.fetch(id(0), command.has("fails")),
        "progress" => cluster.show_progress(id(0)),
        "crash" => cluster.crash(id(0)),
        "restart" => cluster.restart(id(0)),
        "inject" => cluster.inject(command),
        "log" => cluster.show_log(id(0)),
        "status" => cluster.show_status(&ids(command)),
        other => panic!("no command {other}: {}", command.line),
    }
    cluster.take_transcript()
}

/// The members that a command names.
fn ids(command: &Command) -> Vec<u64> {
    command.words.iter().filter_map(|word| word.parse().ok()).collect()
}

/// Which of the messages on their way a command means.
fn filter(command: &Command) -> impl Fn(&Message) -> bool + use<> {
    let from: Option<u64> = command.named("from").map(|word| word.parse().expect("an id"));
    let kind = command.named("type").map(str::to_owned);
    move |message| {
        from.is_none_or(|from| message.from == from)
            && kind.as_ref().is_none_or(|kind| kind == message.body.name())
    }
}
