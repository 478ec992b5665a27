//! Physical compactions, with the background jobs run by hand, in any order.

use keepd_machine::Envelope;
use keepd_machine::command::Put;
use keepd_types::StoredValue;

use super::*;
use crate::testing::{self, Unassembled};

/// A machine and its jobs without any thread.
struct Bench {
    machine: StateMachine,
    shared: Arc<Shared>,
    background: Background,
    jobs: JobScheduler,
    index: u64,
}

impl Bench {
    fn new() -> Self {
        let Unassembled { shared, machine, .. } = testing::member();
        let index = machine.store().applied().index;
        let background = Background::new();
        let jobs = JobScheduler::new(Arc::clone(&shared), background.clone());
        Self { machine, shared, background, jobs, index }
    }

    fn apply(&mut self, command: &Command) {
        self.index += 1;
        let at = Applied { index: self.index, term: 1 };
        let envelope = Envelope { origin: None, decided_in: None, command: command.clone() };
        self.machine.apply(at, &envelope).unwrap().result.unwrap();
        self.machine.publish();
    }

    /// Ten versions of a key, and a compaction to the last but one.
    fn compact(&mut self) -> i64 {
        for i in 0..10 {
            let value = StoredValue::plain(vec![i; 100].into());
            self.apply(&Command::Put(Put { key: "k".into(), value, ..Put::default() }));
        }
        let revision = self.machine.store().revision() - 1;
        self.apply(&Command::Compact { revision });
        revision
    }

    fn turn(&mut self) {
        self.jobs.turn(&mut self.machine, Duration::ZERO);
    }

    /// Runs the jobs that are on their way, the last one first, each with a turn behind it.
    fn run_jobs(&mut self, mut check: impl FnMut(&mut Self)) {
        for job in self.background.take_all().into_iter().rev() {
            let done = crate::threads::background::run(job, &self.shared).unwrap();
            self.jobs.done(&mut self.machine, done);
            check(self);
            self.turn();
            check(self);
        }
    }
}

#[test]
fn a_physical_compaction_is_over_when_its_hash_is_known_and_it_is_durable_and_trimmed() {
    let mut bench = Bench::new();
    for _ in 0..3 {
        // One hash is still being computed when the next compaction comes.
        bench.compact();
        bench.turn();
        let revision = bench.compact();
        let (reply, mut settled) = oneshot::channel();
        bench.jobs.settle(reply);
        let mut is_over = false;
        let mut rounds = 0;
        while !is_over {
            bench.turn();
            bench.run_jobs(|bench| {
                if !is_over && settled.try_recv().is_ok() {
                    is_over = true;
                    let store = bench.machine.store();
                    assert!(bench.shared.compaction_hash(revision).is_some(), "no hash");
                    assert_eq!(store.durable().index, bench.index, "it is not durable");
                    assert!(store.is_settled());
                    let (live, disk) = (store.live_bytes(), store.disk_bytes());
                    assert!(live < disk / 2, "{live} of {disk} bytes live: it is not trimmed");
                }
            });
            is_over |= settled.try_recv().is_ok();
            rounds += 1;
            assert!(rounds < 20, "it never ends");
        }
    }
}

#[test]
fn a_stop_ends_every_job_and_still_writes_the_last_checkpoint() {
    let mut bench = Bench::new();
    let puts = |bench: &mut Bench| {
        for number in 0..40_u8 {
            let value = StoredValue::plain(vec![number; 100_000].into());
            bench.apply(&Command::Put(Put { key: "k".into(), value, ..Put::default() }));
        }
    };
    puts(&mut bench);
    let store = bench.machine.store_mut();
    assert!(store.run(JobRequest::Flush).unwrap());
    let checkpoint = store.take(JobRequest::Checkpoint).unwrap();
    let revision = store.revision();
    bench.apply(&Command::Compact { revision });
    puts(&mut bench);
    let store = bench.machine.store_mut();
    let hash = store.take(JobRequest::CompactionHash).unwrap();
    let view = bench.shared.views.load();
    bench.shared.mailboxes.raft.close();
    for job in [checkpoint, hash] {
        let done = crate::threads::background::run(Job::Store(job), &bench.shared).unwrap();
        let Done::Store { done: ended, .. } = &done else { panic!("{done:?}") };
        assert_eq!(ended.cause(), Some(Cause::Stopped), "{ended:?}");
        bench.jobs.done(&mut bench.machine, done);
    }
    let done = crate::threads::background::run(Job::CountSealed(view), &bench.shared).unwrap();
    assert!(matches!(done, Done::CountSealed(None)), "{done:?}");
    while !bench.jobs.stop(&mut bench.machine, Duration::ZERO) {}
    let store = bench.machine.store_mut();
    assert_eq!(store.durable(), store.applied());
    assert!(store.take(JobRequest::Checkpoint).is_none(), "the last checkpoint was not written");
}
