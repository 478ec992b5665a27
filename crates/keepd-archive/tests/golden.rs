//! Golden files: what retention keeps of a year of backups.

#![expect(clippy::unwrap_used, clippy::panic, reason = "what is wrong fails the test")]

use keepd_archive::Moment;
use keepd_archive::name::Kind;
use keepd_archive::retention::{Candidate, Policy};
use testkit::golden::{self, Command};

struct Runner {
    candidates: Vec<Candidate>,
}

impl Runner {
    fn run(&mut self, command: &Command) -> String {
        match command.name.as_str() {
            "forget" => {
                self.candidates.clear();
                String::new()
            }
            // backup TIME [ondemand] [unproven]
            "backup" => {
                let time: Moment = command.word(0).parse().unwrap();
                self.add(time, command);
                String::new()
            }
            // every=MINUTES count=N until=TIME
            "backups" => {
                let until: Moment = command.named("until").unwrap().parse().unwrap();
                let step = command.named_number("every", 60) * 60_000;
                for number in (0..command.named_number("count", 1)).rev() {
                    self.add(Moment::of_millis(until.millis() - number * step), command);
                }
                String::new()
            }
            "judge" => {
                let number = |name| u32::try_from(command.named_number(name, 0)).unwrap();
                let policy = Policy {
                    last: number("last"),
                    within: std::time::Duration::from_secs(u64::from(number("hours")) * 3600),
                    hourly: number("hourly"),
                    daily: number("daily"),
                    weekly: number("weekly"),
                    monthly: number("monthly"),
                };
                let now: Moment = command.named("now").unwrap().parse().unwrap();
                let judged = policy.judge(now, &self.candidates);
                let kept = self.candidates.iter().zip(judged).filter(|(_, why)| !why.is_empty());
                let lines: Vec<String> = kept
                    .map(|(it, why)| {
                        let why: Vec<&str> = why.iter().map(|reason| reason.text()).collect();
                        format!("{}: {}", it.time, why.join(", "))
                    })
                    .collect();
                lines.join("\n")
            }
            other => panic!("unknown command {other}"),
        }
    }

    fn add(&mut self, time: Moment, command: &Command) {
        let kind = if command.has("ondemand") { Kind::OnDemand } else { Kind::Scheduled };
        let is_proven = !command.has("unproven");
        self.candidates.push(Candidate { time, kind, is_proven });
    }
}

#[test]
fn retention_keeps_what_the_table_says() {
    golden::check("tests/golden/retention.txt", || {
        let mut runner = Runner { candidates: Vec::new() };
        move |command: &Command| runner.run(command)
    });
}
