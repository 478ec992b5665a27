//! Runs `tests/golden/*.txt`. Time is in seconds, `tick` moves it.
//!
//! Commands: `grant ID ttl=N`, `revoke ID`, `attach ID KEY`, `detach KEY`, `checkpoint ID N`,
//! `promote [extend=N]`, `demote`, `tick SECONDS`, `renew ID`, `remaining ID`, `keys ID`, `list`,
//! `expired [max=N]`, `arm`, `many FROM COUNT ttl=N`, `drain step=N` (polls until nothing is left,
//! revoking, and prints how many ran out in each step).

#![expect(clippy::unwrap_used, clippy::panic, reason = "a wrong script fails the test")]

use std::time::Duration;

use bytes::Bytes;
use keepd_lease::{Lessor, Options};
use keepd_types::LeaseId;
use testkit::golden::{self, Command};

struct Runner {
    lessor: Lessor,
    now: Duration,
}

fn ids(list: &[LeaseId]) -> String {
    if list.is_empty() {
        return "none\n".to_owned();
    }
    list.iter().map(|id| id.0.to_string()).collect::<Vec<_>>().join(" ") + "\n"
}

fn shown<T, E: std::fmt::Display>(result: Result<T, E>, show: impl Fn(T) -> String) -> String {
    result.map_or_else(|error| format!("error: {error}\n"), show)
}

impl Runner {
    fn run(&mut self, command: &Command) -> String {
        let id = || LeaseId(command.number(0));
        match command.name.as_str() {
            "grant" => shown(self.lessor.grant(id(), command.named_number("ttl", 0)), |lease| {
                format!("lease {} ttl={}\n", lease.id.0, lease.ttl)
            }),
            "many" => {
                for i in 0..command.number(1) {
                    let id = LeaseId(command.number(0) + i);
                    self.lessor.grant(id, command.named_number("ttl", 0)).unwrap();
                }
                String::new()
            }
            "revoke" => shown(self.lessor.revoke(id()), |keys| format!("keys {keys:?}\n")),
            "attach" => {
                let key = Bytes::from(command.word(1).to_owned());
                shown(self.lessor.attach(id(), key), |()| String::new())
            }
            "detach" => format!("from {}\n", self.lessor.detach(command.word(0).as_bytes()).0),
            "checkpoint" => shown(self.lessor.checkpoint(id(), command.number(1)), |lease| {
                format!("remaining ttl {}\n", lease.remaining_ttl)
            }),
            "promote" => {
                let extend = u64::try_from(command.named_number("extend", 0)).unwrap();
                self.lessor.promote(self.now, Duration::from_secs(extend));
                String::new()
            }
            "demote" => {
                self.lessor.demote();
                String::new()
            }
            "arm" => {
                self.lessor.arm(self.now);
                String::new()
            }
            "tick" => {
                self.now += Duration::from_secs_f64(command.word(0).parse().unwrap());
                String::new()
            }
            "renew" => shown(self.lessor.renew(id(), self.now), |renewed| format!("{renewed:?}\n")),
            "remaining" => format!("{:?}\n", self.lessor.remaining(id(), self.now)),
            "keys" => format!("{:?}\n", self.lessor.keys(id())),
            "list" => {
                let mut leases = self.lessor.list(None, usize::MAX, self.now);
                leases.sort_unstable();
                ids(&leases.into_iter().map(|(_, id)| id).collect::<Vec<_>>())
            }
            "expired" => {
                let max = usize::try_from(command.named_number("max", 500)).unwrap();
                ids(&self.lessor.expired(self.now, max))
            }
            "drain" => self.drain(command.named_number("step", 1)),
            name => panic!("unknown command {name}"),
        }
    }

    fn drain(&mut self, step: i64) -> String {
        let mut out = String::new();
        while !self.lessor.is_empty() {
            self.now += Duration::from_secs(u64::try_from(step).unwrap());
            let expired = self.lessor.expired(self.now, usize::MAX);
            out += &format!("{} at {}s\n", expired.len(), self.now.as_secs());
            for id in expired {
                self.lessor.revoke(id).unwrap();
            }
        }
        out
    }
}

#[test]
fn the_golden_scripts_hold() {
    golden::check("tests/golden", || {
        let options = Options { revoke_retry: Duration::from_secs(3) };
        let mut runner = Runner { lessor: Lessor::new(options), now: Duration::from_secs(100) };
        move |command: &Command| runner.run(command)
    });
}
