//! The service on a member that is alone: what it takes, and what it refuses in whose words.

use keepd_api::etcdserverpb::MoveLeaderRequest;
use keepd_env::ManualClock;
use sim::SimNetwork;
use tonic::Code;

use super::*;
use crate::{maintenance, testing};

const OWN: &str = "http://localhost:2380";
const LEARNER: &str = "http://127.0.0.1:2";

async fn add(context: &Arc<Context>, url: &str, is_learner: bool) -> Result<u64, Status> {
    let request = MemberAddRequest { peer_ur_ls: vec![url.to_owned()], is_learner };
    let answer = member_add(context, testing::call(context, request)).await?;
    let added = answer.member.expect("it is told");
    assert_eq!(answer.header.map(|header| header.revision), Some(0));
    assert!(answer.members.contains(&added) && answer.members.len() == 2);
    assert_eq!(added.peer_ur_ls, [url]);
    Ok(added.id)
}

async fn remove(context: &Arc<Context>, id: u64) -> Result<Vec<Member>, Status> {
    let call = testing::call(context, MemberRemoveRequest { id });
    Ok(member_remove(context, call).await?.members)
}

async fn update(context: &Arc<Context>, id: u64, url: &str) -> Result<Vec<Member>, Status> {
    let request = MemberUpdateRequest { id, peer_ur_ls: vec![url.to_owned()] };
    Ok(member_update(context, testing::call(context, request)).await?.members)
}

async fn promote(context: &Arc<Context>, id: u64) -> Result<Vec<Member>, Status> {
    let call = testing::call(context, MemberPromoteRequest { id });
    Ok(member_promote(context, call).await?.members)
}

async fn move_leader(context: &Arc<Context>, target_id: u64) -> Result<(), Status> {
    let call = testing::call(context, MoveLeaderRequest { target_id });
    maintenance::move_leader(context, call).await.map(|answer| assert_eq!(answer.header, None))
}

async fn list(context: &Arc<Context>) -> Vec<Member> {
    let request = MemberListRequest { linearizable: true };
    member_list(context, testing::call(context, request)).await.unwrap().members
}

fn refused<T: std::fmt::Debug>(result: Result<T, Status>) -> Api {
    Api::from_text(result.unwrap_err().message()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_learner_joins_is_not_ready_and_leaves_for_good() {
    let member = testing::member(None).await;
    let context = testing::context(&member);
    let own = member.handle().identity().member.0;
    let deaf = add(&context, LEARNER, true).await.unwrap_err();
    assert_eq!(deaf.code(), Code::Unimplemented, "nobody could join");
    let network = SimNetwork::new(1, ManualClock::new());
    member.handle().connect(network.of(member.handle().identity().member));
    let id = add(&context, LEARNER, true).await.unwrap();
    assert_eq!(refused(add(&context, OWN, true).await), Api::PeerUrlsExist);
    assert_eq!(refused(add(&context, "http://127.0.0.1:3", true).await), Api::TooManyLearners);
    assert_eq!(refused(promote(&context, id).await), Api::LearnerNotReady);
    assert_eq!(refused(promote(&context, own).await), Api::MemberNotLearner);
    assert_eq!(refused(promote(&context, 4711).await), Api::MemberNotFound);
    assert_eq!(refused(update(&context, own, LEARNER).await), Api::PeerUrlsExist);
    assert_eq!(refused(update(&context, 4711, "http://127.0.0.1:3").await), Api::MemberNotFound);
    let updated = update(&context, id, "not looked at").await.unwrap();
    assert_eq!(list(&context).await, updated);
    for target in [id, 4711] {
        assert_eq!(refused(move_leader(&context, target).await), Api::BadLeaderTransferee);
    }
    move_leader(&context, own).await.unwrap();
    let left = remove(&context, id).await.unwrap();
    assert_eq!(left.iter().map(|member| member.id).collect::<Vec<_>>(), [own]);
    assert_eq!(refused(remove(&context, id).await), Api::MemberNotFound);
    assert_eq!(refused(remove(&context, own).await), Api::NotEnoughStartedMembers);
    assert_eq!(list(&context).await, left);
    drop(context);
    member.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn peer_urls_are_whole_and_sorted() {
    for urls in [&[][..], &["localhost:1"], &["http://h"], &["http://h:1/path"], &["ftp://h:1"]] {
        let urls: Vec<String> = urls.iter().map(|url| (*url).to_owned()).collect();
        assert_eq!(refused(peer_urls(&urls)), Api::BadMemberUrls, "{urls:?}");
    }
    let urls = [" http://b:1".to_owned(), "http://a:1".to_owned()];
    assert_eq!(peer_urls(&urls).unwrap(), ["http://a:1", "http://b:1"]);
}
