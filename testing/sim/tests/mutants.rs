//! The simulator finds what it is there for: each mutant of the production code breaks an invariant within
//! the seeds that every run of the tests has. `cargo xtask test` builds and runs this with the feature
//! `mutants`.

use std::sync::atomic::{AtomicUsize, Ordering};

use keepd_env::mutants::{self, Mutant};
use sim::{Settings, Simulation};

/// Seeds in which a mutant must be found.
const SEEDS: u64 = 60;
/// Seeds without a mutant.
const CLEAN_SEEDS: u64 = 20;
/// Runs at the same time.
const THREADS: usize = 2;

/// The first seed in which a mutant breaks something, and what.
fn find(mutant: Mutant, seeds: u64) -> Option<String> {
    mutants::set(Some(mutant));
    let found = (0..seeds).find_map(|seed| Simulation::run(seed, Settings::default()).err());
    mutants::set(None);
    found.map(|failure| failure.to_string())
}

#[test]
fn every_mutant_is_found() {
    let chosen = std::env::var("KEEPD_SIM_MUTANT").ok();
    let seeds = std::env::var("KEEPD_SIM_SEEDS").ok().and_then(|seeds| seeds.parse().ok());
    let is_chosen = |mutant: &Mutant| chosen.as_ref().is_none_or(|it| *it == format!("{mutant:?}"));
    let all: Vec<Mutant> = Mutant::ALL.into_iter().filter(is_chosen).collect();
    assert!(!all.is_empty(), "no mutant is called {chosen:?}");
    // A mutant may make a member panic, which is how it is found then.
    std::panic::set_hook(Box::new(|_| {}));
    let next = AtomicUsize::new(0);
    let missed = std::thread::scope(|scope| {
        let search = || {
            let mut missed = Vec::new();
            while let Some(mutant) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                match find(*mutant, seeds.unwrap_or(SEEDS)) {
                    Some(failure) => {
                        let short: String = failure.chars().take(160).collect();
                        println!("{mutant:?}: {short}");
                    }
                    None => missed.push(*mutant),
                }
            }
            missed
        };
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(search)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("it only runs seeds")).collect()
    });
    let missed: Vec<Mutant> = missed;
    drop(std::panic::take_hook());
    assert!(missed.is_empty(), "not found within {} seeds: {missed:?}", seeds.unwrap_or(SEEDS));
}

/// The build with mutants is the production code as long as none is chosen.
#[test]
fn without_a_mutant_nothing_is_broken() {
    for seed in 0..CLEAN_SEEDS {
        let run = Simulation::run(seed, Settings::default());
        run.unwrap_or_else(|failure| panic!("{failure}"));
    }
}
