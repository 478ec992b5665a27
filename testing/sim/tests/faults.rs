//! Whole clusters under all faults at once: what clients were told stays true, and when the faults end
//! the cluster comes back within a stated time.
//!
//! `KEEPD_SIM_SEED=N` replays one seed, `KEEPD_SIM_SEEDS=N` and `KEEPD_SIM_FROM=N` choose how many and
//! from which on, `KEEPD_SIM_STRETCH=N` makes them longer; see docs/testing.md.

#![expect(clippy::panic, reason = "a failed run names its seed")]

use std::time::Duration;

use sim::{Report, Settings, Simulation};

/// Seeds of a run of the tests.
const SEEDS: u64 = 60;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn run(seed: u64) -> Report {
    let stretch = number("KEEPD_SIM_STRETCH").and_then(|number| u32::try_from(number).ok());
    let stretch = stretch.unwrap_or(1);
    let settings = Settings { stretch, ..Settings::default() };
    Simulation::run(seed, settings).unwrap_or_else(|failure| {
        let path = std::env::temp_dir().join(format!("keepd-sim-{seed}.txt"));
        // The reason is told also where the trace cannot be written.
        let written = std::fs::write(&path, &failure.trace);
        let trace = written.map_or_else(|error| error.to_string(), |()| path.display().to_string());
        panic!(
            "{failure}\nreplay: KEEPD_SIM_STRETCH={stretch} KEEPD_SIM_SEED={seed} \
             cargo test --release -p sim --test faults\ntrace: {trace}"
        )
    })
}

#[test]
fn nothing_that_was_promised_is_broken_by_any_fault() {
    if let Some(seed) = number("KEEPD_SIM_SEED") {
        println!("{:?}", run(seed));
        return;
    }
    let from = number("KEEPD_SIM_FROM").unwrap_or(0);
    let mut sum = Report::default();
    for seed in from..from + sim::seeds(SEEDS) {
        sum += run(seed);
    }
    println!("{sum}");
    assert!(sum.answered > sum.operations / 2, "clients are answered more often than not: {sum}");
    assert!(sum.states > 0 && sum.crashes > 0 && sum.elections > 0, "all of it happens: {sum}");
    assert!(sum.replaced > 0 && sum.forgot > 0 && sum.found > 0, "all of it happens: {sum}");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let settings = Settings { unsafe_time: Duration::from_secs(10), ..Settings::default() };
    let runs = || [5, 6].map(|seed| Simulation::run(seed, settings).expect("nothing is broken"));
    let (first, second) = (runs(), runs());
    assert_eq!(first, second);
    assert_ne!(first[0].digest, first[1].digest, "another seed gives another run");
}
