//! The versions of a key that a running cluster still has: what a watch tells from the oldest revision on.

use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use keepd_api::etcdserverpb as pb;
use keepd_api::mvccpb::event::EventType;
use pb::watch_client::WatchClient;
use pb::watch_request::RequestUnion;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_stream::wrappers::ReceiverStream;

use super::live::{ANSWER_BYTES_MAX, Live};
use super::state::{Content, Version, Versions};

/// BOUND: the time for all of it.
const TIME_MAX: Duration = Duration::from_secs(60);
/// Between two questions how far the watch has come: a server leaves them unanswered until it is there.
const ASK_INTERVAL: Duration = Duration::from_millis(100);
/// BOUND: requests that wait to be sent.
const REQUESTS_MAX: usize = 4;

/// The versions of a key that the cluster still has.
pub(super) fn of(live: &Live, key: &Bytes) -> anyhow::Result<Versions> {
    let channel = live.channel()?;
    let watched = live.runtime().block_on(async {
        let all = async {
            let mut start = 1;
            loop {
                let mut watch = Watch::begin(&channel, key, start).await?;
                match watch.read(live.revision()).await? {
                    Read::All(versions) => return anyhow::Ok((start, versions)),
                    Read::Compacted(at) => start = at,
                }
            }
        };
        timeout(TIME_MAX, all)
            .await
            .context("the cluster does not tell the key's changes in time")?
    });
    let (start, mut versions) = watched?;
    if start > 1 {
        // What a compaction has left of the time before.
        let request = pb::RangeRequest { key: key.clone(), revision: start, ..Default::default() };
        if let Some(kept) = live.range(request)?.kvs.into_iter().next() {
            versions.push_before(version_of(kept));
        }
    }
    Ok(versions)
}

enum Read {
    All(Versions),
    /// The oldest revision that is left.
    Compacted(i64),
}

struct Watch {
    requests: mpsc::Sender<pb::WatchRequest>,
    answers: tonic::Streaming<pb::WatchResponse>,
}

impl Watch {
    async fn begin(
        channel: &tonic::transport::Channel,
        key: &Bytes,
        start_revision: i64,
    ) -> anyhow::Result<Self> {
        let (requests, queue) = mpsc::channel(REQUESTS_MAX);
        let create =
            pb::WatchCreateRequest { key: key.clone(), start_revision, ..Default::default() };
        requests.send(request(RequestUnion::CreateRequest(create))).await?;
        let client = WatchClient::new(channel.clone());
        let mut client = client.max_decoding_message_size(ANSWER_BYTES_MAX);
        let answers = client.watch(ReceiverStream::new(queue)).await;
        let answers = answers.map_err(|status| refused(status.message()))?.into_inner();
        Ok(Self { requests, answers })
    }

    /// Reads until the watch has told all up to a revision.
    async fn read(&mut self, until: i64) -> anyhow::Result<Read> {
        let mut versions = Versions::default();
        let mut ask = interval(ASK_INTERVAL);
        ask.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let answer = tokio::select! {
                answer = self.answers.message() => answer,
                _ = ask.tick() => {
                    let progress = RequestUnion::ProgressRequest(pb::WatchProgressRequest {});
                    // If others still wait to be sent, one more says nothing.
                    let _full = self.requests.try_send(request(progress));
                    continue;
                }
            };
            let answer = answer.map_err(|status| refused(status.message()))?;
            let answer = answer.context("the cluster ended the watch")?;
            if answer.compact_revision > 0 {
                return Ok(Read::Compacted(answer.compact_revision));
            }
            anyhow::ensure!(!answer.canceled, refused(&answer.cancel_reason));
            let is_progress = answer.events.is_empty() && !answer.created;
            for event in answer.events {
                let is_delete = event.r#type() == EventType::Delete;
                let kv = event.kv.context("an event without a key")?;
                let revision = kv.mod_revision;
                versions.push(if is_delete {
                    Version { revision, put: None }
                } else {
                    version_of(kv)
                });
            }
            let revision = answer.header.unwrap_or_default().revision;
            if is_progress && revision >= until {
                return Ok(Read::All(versions));
            }
        }
    }
}

fn version_of(kv: keepd_api::mvccpb::KeyValue) -> Version {
    let content = Content { value: kv.value, lease: kv.lease };
    Version { revision: kv.mod_revision, put: Some((kv.version, content)) }
}

fn request(union: RequestUnion) -> pb::WatchRequest {
    pb::WatchRequest { request_union: Some(union) }
}

fn refused(reason: &str) -> anyhow::Error {
    anyhow::anyhow!("watching the key: {reason}")
}
