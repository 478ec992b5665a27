//! Election safety: a term has one leader at most.

use std::collections::BTreeMap;

use keepd_types::MemberId;

use super::{Verdict, verdict};

/// The leader of each term, as members named it.
#[derive(Debug, Default)]
pub struct ElectionSafety {
    leaders: BTreeMap<u64, u64>,
}

impl ElectionSafety {
    /// Takes in what a member knows; whether the term is new to the run.
    ///
    /// # Errors
    /// If another member leads in the term.
    pub fn observe(&mut self, member: MemberId, term: u64, leader: u64) -> Verdict {
        if leader == 0 {
            return Ok(());
        }
        let known = *self.leaders.entry(term).or_insert(leader);
        let found = if known == leader {
            Ok(())
        } else {
            let (known, leader) = (MemberId(known), MemberId(leader));
            Err(format!("{member} follows {leader} in term {term}, in which {known} leads"))
        };
        verdict("election_safety", found)
    }

    /// The number of elections.
    #[must_use]
    pub fn elections(&self) -> usize {
        self.leaders.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_leaders_of_a_term_are_found() {
        let mut safety = ElectionSafety::default();
        safety.observe(MemberId(1), 2, 1).unwrap();
        safety.observe(MemberId(2), 2, 0).unwrap();
        safety.observe(MemberId(2), 3, 2).unwrap();
        assert!(safety.observe(MemberId(2), 2, 2).is_err());
    }
}
