//! Whether this member's data is to be believed, as those see it who serve clients.
//!
//! In a cluster a member whose data differs from the majority's serves nothing: it found that out
//! itself, or the alarm CORRUPT stands for it or for the whole cluster. A member that is alone goes on
//! reading under the alarm, as etcd does.

use std::sync::atomic::{AtomicBool, Ordering};

use keepd_machine::command::{ALARM_CORRUPT, Alarm};
use keepd_types::MemberId;

/// The member that stands for the whole cluster in an alarm.
const WHOLE_CLUSTER: MemberId = MemberId(0);

#[derive(Debug, Default)]
pub(crate) struct Corruption {
    /// This member found by itself that it differs from the majority.
    is_different: AtomicBool,
    /// The alarm stands for this member, and there are others.
    is_accused: AtomicBool,
    /// The alarm stands for the whole cluster, and there are others.
    is_everywhere: AtomicBool,
}

impl Corruption {
    /// This member differs; whether that is news.
    pub(crate) fn differs(&self) -> bool {
        !self.is_different.swap(true, Ordering::AcqRel)
    }

    /// Another member's data has taken the place of this one's.
    pub(crate) fn is_replaced(&self) {
        self.is_different.store(false, Ordering::Release);
    }

    /// Whether this member found by itself that it differs.
    pub(crate) fn is_different(&self) -> bool {
        self.is_different.load(Ordering::Acquire)
    }

    /// The alarms have changed. An operator who clears this member's has it compared anew.
    pub(crate) fn note_alarms(&self, old: &[Alarm], new: &[Alarm], own: MemberId, is_alone: bool) {
        let stands = |alarms: &[Alarm], member| {
            !is_alone && alarms.contains(&Alarm { member, kind: ALARM_CORRUPT })
        };
        self.is_accused.store(stands(new, own), Ordering::Release);
        self.is_everywhere.store(stands(new, WHOLE_CLUSTER), Ordering::Release);
        if stands(old, own) && !stands(new, own) {
            self.is_different.store(false, Ordering::Release);
        }
    }

    /// Whether it is this member that is not to be believed, and so must not lead.
    pub(crate) fn is_own(&self) -> bool {
        self.is_different() || self.is_accused.load(Ordering::Acquire)
    }

    /// Whether this member serves nothing.
    pub(crate) fn serves_nothing(&self) -> bool {
        self.is_own() || self.is_everywhere.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_serves_nothing_while_it_is_accused_and_leads_again_when_that_ends() {
        let (own, corruption) = (MemberId(7), Corruption::default());
        let alarm = |member| vec![Alarm { member, kind: ALARM_CORRUPT }];
        let sees = || (corruption.is_own(), corruption.serves_nothing());
        assert_eq!(sees(), (false, false));
        assert!(corruption.differs() && !corruption.differs());
        assert_eq!(sees(), (true, true));
        corruption.note_alarms(&[], &alarm(own), own, false);
        corruption.note_alarms(&alarm(own), &[], own, false);
        assert_eq!(sees(), (false, false), "it is compared anew");
        corruption.note_alarms(&[], &alarm(MemberId(8)), own, false);
        assert_eq!(sees(), (false, false), "another one's");
        corruption.note_alarms(&[], &alarm(WHOLE_CLUSTER), own, false);
        assert_eq!(sees(), (false, true), "somebody has to lead");
        corruption.note_alarms(&[], &alarm(own), own, true);
        assert_eq!(sees(), (false, false), "alone it reads on");
    }
}
