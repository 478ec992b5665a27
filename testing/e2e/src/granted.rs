//! Requests that are refused until the cluster is ready for them.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tonic::{Code, Status};

/// Time limit for a change of the membership: as in etcd, the members must have been connected for five
/// seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// Asks until it is granted: members connect, learners catch up, leaders are elected.
///
/// # Panics
/// If it is refused for another reason, or for too long.
pub async fn granted<T>(what: &str, ask: impl AsyncFn() -> Result<T, Status>) -> T {
    let began = Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => {
                let may_pass = matches!(error.code(), Code::Unavailable | Code::FailedPrecondition)
                    || error.code() == Code::DeadlineExceeded;
                assert!(may_pass && began.elapsed() < PATIENCE, "{what}: {error}");
            }
        }
        sleep(Duration::from_millis(100)).await;
    }
}
