//! The few requests that a member makes to a discovery service, over one connection to whichever of
//! its endpoints answers.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use keepd_api::etcdserverpb::auth_client::AuthClient;
use keepd_api::etcdserverpb::kv_client::KvClient;
use keepd_api::etcdserverpb::watch_client::WatchClient;
use keepd_api::etcdserverpb::watch_request::RequestUnion;
use keepd_api::etcdserverpb::{
    AuthenticateRequest, PutRequest, RangeRequest, WatchCreateRequest, WatchRequest, WatchResponse,
};
use keepd_api::mvccpb::KeyValue;
use keepd_cli::{Dialing, Target, prefix_end};
use keepd_env::Env;
use keepd_tls::{ClientTls, ClientTlsOptions};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

use super::Problem;
use crate::flags::{Discovery, DiscoveryIdentity, DiscoveryTls};

/// BOUND: members of one cluster that are asked for. etcd clusters have a handful.
const MEMBERS_MAX: i64 = 10_000;

/// A client of the service.
pub(super) struct Client {
    targets: Vec<Target>,
    dialing: Dialing,
    request_timeout: Duration,
    identity: Option<DiscoveryIdentity>,
    /// The connection, and the token to show on it.
    connected: Option<(Channel, Option<MetadataValue<Ascii>>)>,
    /// The endpoint that is tried next.
    next: usize,
}

impl Client {
    /// A client that is not connected yet.
    pub(super) fn new(env: &Env, discovery: &Discovery) -> Result<Self, Problem> {
        let setup = |error: keepd_tls::Error| Problem::Setup(error.to_string());
        let tls = tls(env, &discovery.tls).map_err(setup)?;
        let targets = discovery.endpoints.iter().map(|endpoint| Target::at(endpoint, tls.as_ref()));
        Ok(Self {
            targets: targets.collect::<Result<Vec<_>, _>>().map_err(setup)?,
            dialing: Dialing {
                timeout: discovery.dial_timeout,
                keepalive_time: discovery.keepalive_time,
                keepalive_timeout: discovery.keepalive_timeout,
            },
            request_timeout: discovery.request_timeout,
            identity: discovery.identity.clone(),
            connected: None,
            next: 0,
        })
    }

    /// The value of a key.
    pub(super) async fn get(&mut self, key: &str) -> Result<Option<Bytes>, String> {
        let range = RangeRequest { key: key.to_owned().into(), ..RangeRequest::default() };
        let answer =
            self.ask(range, async |channel, range| KvClient::new(channel).range(range).await);
        Ok(answer.await?.kvs.into_iter().next().map(|kv| kv.value))
    }

    /// The keys under a prefix, and the revision at which they were so.
    pub(super) async fn list(&mut self, prefix: &str) -> Result<(Vec<KeyValue>, i64), String> {
        let range = RangeRequest {
            key: prefix.to_owned().into(),
            range_end: prefix_end(prefix.as_bytes()),
            limit: MEMBERS_MAX,
            ..RangeRequest::default()
        };
        let answer =
            self.ask(range, async |channel, range| KvClient::new(channel).range(range).await);
        let answer = answer.await?;
        Ok((answer.kvs, answer.header.unwrap_or_default().revision))
    }

    /// Writes a key. After an error it may have been written, or not; writing it again is the same.
    pub(super) async fn put(&mut self, key: &str, value: &str) -> Result<(), String> {
        let put = PutRequest {
            key: key.to_owned().into(),
            value: value.to_owned().into(),
            ..PutRequest::default()
        };
        self.ask(put, async |channel, put| KvClient::new(channel).put(put).await).await?;
        Ok(())
    }

    /// Watches the keys under a prefix.
    pub(super) async fn watch(&mut self, prefix: &str, revision: i64) -> Result<Watch, String> {
        let create = WatchCreateRequest {
            key: prefix.to_owned().into(),
            range_end: prefix_end(prefix.as_bytes()),
            start_revision: revision,
            ..WatchCreateRequest::default()
        };
        let union = Some(RequestUnion::CreateRequest(create));
        let (requests_tx, requests_rx) = mpsc::channel(1);
        let sent = requests_tx.try_send(WatchRequest { request_union: union });
        sent.map_err(|_full| "a new channel takes one request".to_owned())?;
        let requests = ReceiverStream::new(requests_rx);
        let answers = self.ask(requests, async |channel, requests: Request<_>| {
            WatchClient::new(channel).watch(requests).await
        });
        Ok(Watch { _requests: requests_tx, answers: answers.await? })
    }

    /// Makes a request within its time. After an error the next one goes to the next endpoint.
    async fn ask<Q, A>(
        &mut self,
        message: Q,
        call: impl AsyncFnOnce(Channel, Request<Q>) -> Result<tonic::Response<A>, Status>,
    ) -> Result<A, String> {
        let limit = self.request_timeout;
        let asked = async {
            let (channel, token) = self.connection().await?;
            let mut request = Request::new(message);
            let metadata = request.metadata_mut();
            // A member of the service that is cut off from its leader is of no use.
            metadata.insert("hasleader", MetadataValue::from_static("true"));
            if let Some(token) = token {
                metadata.insert("token", token);
            }
            call(channel, request).await.map(tonic::Response::into_inner).map_err(told)
        };
        let answer = timeout(limit, asked).await;
        let answer = answer.unwrap_or_else(|_late| Err("context deadline exceeded".to_owned()));
        if answer.is_err() {
            self.connected = None;
            self.next += 1;
        }
        answer
    }

    async fn connection(&mut self) -> Result<(Channel, Option<MetadataValue<Ascii>>), String> {
        if let Some(connected) = &self.connected {
            return Ok(connected.clone());
        }
        let mut last_error = "etcdclient: no available endpoints".to_owned();
        for _ in 0..self.targets.len() {
            let target = &self.targets[self.next % self.targets.len()];
            match target.connect(self.dialing).await {
                Ok(channel) => {
                    let token = self.authenticate(channel.clone()).await?;
                    return Ok(self.connected.insert((channel, token)).clone());
                }
                Err(error) => last_error = format!("{}: {}", target.name, error.text),
            }
            self.next += 1;
        }
        Err(last_error)
    }

    async fn authenticate(&self, channel: Channel) -> Result<Option<MetadataValue<Ascii>>, String> {
        let token = match &self.identity {
            None => return Ok(None),
            Some(DiscoveryIdentity::Token(token)) => token.to_string(),
            Some(DiscoveryIdentity::User(name, password)) => {
                let (name, password) = (name.clone(), password.to_string());
                let request = AuthenticateRequest { name, password };
                match AuthClient::new(channel).authenticate(request).await {
                    Ok(answer) => answer.into_inner().token,
                    // A service without users lets everyone in.
                    Err(status) if status.message() == keepd_api::Error::AuthNotEnabled.text() => {
                        return Ok(None);
                    }
                    Err(status) => return Err(told(status)),
                }
            }
        };
        let token = token.parse().map_err(|_bad| "the token is not text".to_owned())?;
        Ok(Some(token))
    }
}

/// A watch at the service.
pub(super) struct Watch {
    /// The watch lasts as long as its requests can still come.
    _requests: mpsc::Sender<WatchRequest>,
    answers: Streaming<WatchResponse>,
}

impl Watch {
    /// The next changes.
    pub(super) async fn next(&mut self) -> Result<Vec<KeyValue>, String> {
        match self.answers.message().await.map_err(told)? {
            None => Err("the stream ended".to_owned()),
            Some(answer) if answer.canceled && answer.compact_revision != 0 => {
                Err(keepd_api::Error::Compacted.text().to_owned())
            }
            Some(answer) if answer.canceled => Err(answer.cancel_reason),
            Some(answer) => Ok(answer.events.into_iter().filter_map(|event| event.kv).collect()),
        }
    }
}

fn told(status: Status) -> String {
    format!("rpc error: code = {:?} desc = {}", status.code(), status.message())
}

/// The end of the range of all keys with a prefix, which is text.
/// The rule of etcd's clients: TLS if there is a file for it, or it is not said to be left out.
fn tls(env: &Env, options: &DiscoveryTls) -> Result<Option<Arc<ClientTls>>, keepd_tls::Error> {
    let has_files = options.cert_and_key_files.is_some()
        || options.trusted_ca_file.is_some()
        || options.server_name.is_some();
    if !has_files && options.is_insecure && !options.skips_verification {
        return Ok(None);
    }
    let tls = ClientTlsOptions {
        trusted_ca_file: options.trusted_ca_file.clone(),
        cert_and_key_files: options.cert_and_key_files.clone(),
        dangerously_skip_verification: options.skips_verification,
        server_name: options.server_name.clone(),
        alpn: vec![b"h2".to_vec()],
        ..ClientTlsOptions::default()
    };
    Ok(Some(Arc::new(ClientTls::new(tls, env)?)))
}
