//! The loss of the leader, for streams whose clients want one (`hasleader`): they cannot notice by
//! themselves that a member that answers them has been cut off from the cluster.
//!
//! As in etcd, one look in an election timeout, and three in a row that find no leader end all such
//! streams. One task looks for all of them; it begins with the first stream and ends with the context.

use std::sync::OnceLock;

use keepd_node::Handle;
use tokio::sync::watch;

/// Looks in a row without a leader that end the streams.
const LOOKS_MAX: u32 = 3;

/// The one who looks, once somebody has asked.
#[derive(Debug, Default)]
pub(crate) struct LeaderWatch {
    /// The number of times that the leader was lost.
    losses: OnceLock<watch::Receiver<u64>>,
}

/// The loss of the leader after a point in time.
#[derive(Debug)]
pub(crate) struct LeaderLoss(watch::Receiver<u64>);

impl LeaderWatch {
    /// The next loss of the leader of a member. Called on a runtime.
    pub(crate) fn subscribe(&self, node: &Handle) -> LeaderLoss {
        let losses = self.losses.get_or_init(|| {
            let (sender, losses) = watch::channel(0);
            let (node, pause) = (node.clone(), node.options().election_timeout);
            // One whose data is not to be believed is as good as cut off.
            let has_leader = move || node.status().leader != 0 && !node.serves_nothing();
            tokio::spawn(async move { look(has_leader, pause, sender).await });
            losses
        });
        let mut losses = losses.clone();
        losses.mark_unchanged();
        LeaderLoss(losses)
    }
}

impl LeaderLoss {
    /// Completes when the leader is lost.
    pub(crate) async fn happens(mut self) {
        if self.0.changed().await.is_err() {
            // Nobody looks any more: the server has ended, which ends the streams otherwise.
            std::future::pending::<()>().await;
        }
    }
}

async fn look(
    has_leader: impl Fn() -> bool,
    pause: std::time::Duration,
    losses: watch::Sender<u64>,
) {
    let mut in_a_row = 0;
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = losses.closed() => return,
        }
        in_a_row = if has_leader() { 0 } else { in_a_row + 1 };
        if in_a_row >= LOOKS_MAX {
            losses.send_modify(|losses| *losses += 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn three_looks_without_a_leader_are_a_loss_and_two_are_not() {
        let (sender, losses) = watch::channel(0);
        let has_leader = Arc::new(AtomicBool::new(true));
        let seen = Arc::clone(&has_leader);
        let looking = tokio::spawn(look(
            move || seen.load(Ordering::Relaxed),
            Duration::from_secs(1),
            sender,
        ));
        let mut loss = Box::pin(LeaderLoss(losses.clone()).happens());
        let wait = |seconds| tokio::time::sleep(Duration::from_secs(seconds));
        for (leads, seconds) in [(true, 5), (false, 2), (true, 2), (false, 2)] {
            has_leader.store(leads, Ordering::Relaxed);
            wait(seconds).await;
            assert!(loss.as_mut().now_or_never().is_none());
        }
        wait(2).await;
        assert!(loss.as_mut().now_or_never().is_some(), "four seconds without a leader");
        drop((loss, losses));
        wait(2).await;
        assert!(looking.is_finished(), "nobody wants to know");
    }
}
