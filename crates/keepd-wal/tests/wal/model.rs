//! Random scripts with restarts in between, against the model.

use keepd_crypto::FileKeys;
use keepd_env::SimDisk;
use proptest::prelude::*;

use super::world::{State, create, open, script, sealing};

fn check(seed: u64, steps: usize, restart_every: usize, keys: &FileKeys) {
    let disk = SimDisk::new();
    let mut wal = create(&disk, keys).unwrap();
    let mut state = State::default();
    for (step, op) in script(seed, steps).iter().enumerate() {
        op.run(&mut wal).unwrap();
        state = op.outcomes(&state).pop().unwrap();
        assert_eq!(wal.last_index(), state.last_index());
        assert_eq!(wal.hard_state(), state.hard_state);
        for index in 0..=state.last_index() + 1 {
            assert_eq!(wal.term(index), state.term(index), "term of {index}");
        }
        if step % restart_every == restart_every - 1 {
            if step % 2 == 0 {
                wal.close().unwrap();
            } else {
                drop(wal);
            }
            let (opened, recovered) = open(&disk, keys, seed ^ 7).unwrap();
            assert_eq!(State::of(&recovered), state);
            assert_eq!(recovered.torn_tail, None);
            wal = opened;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn a_restart_finds_what_was_appended(
        seed: u64,
        steps in 1_usize..120,
        restart_every in 1_usize..20,
        is_sealed: bool,
    ) {
        let keys = if is_sealed { sealing() } else { FileKeys::plain() };
        check(seed, steps, restart_every, &keys);
    }
}
