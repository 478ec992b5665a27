//! Claims of backup work: of members that see the same state one wins, all know which, and a change of the
//! leader or a restart changes nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use keepd_machine::claims::{self, BackupClaim, BackupTask, ClaimState};
use keepd_machine::{Command, levels, tables};
use sim::SimCluster;

const SECOND: Duration = Duration::from_secs(1);
/// Time in which a cluster with a quorum elects a leader.
const ELECTION: Duration = Duration::from_secs(20);
const SEEDS: u64 = 20;

/// The number of the claim in force and its member, as each running member has them.
fn known(cluster: &SimCluster) -> BTreeSet<(u64, u64)> {
    let of_member = |member| {
        let view = cluster.handle(member).view();
        let (number, claim) = claims::current(view.meta(tables::CLUSTER), BackupTask::Take)?;
        Some((number, claim.member.0))
    };
    (0..3).filter(|member| cluster.is_running(*member)).filter_map(of_member).collect()
}

/// Every running member claims work after the claim of a number.
fn all_claim(cluster: &mut SimCluster, after: u64) {
    let members: Vec<usize> = (0..3).filter(|member| cluster.is_running(*member)).collect();
    let mut clients = Vec::new();
    for member in members {
        let handle = cluster.handle(member);
        let client: sim::Client<'_> = Box::pin(async move {
            let claim = BackupClaim {
                moment: 1_795_000_000_000,
                attempt: 1,
                member: handle.identity().member,
                state: ClaimState::Held,
            };
            let command = Command::ClaimBackup { task: BackupTask::Take, after, claim };
            // Whether it was applied shows.
            let _unknown = handle.propose(command).await;
        });
        clients.push(client);
    }
    cluster.run(clients);
}

#[test]
fn of_members_that_claim_at_once_one_wins() {
    let mut winners = BTreeSet::new();
    for seed in 0..SEEDS {
        let mut cluster = SimCluster::new(seed, 3);
        cluster.start_all();
        cluster.run_until(ELECTION, |cluster| {
            let may_write = |member| cluster.handle(member).may_write(levels::BACKUP_CLAIM);
            cluster.leader().is_some() && (0..3).all(may_write)
        });
        all_claim(&mut cluster, 0);
        cluster.run_for(5 * SECOND, Vec::new());
        let first = known(&cluster);
        assert_eq!(first.len(), 1, "{}: {first:?}", cluster.context());
        assert!(first.iter().all(|(number, _)| *number == 1), "{first:?}");
        // Its holder goes, whoever that is; what it has claimed is followed by one of the others.
        let (_, holder) = *first.first().expect("there is one");
        let gone = (0..3).find(|member| cluster.id(*member).0 == holder).expect("a member");
        winners.insert(gone);
        cluster.kill(gone);
        cluster.run_until(ELECTION, |cluster| cluster.leader().is_some());
        all_claim(&mut cluster, 1);
        cluster.start(gone);
        cluster.run_until(ELECTION, |cluster| {
            let known = known(cluster);
            known.len() == 1 && known.iter().all(|(number, _)| *number == 2)
        });
        assert!(known(&cluster).iter().all(|(_, member)| *member != holder));
    }
    assert!(winners.len() > 1, "every run had the same winner");
}
