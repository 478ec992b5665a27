//! Leadership as the member's parts see it: a role *and* its term, each number written by one
//! part only.
//!
//! The Raft part says in which term this member leads; the apply part says in which term it has
//! taken over, which is when the leader's first entry is applied and visible. Only where both name
//! the same term does this member act as the leader: a stale "leads" beside a new term, or a state
//! that lacks what earlier terms committed, can never be taken for it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use keepd_types::Term;

/// No term: Raft's first one is 1.
const NONE: u64 = 0;

/// The terms in which this member leads, as each thread knows them.
#[derive(Debug, Default)]
pub(crate) struct Leadership {
    /// By the Raft part: the term that this member leads in.
    leads_in: AtomicU64,
    /// By the Raft part: the term that this member leads in as the only voter.
    leads_alone_in: AtomicU64,
    /// By the apply part: the last term whose first entry is applied and published.
    taken_over_in: AtomicU64,
    /// Set once, by whoever stops the member.
    is_over: AtomicBool,
}

impl Leadership {
    /// The Raft part's word.
    ///
    /// INVARIANT: a membership change that adds a voter is told here before it is applied.
    pub(crate) fn publish(&self, leads_in: Option<Term>, is_alone: bool) {
        let number = |term: Option<Term>| term.map_or(NONE, |term| term.0);
        self.leads_alone_in.store(number(leads_in.filter(|_| is_alone)), Ordering::SeqCst);
        self.leads_in.store(number(leads_in), Ordering::SeqCst);
    }

    /// The apply part's word.
    ///
    /// ORDER: after the view is published that holds what earlier terms committed.
    pub(crate) fn take_over(&self, term: Term) {
        self.taken_over_in.store(term.0, Ordering::SeqCst);
    }

    /// Nothing is acknowledged or read from here on.
    pub(crate) fn end(&self) {
        self.is_over.store(true, Ordering::SeqCst);
    }

    /// The term in which this member leads and has taken over.
    pub(crate) fn term(&self) -> Option<Term> {
        self.confirmed(&self.leads_in)
    }

    /// Whether every acknowledged write is in the published view, so that a linearizable read needs
    /// no round: a lone voter acknowledges after publishing, and nobody else can commit.
    pub(crate) fn serves_reads_locally(&self) -> bool {
        self.confirmed(&self.leads_alone_in).is_some()
    }

    fn confirmed(&self, leads_in: &AtomicU64) -> Option<Term> {
        let term = leads_in.load(Ordering::SeqCst);
        let is_confirmed = term != NONE
            && self.taken_over_in.load(Ordering::SeqCst) == term
            && !self.is_over.load(Ordering::SeqCst);
        is_confirmed.then_some(Term(term))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_is_one_whose_term_both_threads_name() {
        let leadership = Leadership::default();
        let sees = || (leadership.term(), leadership.serves_reads_locally());
        assert_eq!(sees(), (None, false));
        leadership.publish(Some(Term(5)), true);
        assert_eq!(sees(), (None, false), "what earlier terms committed is not visible yet");
        leadership.take_over(Term(5));
        assert_eq!(sees(), (Some(Term(5)), true));
        // Lost and won again between two looks of the apply part.
        leadership.publish(Some(Term(7)), true);
        assert_eq!(sees(), (None, false));
        leadership.take_over(Term(7));
        assert_eq!(sees(), (Some(Term(7)), true));
        leadership.publish(Some(Term(7)), false);
        assert_eq!(sees(), (Some(Term(7)), false), "another votes");
        leadership.publish(None, false);
        // The apply part is late.
        leadership.take_over(Term(7));
        assert_eq!(sees(), (None, false));
    }

    #[test]
    fn a_member_that_ended_leads_nothing_whatever_is_published_afterwards() {
        let leadership = Leadership::default();
        leadership.end();
        leadership.publish(Some(Term(5)), true);
        leadership.take_over(Term(5));
        assert_eq!((leadership.term(), leadership.serves_reads_locally()), (None, false));
    }
}
