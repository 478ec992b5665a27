//! A member whose disk hangs does not lead, whatever else of it goes on, and says so.

use std::time::Duration;

use bytes::Bytes;
use keepd_machine::Command;
use keepd_machine::command::Put;
use keepd_node::PartName;
use keepd_types::StoredValue;
use sim::{Client, SimCluster};

const SECOND: Duration = Duration::from_secs(1);
/// Time in which a cluster with a quorum elects a leader.
const ELECTION: Duration = Duration::from_secs(20);

fn put(cluster: &SimCluster, member: usize) -> Client<'static> {
    let handle = cluster.handle(member);
    let value = StoredValue::plain(Bytes::from_static(b"v"));
    let put = Put { key: Bytes::from_static(b"k"), value, ..Put::default() };
    Box::pin(async move {
        // What comes of it is not told before the disk answers.
        let _done = handle.propose(Command::Put(put)).await;
    })
}

#[test]
fn a_leader_whose_disk_hangs_hands_over_and_says_so() {
    for seed in 0..10 {
        let mut cluster = SimCluster::new(seed, 3);
        cluster.start_all();
        cluster.run_until(ELECTION, |cluster| cluster.leader().is_some());
        cluster.run_for(2 * SECOND, Vec::new());
        let old = cluster.leader().expect("there is one");
        let hanging = cluster.handle(old);
        assert_eq!(hanging.stall(), None);
        cluster.hang(old, Some(PartName::Wal));
        let writes = vec![put(&cluster, old)];
        cluster.run_for(3 * SECOND, writes);
        let context = cluster.context();
        assert!(hanging.stall().is_some() && !hanging.leads(), "{context}");
        cluster.run_until(ELECTION, |cluster| cluster.leader().is_some_and(|it| it != old));
        // It takes writes, and the member that hangs does not come to lead.
        let new = cluster.leader().expect("it was just seen");
        let before = cluster.handle(new).view().revision();
        let writes = vec![put(&cluster, new)];
        cluster.run_for(10 * SECOND, writes);
        assert!(cluster.handle(new).view().revision() > before, "{context}");
        assert!(hanging.stall().is_some() && !hanging.leads(), "{context}");
        cluster.hang(old, None);
        cluster.run_until(ELECTION, |cluster| {
            let applied = |member| cluster.handle(member).view().applied();
            cluster.handle(old).stall().is_none() && applied(old) == applied(new)
        });
    }
}
