//! The metrics page: etcd's names, types and labels, so that its dashboards and alerts work.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::text::{Page, escaped};
use super::{CODES, RpcCounters, RpcMetrics, peers, process};
use crate::context::Context;
use crate::versions;

/// Renders the whole page.
pub(crate) fn render(context: &Context, rpc_metrics: &RpcMetrics) -> String {
    let mut page = Page::new();
    server(&mut page, context, rpc_metrics);
    store(&mut page, context);
    disk(&mut page, context);
    file_system(&mut page, context);
    peers::render(&mut page, context);
    rpc(&mut page, context, rpc_metrics);
    tls(&mut page, context);
    encryption(&mut page, context);
    backup_log(&mut page, context);
    page.gauge(
        "keepd_store_damaged_places",
        "Parts of the store's files that cannot be read; 0 is healthy.",
        context.node.damages().len(),
    );
    if let Some(backups) = context.backups.get() {
        backups.render(&mut page);
    }
    process::render(&mut page.out);
    page.out
}

/// The log's way into the places of backups, if it is shipped.
fn backup_log(page: &mut Page, context: &Context) {
    let log = &context.node.metrics().backup_log;
    if log.is_on.load(Ordering::Relaxed) == 0 {
        return;
    }
    let behind = log.behind_millis.load(Ordering::Relaxed);
    page.gauge(
        "keepd_backup_log_behind_seconds",
        "For how long something committed has not been shipped: what a loss of everything would cost. 0 on \
         a member that does not ship.",
        std::time::Duration::from_millis(behind).as_secs_f64(),
    );
    page.gauge(
        "keepd_backup_log_ships",
        "1 if this member ships the log; the leader does.",
        log.ships.load(Ordering::Relaxed),
    );
    page.gauge(
        "keepd_backup_log_index",
        "The last entry of the log that this member knows to be in all places.",
        log.index.load(Ordering::Relaxed),
    );
    page.counter(
        "keepd_backup_log_batches_total",
        "Batches of the log that this member shipped.",
        &log.batches,
    );
    page.counter(
        "keepd_backup_log_failures_total",
        "Tries to ship the log, or to look how far it is, that failed.",
        &log.failures,
    );
    page.counter(
        "keepd_backup_log_gaps_total",
        "Gaps in the shipped log: what lies in them cannot be brought back; take a backup.",
        &log.gaps,
    );
}

fn running_versions(page: &mut Page, context: &Context) {
    page.family("etcd_server_version", "gauge", "Which version is running.");
    let version = keepd_api::SERVER_VERSION;
    page.sample("etcd_server_version", &format!("server_version=\"{version}\""), 1);
    page.family("etcd_cluster_version", "gauge", "Which version is running.");
    if let Some(version) = versions::cluster(&context.node.cluster_facts()) {
        page.sample("etcd_cluster_version", &format!("cluster_version=\"{version}\""), 1);
    }
    page.gauge(
        "keepd_cluster_feature_level",
        "The feature level that the cluster writes; it rises when all members read a newer one.",
        context.node.cluster_facts().feature_level,
    );
    page.gauge(
        "keepd_member_feature_level",
        "The newest feature level that this member reads.",
        context.node.options().feature_level,
    );
    let name = "etcd_server_feature_enabled";
    page.family(name, "gauge", "Whether or not a feature is enabled. 1 is enabled, 0 is not.");
    for (feature, stage, is_enabled) in context.features.get().into_iter().flatten() {
        let labels = format!("name=\"{feature}\",stage=\"{stage}\"");
        page.sample(name, &labels, u8::from(*is_enabled));
    }
    page.family("keepd_build_info", "gauge", "keepd's own version.");
    page.sample("keepd_build_info", concat!("version=\"", env!("CARGO_PKG_VERSION"), "\""), 1);
}

fn server(page: &mut Page, context: &Context, rpc: &RpcMetrics) {
    let node = &context.node;
    let status = node.status();
    let metrics = node.metrics();
    let member = node.identity().member;
    let leads = status.leader == member.0;
    page.gauge(
        "etcd_server_has_leader",
        "Whether or not a leader exists. 1 is existence, 0 is not.",
        u8::from(status.leader != 0),
    );
    page.gauge(
        "etcd_server_is_leader",
        "Whether or not this member is a leader. 1 if is, 0 otherwise.",
        u8::from(leads),
    );
    page.gauge(
        "etcd_server_is_learner",
        "Whether or not this member is a learner. 1 if is, 0 otherwise.",
        u8::from(node.is_learner()),
    );
    page.family("etcd_server_leader_changes_seen_total", "counter", "Leader changes seen.");
    page.sample("etcd_server_leader_changes_seen_total", "", status.leader_changes);
    page.gauge(
        "etcd_server_proposals_committed_total",
        "The total number of consensus proposals committed.",
        status.commit_index,
    );
    page.gauge(
        "etcd_server_proposals_applied_total",
        "The total number of consensus proposals applied.",
        status.applied_index,
    );
    page.gauge(
        "etcd_server_proposals_pending",
        "The current number of pending proposals to commit.",
        metrics.proposals_pending.load(Ordering::Relaxed),
    );
    page.counter(
        "etcd_server_proposals_failed_total",
        "The total number of failed proposals seen.",
        &metrics.proposals_failed,
    );
    page.counter(
        "etcd_server_slow_apply_total",
        "The total number of slow apply requests.",
        &metrics.slow_apply,
    );
    cluster(page, context);
    page.family("etcd_server_id", "gauge", "Server or member ID in hexadecimal format.");
    page.sample("etcd_server_id", &format!("server_id=\"{member}\""), 1);
    running_versions(page, context);
    page.gauge(
        "keepd_unsafe_no_fsync",
        "1 if nothing is synced, so that a power cut loses acknowledged writes.",
        u8::from(!node.env().disk.is_synced()),
    );
    page.counter("etcd_server_health_success", "Successful health checks.", &rpc.health_success);
    page.counter("etcd_server_health_failures", "Failed health checks.", &rpc.health_failures);
    checks(page, rpc);
    page.family("etcd_debugging_server_alarms", "gauge", "Alarms for every member.");
    for alarm in node.alarms().iter() {
        let kind = alarm.name();
        let labels = format!("alarm_type=\"{kind}\",server_id=\"{}\"", alarm.member);
        page.sample("etcd_debugging_server_alarms", &labels, 1);
    }
}

/// Reads, heartbeats and promotions among several members.
fn cluster(page: &mut Page, context: &Context) {
    let metrics = context.node.metrics();
    page.counter(
        "etcd_server_heartbeat_send_failures_total",
        "The total number of leader heartbeat send failures (likely overloaded from slow disk).",
        &metrics.heartbeat_send_failures,
    );
    page.counter(
        "etcd_server_slow_read_indexes_total",
        "The total number of pending read indexes not in sync with leader's or timed out read \
         index requests.",
        &metrics.slow_read_indexes,
    );
    page.counter(
        "etcd_server_read_indexes_failed_total",
        "The total number of failed read indexes seen.",
        &metrics.read_indexes_failed,
    );
    page.gauge(
        "etcd_server_snapshot_apply_in_progress_total",
        "1 if the server is applying the incoming snapshot. 0 if none.",
        metrics.installs_in_progress.load(Ordering::Relaxed),
    );
    let (successes, failures) = context.promotions.read();
    let name = "etcd_server_learner_promote_successes";
    page.family(
        name,
        "counter",
        "The total number of successful learner promotions while this member is leader.",
    );
    page.sample(name, "", successes);
    let name = "etcd_server_learner_promote_failures";
    page.family(
        name,
        "counter",
        "The total number of failed learner promotions (likely learner not ready) while this \
         member is leader.",
    );
    for (reason, count) in failures {
        page.sample(name, &format!("Reason=\"{reason}\""), count);
    }
}

fn checks(page: &mut Page, rpc: &RpcMetrics) {
    let checks = rpc.checks.lock().clone();
    let name = "etcd_server_healthcheck";
    page.family(name, "gauge", "The result of each kind of healthcheck.");
    for ((kind, check), counts) in &checks {
        let labels = format!("name=\"{check}\",type=\"{kind}\"");
        page.sample(name, &labels, u8::from(counts.is_good));
    }
    let name = "etcd_server_healthchecks_total";
    page.family(name, "counter", "The total number of each kind of healthcheck.");
    for ((kind, check), counts) in &checks {
        for (status, count) in [("success", counts.successes), ("error", counts.errors)] {
            let labels = format!("name=\"{check}\",status=\"{status}\",type=\"{kind}\"");
            page.sample(name, &labels, count);
        }
    }
}

fn store(page: &mut Page, context: &Context) {
    let node = &context.node;
    let (metrics, view, space) = (node.metrics(), node.view(), node.space());
    page.gauge(
        "etcd_server_quota_backend_bytes",
        "Current backend storage quota size in bytes.",
        space.quota_bytes.unwrap_or(-1),
    );
    page.gauge(
        "etcd_mvcc_db_total_size_in_bytes",
        "Total size of the underlying database physically allocated in bytes.",
        space.disk_bytes,
    );
    page.gauge(
        "etcd_mvcc_db_total_size_in_use_in_bytes",
        "Total size of the underlying database logically in use in bytes.",
        space.live_bytes,
    );
    page.counter("etcd_mvcc_put_total", "Total number of puts.", &metrics.put);
    page.counter("etcd_mvcc_delete_total", "Total number of deletes.", &metrics.delete);
    page.counter("etcd_mvcc_txn_total", "Total number of txns.", &metrics.txn);
    page.gauge("etcd_debugging_mvcc_keys_total", "Total number of keys.", view.live_keys());
    page.gauge(
        "etcd_debugging_mvcc_current_revision",
        "The current revision of store.",
        view.revision(),
    );
    page.gauge(
        "etcd_debugging_mvcc_compact_revision",
        "The revision of the last compaction in store.",
        view.compact_revision(),
    );
    page.counter("etcd_debugging_mvcc_events_total", "Total number of events.", &metrics.events);
    let load = |value: &AtomicU64| value.load(Ordering::Relaxed);
    page.gauge(
        "etcd_debugging_mvcc_watch_stream_total",
        "Total number of watch streams.",
        load(&metrics.watch_streams),
    );
    page.gauge(
        "etcd_debugging_mvcc_watcher_total",
        "Total number of watchers.",
        load(&metrics.watchers),
    );
    page.gauge(
        "etcd_debugging_mvcc_slow_watcher_total",
        "Total number of unsynced slow watchers.",
        load(&metrics.slow_watchers),
    );
    page.counter(
        "etcd_debugging_lease_granted_total",
        "The total number of granted leases.",
        &metrics.lease_granted,
    );
    page.counter(
        "etcd_debugging_lease_revoked_total",
        "The total number of revoked leases.",
        &metrics.lease_revoked,
    );
    page.counter(
        "etcd_debugging_lease_renewed_total",
        "The number of renewed leases seen by the leader.",
        &metrics.lease_renewed,
    );
    page.counter(
        "etcd_debugging_server_lease_expired_total",
        "The total number of expired leases.",
        &metrics.lease_expired,
    );
}

fn disk(page: &mut Page, context: &Context) {
    let metrics = context.node.metrics();
    page.histogram(
        "etcd_disk_wal_fsync_duration_seconds",
        "The latency distributions of fsync called by WAL.",
        &metrics.wal_fsync_seconds,
    );
    page.histogram(
        "etcd_disk_wal_write_duration_seconds",
        "The latency distributions of write called by WAL.",
        &metrics.wal_write_seconds,
    );
    page.gauge(
        "etcd_disk_wal_write_bytes_total",
        "Total number of bytes written in WAL.",
        metrics.wal_write_bytes.load(Ordering::Relaxed),
    );
    page.histogram(
        "etcd_disk_backend_commit_duration_seconds",
        "The latency distributions of commit called by backend.",
        &metrics.backend_commit_seconds,
    );
    page.histogram(
        "keepd_apply_batch_duration_seconds",
        "The latency distributions of applying one batch of committed entries.",
        &metrics.apply_seconds,
    );
}

fn rpc(page: &mut Page, context: &Context, metrics: &RpcMetrics) {
    page.counter(
        "etcd_network_client_grpc_received_bytes_total",
        "The total number of bytes received from grpc clients.",
        &context.client_bytes.received,
    );
    page.counter(
        "etcd_network_client_grpc_sent_bytes_total",
        "The total number of bytes sent to grpc clients.",
        &context.client_bytes.sent,
    );
    let mut rpcs: Vec<_> = metrics.rpcs.iter().collect();
    rpcs.sort_by(|a, b| a.path.cmp(b.path));
    let name = "grpc_server_started_total";
    page.family(name, "counter", "Total number of RPCs started on the server.");
    for counters in &rpcs {
        page.sample(name, &counters.labels, counters.started.load(Ordering::Relaxed));
    }
    let name = "grpc_server_handled_total";
    page.family(name, "counter", "Total number of RPCs completed on the server.");
    for counters in &rpcs {
        for (code, count) in CODES.iter().zip(&counters.handled) {
            let labels = format!("grpc_code=\"{code}\",{}", counters.labels);
            page.sample(name, &labels, count.load(Ordering::Relaxed));
        }
    }
    calls(page, context, &rpcs);
}

/// Calls by the versions of clients, streams that failed, and the times of calls.
fn calls(page: &mut Page, context: &Context, rpcs: &[&Arc<RpcCounters>]) {
    let name = "etcd_server_client_requests_total";
    page.family(name, "counter", "The total number of client requests per client version.");
    for (version, [unary, streams]) in context.client_requests.read() {
        for (kind, count) in [("stream", streams), ("unary", unary)] {
            let labels = format!("client_api_version=\"{}\",type=\"{kind}\"", escaped(&version));
            page.sample(name, &labels, count);
        }
    }
    let name = "etcd_network_server_stream_failures_total";
    let help = "The total number of stream failures from the local server.";
    page.family(name, "counter", help);
    for (labels, count) in context.stream_failures.read() {
        page.sample(name, &labels, count);
    }
    let name = "etcd_server_request_duration_seconds";
    page.family(name, "histogram", "Response latency distribution in seconds for each type.");
    for (request, times) in rpcs.iter().filter_map(|it| it.requests.as_ref()) {
        for (times, success) in times.iter().zip(["false", "true"]) {
            let labels = format!("success=\"{success}\",type=\"{request}\"");
            page.buckets(name, &labels, &times.read());
        }
    }
    if rpcs.iter().any(|it| it.handling.is_some()) {
        let name = "grpc_server_handling_seconds";
        let help = "Histogram of response latency (seconds) of gRPC that had been application-level \
                    handled by the server.";
        page.family(name, "histogram", help);
        for rpc in rpcs {
            if let Some(times) = &rpc.handling {
                page.buckets(name, &rpc.labels, &times.read());
            }
        }
    }
}

fn tls(page: &mut Page, context: &Context) {
    let certificates = context.certificates.lock();
    let not_after = "keepd_tls_certificate_not_after_seconds";
    page.family(not_after, "gauge", "When the client port's certificate expires, unix time.");
    for (port, tls) in certificates.iter().enumerate() {
        page.sample(not_after, &format!("port=\"{port}\""), tls.leaf().not_after);
    }
    let problem = "keepd_tls_reload_problem";
    page.family(problem, "gauge", "1 if the files changed and the new ones cannot be used.");
    for (port, tls) in certificates.iter().enumerate() {
        let stands = u8::from(tls.status().problem.is_some());
        page.sample(problem, &format!("port=\"{port}\""), stands);
    }
}

fn file_system(page: &mut Page, context: &Context) {
    let space = context.node.space();
    if let Some(available) = space.available_bytes {
        page.gauge(
            "keepd_disk_available_bytes",
            "What is free on the file system of the data directory, beside the ballast.",
            available,
        );
    }
    page.gauge(
        "keepd_disk_short",
        "1 if the file system has no space to spare: puts are refused until it has.",
        u8::from(space.is_disk_full),
    );
}

fn encryption(page: &mut Page, context: &Context) {
    page.gauge(
        "keepd_encryption_at_rest_enabled",
        "1 if everything written to the data directory is sealed.",
        u8::from(context.encryption.files().is_sealing()),
    );
    let (files, reloads) = (context.node.file_counts(), context.node.reloads());
    let name = "keepd_encryption_files";
    page.family(name, "gauge", "Files of the data directory, by how they lie on disk.");
    page.sample(name, "state=\"sealed\"", files.sealed);
    page.sample(name, "state=\"plain\"", files.plain);
    page.gauge(
        "keepd_encryption_stale_files",
        "Files that the configuration wants under another key, or plain; they are rewritten.",
        files.stale,
    );
    let name = "keepd_encryption_config_reloads_total";
    page.family(name, "counter", "Reloads of the encryption configuration, by result.");
    page.sample(name, "status=\"success\"", reloads.successes);
    page.sample(name, "status=\"failure\"", reloads.failures);
    page.gauge(
        "keepd_encryption_config_last_reload_success_timestamp_seconds",
        "When the configuration was last taken while the server ran; 0 before.",
        reloads.last_success.map_or(0, |time| time.as_secs()),
    );
}
