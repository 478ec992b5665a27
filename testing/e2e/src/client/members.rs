//! The cluster as a client sees and changes it.

use keepd_api::etcdserverpb as pb;
use pb::cluster_client::ClusterClient;
use pb::maintenance_client::MaintenanceClient;
use tonic::Status;
use tonic::transport::Channel;

use super::{Client, limited};

impl Client {
    fn cluster(&self) -> ClusterClient<Channel> {
        ClusterClient::new(self.channel.clone())
    }

    fn maintenance(&self) -> MaintenanceClient<Channel> {
        MaintenanceClient::new(self.channel.clone())
    }

    /// The state of the member.
    ///
    /// # Errors
    /// What the member answers.
    pub async fn status(&self) -> Result<pb::StatusResponse, Status> {
        Ok(self.maintenance().status(limited(pb::StatusRequest {})).await?.into_inner())
    }

    /// The hash of the store at a revision, 0 for the newest.
    ///
    /// # Errors
    /// What the member answers.
    pub async fn hash(&self, revision: i64) -> Result<u32, Status> {
        let request = limited(pb::HashKvRequest { revision });
        Ok(self.maintenance().hash_kv(request).await?.into_inner().hash)
    }

    /// The members whose space is short, by their NOSPACE alarms.
    ///
    /// # Errors
    /// What the member answers.
    pub async fn nospace(&self) -> Result<Vec<u64>, Status> {
        self.alarm(pb::alarm_request::AlarmAction::Get).await
    }

    /// Raises or clears the NOSPACE alarm of this member.
    ///
    /// # Errors
    /// What the member answers.
    pub async fn set_nospace(&self, is_short: bool) -> Result<(), Status> {
        let action = match is_short {
            true => pb::alarm_request::AlarmAction::Activate,
            false => pb::alarm_request::AlarmAction::Deactivate,
        };
        self.alarm(action).await.map(drop)
    }

    async fn alarm(&self, action: pb::alarm_request::AlarmAction) -> Result<Vec<u64>, Status> {
        let member_id = self.status().await?.header.map_or(0, |header| header.member_id);
        let alarm = pb::AlarmType::Nospace as i32;
        let request = pb::AlarmRequest { action: action as i32, member_id, alarm };
        let answer = self.maintenance().alarm(limited(request)).await?.into_inner();
        Ok(answer.alarms.into_iter().map(|alarm| alarm.member_id).collect())
    }

    /// Moves leadership to another member, as the leader is asked to.
    ///
    /// # Errors
    /// What the member answers.
    pub async fn move_leader(&self, target_id: u64) -> Result<(), Status> {
        self.maintenance().move_leader(limited(pb::MoveLeaderRequest { target_id })).await?;
        Ok(())
    }

    /// The members, as the whole cluster knows them.
    ///
    /// # Errors
    /// What the member answers.
    pub async fn members(&self) -> Result<Vec<pb::Member>, Status> {
        let request = limited(pb::MemberListRequest { linearizable: true });
        Ok(self.cluster().member_list(request).await?.into_inner().members)
    }

    /// Tells the cluster of a new member; returns its id.
    ///
    /// # Errors
    /// What the member answers.
    pub async fn add_member(&self, url: &str, is_learner: bool) -> Result<u64, Status> {
        let peer_ur_ls = vec![url.to_owned()];
        let request = limited(pb::MemberAddRequest { peer_ur_ls, is_learner });
        let answer = self.cluster().member_add(request).await?.into_inner();
        Ok(answer.member.map(|member| member.id).unwrap_or_default())
    }

    /// Makes a learner a voter.
    ///
    /// # Errors
    /// What the member answers.
    pub async fn promote_member(&self, id: u64) -> Result<(), Status> {
        self.cluster().member_promote(limited(pb::MemberPromoteRequest { id })).await?;
        Ok(())
    }

    /// Removes a member.
    ///
    /// # Errors
    /// What the member answers.
    pub async fn remove_member(&self, id: u64) -> Result<(), Status> {
        self.cluster().member_remove(limited(pb::MemberRemoveRequest { id })).await?;
        Ok(())
    }
}
