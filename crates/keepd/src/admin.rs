//! A running cluster as the verbs that change its membership see it: whichever endpoint answers, each
//! request within its time, and again where a change of the membership may pass.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use keepd_api::etcdserverpb as pb;
use keepd_cli::{Dialing, Target};
use keepd_env::Env;
use keepd_tls::{ClientTls, ClientTlsOptions};
use pb::cluster_client::ClusterClient;
use pb::maintenance_client::MaintenanceClient;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

/// BOUND: time of one request.
const REQUEST_MAX: Duration = Duration::from_secs(10);
/// BOUND: time for which a change that may pass is asked for again: as in etcd, members must have been
/// connected for five seconds before one is changed.
const CHANGE_MAX: Duration = Duration::from_secs(60);
/// BOUND: time for which the members are asked for: an election takes a few seconds.
const LIST_MAX: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(500);
const DIALING: Dialing = Dialing {
    timeout: Duration::from_secs(5),
    keepalive_time: Duration::from_secs(10),
    keepalive_timeout: Duration::from_secs(6),
};

/// The way to a cluster, on a command line.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct AccessArguments {
    /// Members to ask.
    #[arg(long, value_name = "URLS", value_delimiter = ',')]
    pub(crate) endpoints: Vec<String>,
    /// The CA of their certificates.
    #[arg(long, value_name = "FILE")]
    pub(crate) cacert: Option<PathBuf>,
    /// The certificate to show to them.
    #[arg(long, value_name = "FILE", requires = "key")]
    pub(crate) cert: Option<PathBuf>,
    /// Its key.
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub(crate) key: Option<PathBuf>,
}

impl AccessArguments {
    /// The same, with what is not given taken from etcdctl's variables.
    pub(crate) fn or_environment(&self) -> Self {
        let variable = |name: &str| {
            let value = std::env::var(format!("ETCDCTL_{name}")).unwrap_or_default();
            (!value.is_empty()).then_some(value)
        };
        let file = |given: &Option<PathBuf>, name| {
            given.clone().or_else(|| variable(name).map(PathBuf::from))
        };
        let endpoints = if self.endpoints.is_empty() {
            let list = variable("ENDPOINTS").unwrap_or_default();
            let list = list.split(',').map(str::trim).filter(|endpoint| !endpoint.is_empty());
            list.map(str::to_owned).collect()
        } else {
            self.endpoints.clone()
        };
        Self {
            endpoints,
            cacert: file(&self.cacert, "CACERT"),
            cert: file(&self.cert, "CERT"),
            key: file(&self.key, "KEY"),
        }
    }
}

/// A cluster that is asked.
pub(crate) struct Cluster {
    endpoints: Vec<String>,
    tls: Option<Arc<ClientTls>>,
    /// The endpoint that is tried next.
    next: usize,
    connected: Option<Channel>,
}

/// Failure of a request.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// A member's answer.
    #[error("{}", .0.message())]
    Refused(Status),
    /// No endpoint can be connected to.
    #[error("no endpoint answers: {0}")]
    Unreachable(String),
    /// No answer in time.
    #[error("no answer within {REQUEST_MAX:?}")]
    Late,
}

impl AskError {
    /// Whether the same request may succeed later: a leader is elected, members connect.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Refused(status) => {
                let is_unhealthy = [
                    keepd_api::Error::Unhealthy.text(),
                    keepd_api::Error::NotEnoughStartedMembers.text(),
                ];
                matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded)
                    || is_unhealthy.contains(&status.message())
            }
            Self::Unreachable(_) | Self::Late => true,
        }
    }

    /// Whether a member refused for this reason.
    pub(crate) fn is(&self, reason: keepd_api::Error) -> bool {
        matches!(self, Self::Refused(status) if status.message() == reason.text())
    }
}

impl Cluster {
    /// A cluster that is not connected to yet.
    pub(crate) fn new(env: &Env, access: &AccessArguments) -> anyhow::Result<Self> {
        let has_files = access.cacert.is_some() || access.cert.is_some();
        let tls = ClientTlsOptions {
            trusted_ca_file: access.cacert.clone(),
            cert_and_key_files: access.cert.clone().zip(access.key.clone()),
            alpn: vec![b"h2".to_vec()],
            ..ClientTlsOptions::default()
        };
        let tls = if has_files { Some(Arc::new(ClientTls::new(tls, env)?)) } else { None };
        let endpoints = if access.endpoints.is_empty() {
            vec!["http://127.0.0.1:2379".to_owned()]
        } else {
            access.endpoints.clone()
        };
        Ok(Self { endpoints, tls, next: 0, connected: None })
    }

    /// The members, as a majority knows them, and the cluster's id.
    pub(crate) async fn members(&mut self) -> Result<(u64, Vec<pb::Member>), AskError> {
        let answer = self
            .again(LIST_MAX, async |channel| {
                let request = pb::MemberListRequest { linearizable: true };
                ClusterClient::new(channel).member_list(limited(request)).await
            })
            .await?;
        Ok((answer.header.unwrap_or_default().cluster_id, answer.members))
    }

    /// Adds a learner; its id, and all members. It is asked for once where the answer was lost: whoever
    /// calls looks for it among the members then.
    pub(crate) async fn add_learner(
        &mut self,
        peer_urls: &[String],
    ) -> Result<(u64, Vec<pb::Member>), AskError> {
        let answer = self
            .again(CHANGE_MAX, async |channel| {
                let request =
                    pb::MemberAddRequest { peer_ur_ls: peer_urls.to_vec(), is_learner: true };
                ClusterClient::new(channel).member_add(limited(request)).await
            })
            .await;
        match answer {
            Ok(answer) => Ok((answer.member.unwrap_or_default().id, answer.members)),
            // A lost answer: it was added, by the time before.
            Err(error) if error.is(keepd_api::Error::PeerUrlsExist) => {
                let (_, members) = self.members().await?;
                let urls = sorted(peer_urls);
                let own = members.iter().find(|it| {
                    it.is_learner && it.name.is_empty() && sorted(&it.peer_ur_ls) == urls
                });
                let id = own.map(|own| own.id).ok_or(error)?;
                Ok((id, members))
            }
            Err(error) => Err(error),
        }
    }

    /// Removes a member; one that is gone already is no error.
    pub(crate) async fn remove(&mut self, id: u64) -> Result<(), AskError> {
        let removed = self
            .again(CHANGE_MAX, async |channel| {
                let request = limited(pb::MemberRemoveRequest { id });
                ClusterClient::new(channel).member_remove(request).await
            })
            .await;
        match removed {
            Err(error) if !error.is(keepd_api::Error::MemberNotFound) => Err(error),
            _ => Ok(()),
        }
    }

    /// Asks once to make a learner a voter.
    pub(crate) async fn promote(&mut self, id: u64) -> Result<(), AskError> {
        self.ask(async |channel| {
            let request = limited(pb::MemberPromoteRequest { id });
            ClusterClient::new(channel).member_promote(request).await
        })
        .await
        .map(drop)
    }

    /// Clears the alarm CORRUPT of a member.
    pub(crate) async fn disarm_corrupt(&mut self, member: u64) -> Result<(), AskError> {
        self.again(CHANGE_MAX, async |channel| {
            let request = pb::AlarmRequest {
                action: pb::alarm_request::AlarmAction::Deactivate.into(),
                member_id: member,
                alarm: pb::AlarmType::Corrupt.into(),
            };
            MaintenanceClient::new(channel).alarm(limited(request)).await
        })
        .await
        .map(drop)
    }

    /// The state of each endpoint that answers, and of each other member by its client URLs.
    pub(crate) async fn statuses(&self, members: &[pb::Member]) -> Vec<pb::StatusResponse> {
        let mut answers: Vec<pb::StatusResponse> = Vec::new();
        for endpoint in &self.endpoints {
            answers.extend(self.status_at(endpoint).await);
        }
        for member in members {
            for url in &member.client_ur_ls {
                let is_known = |answer: &pb::StatusResponse| id_of(answer) == member.id;
                if !answers.iter().any(is_known) {
                    answers.extend(self.status_at(url).await);
                }
            }
        }
        answers.sort_by_key(id_of);
        answers.dedup_by_key(|answer| id_of(answer));
        answers
    }

    /// The endpoints that answer, with the status of the member there, in the order that they were given in.
    pub(crate) async fn at_endpoints(&self) -> Vec<(String, pb::StatusResponse)> {
        let mut answers = Vec::new();
        for endpoint in &self.endpoints {
            let answer = self.status_at(endpoint).await;
            answers.extend(answer.map(|answer| (endpoint.clone(), answer)));
        }
        answers
    }

    /// A connection to one endpoint.
    pub(crate) async fn channel_to(&self, endpoint: &str) -> Result<Channel, AskError> {
        let failed = |reason| AskError::Unreachable(format!("{endpoint}: {reason}"));
        self.connect(endpoint).await.map_err(failed)
    }

    async fn status_at(&self, endpoint: &str) -> Option<pb::StatusResponse> {
        let channel = self.connect(endpoint).await.ok()?;
        let mut client = MaintenanceClient::new(channel);
        let asked = client.status(limited(pb::StatusRequest {}));
        Some(timeout(REQUEST_MAX, asked).await.ok()?.ok()?.into_inner())
    }

    /// Asks until it is granted, refused for good, or too late.
    async fn again<A>(
        &mut self,
        time_max: Duration,
        call: impl AsyncFn(Channel) -> Result<tonic::Response<A>, Status>,
    ) -> Result<A, AskError> {
        let asking = async {
            loop {
                match self.ask(&call).await {
                    Err(error) if error.may_pass() => tokio::time::sleep(PAUSE).await,
                    answer => return answer,
                }
            }
        };
        let ended = timeout(time_max, asking).await;
        match ended {
            Ok(answer) => answer,
            // The reason is in the last answer.
            Err(_late) => self.ask(&call).await,
        }
    }

    pub(crate) async fn ask<A>(
        &mut self,
        call: impl AsyncFnOnce(Channel) -> Result<tonic::Response<A>, Status>,
    ) -> Result<A, AskError> {
        let channel = self.channel().await?;
        let answer = match timeout(REQUEST_MAX, call(channel)).await {
            Ok(Ok(answer)) => return Ok(answer.into_inner()),
            Ok(Err(status)) => AskError::Refused(status),
            Err(_elapsed) => AskError::Late,
        };
        if answer.may_pass() {
            self.connected = None;
            self.next += 1;
        }
        Err(answer)
    }

    pub(crate) async fn channel(&mut self) -> Result<Channel, AskError> {
        if let Some(channel) = &self.connected {
            return Ok(channel.clone());
        }
        let mut reasons = Vec::new();
        for _ in 0..self.endpoints.len() {
            let endpoint = &self.endpoints[self.next % self.endpoints.len()];
            match self.connect(endpoint).await {
                Ok(channel) => return Ok(self.connected.insert(channel).clone()),
                Err(reason) => reasons.push(format!("{endpoint}: {reason}")),
            }
            self.next += 1;
        }
        Err(AskError::Unreachable(reasons.join("; ")))
    }

    async fn connect(&self, endpoint: &str) -> Result<Channel, String> {
        let target = Target::at(endpoint, self.tls.as_ref()).map_err(|error| error.to_string())?;
        target.connect(DIALING).await.map_err(|error| error.text)
    }
}

/// The member that answered.
pub(crate) fn id_of(status: &pb::StatusResponse) -> u64 {
    status.header.map_or(0, |header| header.member_id)
}

/// URLs in an order of their own.
pub(crate) fn sorted(urls: &[String]) -> Vec<String> {
    let mut urls = urls.to_vec();
    urls.sort_unstable();
    urls
}

/// A request that the server drops once nobody waits for it.
fn limited<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(REQUEST_MAX);
    request
}
