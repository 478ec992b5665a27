//! The commit index on its way to the followers: with the next batch, or alone when none is coming.

use raft::StateRole;
use raft::eraftpb::{self, MessageType};

use super::Core;

impl Core {
    /// Says whether the driver is about to propose: then the commit index goes to the followers with
    /// that batch, and they are not sent a message for it alone.
    pub const fn expect_batch(&mut self, is_coming: bool) {
        self.is_batch_coming = is_coming;
    }

    /// Tells the followers of what was committed since they were sent something.
    pub(super) fn announce_commit(&mut self) {
        let raft = &mut self.raw.raft;
        let commit = raft.raft_log.committed;
        if raft.state != StateRole::Leader || self.is_batch_coming || self.announced >= commit {
            return;
        }
        self.announced = commit;
        let own = raft.id;
        let others: Vec<u64> =
            raft.prs().iter().map(|(id, _)| *id).filter(|id| *id != own).collect();
        for to in others {
            // raft itself tells those whom it sends entries, and all in the middle of a change.
            let is_told = |message: &eraftpb::Message| {
                message.to == to
                    && message.get_msg_type() == MessageType::MsgAppend
                    && message.commit >= commit
            };
            if !raft.msgs.iter().any(is_told) {
                raft.send_append(to);
            }
        }
    }
}
