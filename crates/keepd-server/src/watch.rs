//! The Watch service: one task per stream between the client and the hub.
//!
//! The hub decides which events a watcher gets, and on creation, order and progress. Here events are
//! opened, joined with previous records and encoded, once for all watchers that get them, and, if
//! the watcher allows it, split.

mod queued;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use keepd_api::Error as Api;
use keepd_api::etcdserverpb::watch_create_request::FilterType;
use keepd_api::etcdserverpb::watch_request::RequestUnion;
use keepd_api::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};
use keepd_mvcc::{Change, ChangeKind};
use keepd_node::HubHandle;
use keepd_types::{KeyRange, KeyValue};
use keepd_watch::{Events, Filters, StreamId, StreamMessage, WatchId, WatchSpec};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tonic::Status;

use self::queued::Queued;
use crate::answer_places::AnswerPlaces;
use crate::context::Context;
use crate::encoded_message::EncodedMessage;
use crate::grpc::Requests;
use crate::grpc::call::Call;
use crate::response_stream::{self, Detached};
use crate::stream_failures::{Api as Counted, Way};
use crate::{errors, protobuf};

/// The cancel reason of a watch that needs a damaged part of the history. The log names the place.
const UNREADABLE: &str =
    "keepd: the history from this revision on could not be read; see the server's log";

pub(crate) async fn watch(
    context: &Arc<Context>,
    call: Call<Requests<WatchRequest>>,
) -> Result<Detached<EncodedMessage>, Status> {
    let hub = context.node.hub();
    let interval = with_jitter(context);
    let shared = Arc::clone(&context.answer_places);
    let (sink, queued, messages) = queued::queue(shared, call.connection);
    let stream = hub.open_stream(Box::new(sink), interval).await.map_err(errors::node)?;
    let (refuse, unreadable) = oneshot::channel();
    let (of_hub, of_queue, counted) = (hub.clone(), Arc::clone(&queued), Arc::clone(context));
    let requests = async move {
        let failed = read_requests(call.request, of_hub, stream, of_queue).await;
        if let Err(error) = failed {
            counted.stream_failures.count(Counted::Watch, Way::Receive, &error);
            // The client may have gone away.
            let _ = refuse.send(error);
            counted.node.hub().close_stream(stream);
        }
    };
    let reader = tokio::spawn(requests).abort_handle();
    let (context, ready) = (Arc::clone(context), VecDeque::new());
    let responses = Responses { context, hub, stream, messages, queued, ready, reader, unreadable };
    Ok(response_stream::detached(responses, EncodedMessage::len))
}

/// The progress interval of a stream: up to a tenth longer, so that streams do not tick together.
fn with_jitter(context: &Context) -> Duration {
    let interval = context.node.options().progress_notify_interval;
    let tenth = u64::try_from(interval.as_millis() / 10).unwrap_or(u64::MAX).max(1);
    interval + Duration::from_millis(context.node.env().random.next_u64() % tenth)
}

/// Passes a client's requests to the hub until the client half-closes or goes away. Half-closing
/// ends nothing else: the watchers go on.
async fn read_requests(
    requests: Requests<WatchRequest>,
    hub: HubHandle,
    stream: StreamId,
    queued: Arc<Queued>,
) -> Result<(), Status> {
    pass_on(requests, &hub, stream, &queued.places).await.inspect_err(|error| {
        // Too large or malformed: what comes after it cannot be read.
        tracing::debug!(%error, "a watch request cannot be read: ending its stream");
    })
}

async fn pass_on(
    mut requests: Requests<WatchRequest>,
    hub: &HubHandle,
    stream: StreamId,
    places: &AnswerPlaces,
) -> Result<(), Status> {
    while let Some(request) = requests.next().await? {
        let Some(request) = request.request_union else { continue };
        // Requests of a client that does not read its answers are not read.
        places.reserve().await?;
        let passed = match request {
            RequestUnion::CreateRequest(request) => hub.create(stream, spec(request)).await,
            RequestUnion::CancelRequest(request) => {
                hub.cancel(stream, WatchId(request.watch_id)).await
            }
            RequestUnion::ProgressRequest(_) => hub.progress(stream).await,
        };
        if passed.is_err() {
            // The hub has ended all its streams.
            break;
        }
    }
    Ok(())
}

fn spec(request: WatchCreateRequest) -> WatchSpec {
    let filters = Filters {
        no_put: request.filters().any(|filter| filter == FilterType::Noput),
        no_delete: request.filters().any(|filter| filter == FilterType::Nodelete),
    };
    // An empty key means the first possible one.
    let key = if request.key.is_empty() { Bytes::from_static(&[0]) } else { request.key };
    let mut spec =
        WatchSpec::new(KeyRange::from_request(key, request.range_end), request.start_revision);
    spec.id = (request.watch_id != 0).then_some(WatchId(request.watch_id));
    spec.filters = filters;
    spec.prev_kv = request.prev_kv;
    spec.progress_notify = request.progress_notify;
    spec.fragment = request.fragment;
    spec
}

/// The answers of one stream.
#[derive(Debug)]
pub(crate) struct Responses {
    context: Arc<Context>,
    hub: HubHandle,
    stream: StreamId,
    messages: mpsc::Receiver<StreamMessage>,
    queued: Arc<Queued>,
    /// Fragments of the current message.
    ready: VecDeque<EncodedMessage>,
    reader: AbortHandle,
    /// The error of the request that ended the stream.
    unreadable: oneshot::Receiver<Status>,
}

impl Drop for Responses {
    fn drop(&mut self) {
        self.reader.abort();
        self.hub.close_stream(self.stream);
    }
}

impl Responses {
    /// The status of a stream that the hub has ended. Clients of etcd resume their watches elsewhere
    /// after UNAVAILABLE, and after no other code.
    fn ended(&mut self) -> Status {
        if let Ok(unreadable) = self.unreadable.try_recv() {
            unreadable
        } else if self.hub.is_closed() {
            Api::Stopped.into()
        } else {
            Status::unavailable("keepd: the watch stream was ended, it was too far behind")
        }
    }
}

impl Stream for Responses {
    type Item = Result<EncodedMessage, Status>;

    fn poll_next(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(message)));
            }
            let Some(message) = ready!(self.messages.poll_recv(task)) else {
                return Poll::Ready(Some(Err(self.ended())));
            };
            self.queued.remove(&message);
            if let Some(time) =
                keepd_env::failpoints::pause(keepd_env::failpoints::Place::BeforeSendWatchResponse)
            {
                // Other tasks of this thread go on with another one.
                tokio::task::block_in_place(|| std::thread::sleep(time));
            }
            match encode(&self.context, message) {
                Ok(messages) => self.ready.extend(messages),
                Err(status) => {
                    let failures = &self.context.stream_failures;
                    failures.count(Counted::Watch, Way::Send, &status);
                    return Poll::Ready(Some(Err(status)));
                }
            }
        }
    }
}

fn encode(context: &Context, message: StreamMessage) -> Result<Vec<EncodedMessage>, Status> {
    let response = match message {
        StreamMessage::Events(events) => return encode_events(context, &events),
        StreamMessage::Created { watch_id, header_revision } => WatchResponse {
            header: Some(context.header(header_revision)),
            watch_id: watch_id.0,
            created: true,
            ..Default::default()
        },
        StreamMessage::Refused { header_revision, refusal } => WatchResponse {
            header: Some(context.header(header_revision)),
            watch_id: WatchId::NONE.0,
            created: true,
            canceled: true,
            cancel_reason: refusal.to_string(),
            ..Default::default()
        },
        StreamMessage::Canceled { watch_id, header_revision } => WatchResponse {
            header: Some(context.header(header_revision)),
            watch_id: watch_id.0,
            canceled: true,
            ..Default::default()
        },
        StreamMessage::Compacted { watch_id, compact_revision } => WatchResponse {
            // Clients know a compaction by its revision; etcd leaves the header's at zero.
            header: Some(context.header(0)),
            watch_id: watch_id.0,
            canceled: true,
            compact_revision,
            ..Default::default()
        },
        StreamMessage::Unreadable { watch_id } => WatchResponse {
            header: Some(context.current_header()),
            watch_id: watch_id.0,
            canceled: true,
            cancel_reason: UNREADABLE.to_owned(),
            ..Default::default()
        },
        StreamMessage::Progress { watch_id, header_revision } => WatchResponse {
            header: Some(context.header(header_revision)),
            watch_id: watch_id.0,
            ..Default::default()
        },
    };
    Ok(vec![EncodedMessage::of(&response)])
}

/// Encodes events as `WatchResponse{1: header, 2: watch_id, 7: fragment, 11: events}`; split where
/// the watcher allows it and the size asks for it. The head is this watcher's own, the events are
/// shared with all others.
fn encode_events(context: &Context, events: &Events) -> Result<Vec<EncodedMessage>, Status> {
    let mut head = Vec::with_capacity(64);
    protobuf::header_field(&context.header(events.header_revision), &mut head);
    protobuf::int_field(2, events.watch_id.0, &mut head);
    let threshold = context.limits.receive_bytes_max();
    let mut parts = Vec::new();
    let (mut part, mut part_bytes) = (Vec::with_capacity(events.len() + 1), 0);
    for event in events.iter() {
        let encoded = event.encoded(events.view.is_some(), || {
            encode_event(context, events, &event.change).map(Bytes::from)
        })?;
        let full = head.len() + part_bytes + encoded.len() >= threshold;
        if events.fragment && full && !part.is_empty() {
            parts.push(std::mem::take(&mut part));
            part_bytes = 0;
        }
        part_bytes += encoded.len();
        part.push(encoded);
    }
    parts.push(part);
    let last = parts.len() - 1;
    let messages = parts.into_iter().enumerate().map(|(i, mut part)| {
        let mut head = head.clone();
        protobuf::int_field(7, i64::from(i < last), &mut head);
        part.insert(0, head.into());
        EncodedMessage::from(part)
    });
    Ok(messages.collect())
}

/// `WatchResponse{11: mvccpb.Event{1: type, 2: kv, 3: prev_kv}}`.
fn encode_event(context: &Context, events: &Events, change: &Change) -> Result<Vec<u8>, Status> {
    let kv = match change.kind {
        ChangeKind::Put => context.client_bytes(change.record.clone())?,
        ChangeKind::Delete => {
            let kv = KeyValue {
                key: change.key.clone(),
                mod_revision: change.revision.main,
                ..KeyValue::default()
            };
            let mut out = Vec::with_capacity(kv.encoded_len());
            kv.encode(&mut out);
            out.into()
        }
    };
    let prev = previous(context, events, change)?;
    let mut kind = Vec::with_capacity(2);
    protobuf::int_field(1, i64::from(change.kind == ChangeKind::Delete), &mut kind);
    let field_len = |bytes: &Bytes| protobuf::len_field_len(bytes.len());
    let len = kind.len() + field_len(&kv) + prev.as_ref().map_or(0, field_len);
    let mut out = Vec::with_capacity(protobuf::len_field_len(len));
    protobuf::len_field(11, len, &mut out);
    out.extend_from_slice(&kind);
    protobuf::len_field(2, kv.len(), &mut out);
    out.extend_from_slice(&kv);
    if let Some(prev) = prev {
        protobuf::len_field(3, prev.len(), &mut out);
        out.extend_from_slice(&prev);
    }
    Ok(out)
}

/// The record before the change, from the view that the event pins. One that a compaction has
/// taken since is left out, as etcd does.
fn previous(context: &Context, events: &Events, change: &Change) -> Result<Option<Bytes>, Status> {
    let (Some(view), Some(prev)) = (&events.view, change.prev) else { return Ok(None) };
    if change.created {
        return Ok(None);
    }
    match view.load(prev) {
        Ok(record) => context.client_bytes(record).map(Some),
        Err(keepd_mvcc::Error::NoRecord { .. } | keepd_mvcc::Error::Range(_)) => Ok(None),
        Err(error) => Err(errors::store(error)),
    }
}
