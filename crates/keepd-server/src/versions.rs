//! The cluster's version, and its way back to the one before: Maintenance's `Downgrade`.
//!
//! As in etcd a downgrade is a word of the cluster: once it is given, the leader lowers the cluster
//! version, members are replaced one by one, and when all run the target it is over.

use std::sync::Arc;

use keepd_api::Error as Api;
use keepd_api::etcdserverpb::downgrade_request::DowngradeAction;
use keepd_api::etcdserverpb::{DowngradeInfo, DowngradeRequest, DowngradeResponse};
use keepd_machine::{ClusterFacts, Command, levels};
use keepd_types::version::{STORAGE_VERSION, Version};
use tonic::Status;

use crate::context::Context;
use crate::errors;
use crate::grpc::call::Call;

/// The version of the storage schema before this one.
const STORAGE_VERSION_BEFORE: &str = "3.6.0";

/// The cluster version in two numbers; `None` before it is decided.
pub(crate) fn cluster(facts: &ClusterFacts) -> Option<String> {
    let Version { major, minor } = facts.version.as_deref().and_then(Version::parse)?;
    Some(format!("{major}.{minor}"))
}

/// The version of the storage schema: it goes back with the cluster version.
pub(crate) fn storage(facts: &ClusterFacts) -> &'static str {
    match facts.version.as_deref() {
        Some(STORAGE_VERSION_BEFORE) => STORAGE_VERSION_BEFORE,
        _ => STORAGE_VERSION,
    }
}

/// The downgrade that is under way, as Status has it.
pub(crate) fn downgrade_info(facts: &ClusterFacts) -> DowngradeInfo {
    let enabled = facts.downgrade.is_some();
    DowngradeInfo { enabled, target_version: facts.downgrade.clone().unwrap_or_default() }
}

/// Answers whether the cluster may be downgraded, begins it, or ends it.
pub(crate) async fn downgrade(
    context: &Arc<Context>,
    call: Call<DowngradeRequest>,
) -> Result<DowngradeResponse, Status> {
    let DowngradeRequest { action, version } = call.request;
    match DowngradeAction::try_from(action) {
        Ok(DowngradeAction::Validate) => {
            validate(context, &version).await?;
        }
        Ok(DowngradeAction::Enable) => {
            let target = validate(context, &version).await?.to_string();
            set(context, Some(target)).await?;
        }
        Ok(DowngradeAction::Cancel) => {
            // As in etcd it never fails, whatever becomes of it.
            if let Err(status) = set(context, None).await {
                tracing::error!(error = status.message(), "failed to cancel downgrade");
            }
        }
        Err(_unknown) => return Err(Status::unknown("etcdserver: unknown method")),
    }
    let version = cluster(&context.node.cluster_facts()).unwrap_or_default();
    Ok(DowngradeResponse { header: Some(context.current_header()), version })
}

/// The version that the cluster may go back to, if it is this one.
async fn validate(context: &Arc<Context>, target: &str) -> Result<Version, Status> {
    let target = Version::parse(target).ok_or(Api::DowngradeVersionFormat)?;
    context.view(false).await?;
    let facts = context.node.cluster_facts();
    let version = facts.version.as_deref().and_then(Version::parse);
    let version = version.ok_or(Api::DowngradeNoClusterVersion)?;
    if version.below() != Some(target) {
        return Err(Api::DowngradeVersionInvalid.into());
    }
    if facts.downgrade.is_some() {
        return Err(Api::DowngradeInProcess.into());
    }
    Ok(target)
}

async fn set(context: &Arc<Context>, target: Option<String>) -> Result<(), Status> {
    if !context.node.may_write(levels::DOWNGRADE) {
        return Err(Status::failed_precondition(
            "keepd: not all members have said that they know of downgrades; check that all are \
             connected and run this version",
        ));
    }
    let done = context.propose(Command::SetDowngrade { target }).await?;
    done.outcome.result.map(drop).map_err(errors::apply)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::testing;

    async fn ask(context: &Arc<Context>, action: i32, version: &str) -> Result<String, String> {
        let request = DowngradeRequest { action, version: version.to_owned() };
        let answer = downgrade(context, testing::call(context, request)).await;
        answer.map(|answer| answer.version).map_err(|status| status.message().to_owned())
    }

    /// Waits until the leader has moved the cluster version.
    async fn moved_to(context: &Arc<Context>, version: &str) {
        let now = || context.node.env().clock.monotonic();
        let limit = now() + Duration::from_secs(60);
        while cluster(&context.node.cluster_facts()).as_deref() != Some(version) {
            assert!(now() < limit, "the cluster version does not become {version}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_downgrade_goes_one_version_back_and_ends_when_it_is_cancelled() {
        const VALIDATE: i32 = DowngradeAction::Validate as i32;
        const ENABLE: i32 = DowngradeAction::Enable as i32;
        const CANCEL: i32 = DowngradeAction::Cancel as i32;
        let member = testing::member(None).await;
        let context = testing::context(&member);
        let refusal = |error: Api| Err(error.text().to_owned());
        let seven = Ok("3.7".to_owned());
        for action in [VALIDATE, ENABLE] {
            let format = refusal(Api::DowngradeVersionFormat);
            assert_eq!(ask(&context, action, "three").await, format);
            for target in ["3.5", "3.7", "3.8.0", "2.6"] {
                let answer = ask(&context, action, target).await;
                assert_eq!(answer, refusal(Api::DowngradeVersionInvalid), "{target}");
            }
        }
        assert_eq!(ask(&context, 7, "3.6").await, Err("etcdserver: unknown method".to_owned()));
        assert_eq!(ask(&context, VALIDATE, "3.6.12").await, seven);
        assert_eq!(ask(&context, CANCEL, "").await, seven, "there is nothing to cancel");
        assert_eq!(storage(&context.node.cluster_facts()), "3.7.0");

        ask(&context, ENABLE, "3.6").await.unwrap();
        moved_to(&context, "3.6").await;
        let facts = context.node.cluster_facts();
        let target_version = "3.6.0".to_owned();
        assert_eq!(downgrade_info(&facts), DowngradeInfo { enabled: true, target_version });
        assert_eq!(storage(&facts), "3.6.0");
        assert_eq!(ask(&context, VALIDATE, "3.5").await, refusal(Api::DowngradeInProcess));

        ask(&context, CANCEL, "").await.unwrap();
        moved_to(&context, "3.7").await;
        assert_eq!(downgrade_info(&context.node.cluster_facts()), DowngradeInfo::default());
        member.stop().await;
    }
}
