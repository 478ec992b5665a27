//! `endpoint`: asks each member for its health, its status, and the hash of its history.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use keepd_api::etcdserverpb::{
    AlarmType, DowngradeInfo, HashKvRequest, HashKvResponse, RangeRequest, StatusRequest,
    StatusResponse,
};
use keepd_env::Env;
use keepd_gotext::{GoDuration, quote};

use super::GROUP_CLUSTER;
use super::alarm::{ALARM, list_request};
use super::client::{Client, Failure, Method, Repeat, run};
use super::get::RANGE;
use super::global::Options;
use crate::engine::answer::{self, Answer, Style, complain, field_header, line};
use crate::engine::command::{Call, Command, Flag};
use crate::engine::exit::{Exit, FAILED, failed};
use crate::engine::json::{self, Object};
use crate::engine::{humanize, table};

/// Asks a member for its health.
pub(super) const STATUS: Method<StatusRequest, StatusResponse> =
    Method::new("/etcdserverpb.Maintenance/Status", Repeat::Allowed);
const HASH_KV: Method<HashKvRequest, HashKvResponse> =
    Method::new("/etcdserverpb.Maintenance/HashKV", Repeat::Allowed);

/// The option that asks all members instead of those named.
pub(super) const CLUSTER: Flag =
    Flag::bool("cluster", "use all endpoints from the cluster member list");

/// The command.
pub(super) static COMMAND: Command = Command {
    usage: "endpoint <subcommand>",
    short: "Endpoint related commands. Use `etcdctl endpoint --help` to see subcommands",
    long: "Endpoint related commands",
    group: GROUP_CLUSTER,
    inherited: &[CLUSTER],
    commands: &[&HEALTH, &STATUS_COMMAND, &HASH_KV_COMMAND],
    ..Command::NONE
};

static HEALTH: Command = Command {
    usage: "health",
    short: "Checks the healthiness of endpoints specified in `--endpoints` flag",
    run: Some(health),
    ..Command::NONE
};

static STATUS_COMMAND: Command = Command {
    usage: "status",
    short: "Prints out the status of endpoints specified in `--endpoints` flag",
    long: "When --write-out is set to simple, this command prints out comma-separated status \
           lists for each endpoint.
The items in the lists are endpoint, ID, version, db size, is leader, is learner, raft term, \
           raft index, raft applied index, errors.
",
    run: Some(status),
    ..Command::NONE
};

static HASH_KV_COMMAND: Command = Command {
    usage: "hashkv",
    short: "Prints the KV history hash for each endpoint in --endpoints",
    flags: &[Flag::int("rev", "maximum revision to hash (default: latest revision)")],
    run: Some(hash_kv),
    ..Command::NONE
};

/// Runs a command's work for the endpoints named, or for all members with `--cluster`.
pub(super) fn with_endpoints(
    mut call: Call<'_>,
    work: impl AsyncFnOnce(&Call<'_>, &Options, Vec<String>) -> Result<(), Exit>,
) -> Result<(), Exit> {
    let options = Options::read(&mut call)?;
    run(async move {
        let endpoints = if call.flag("cluster") {
            Client::new(options.clone()).await?.cluster_endpoints().await?
        } else {
            options.endpoints.clone()
        };
        work(&call, &options, endpoints).await
    })
}

/// The health of one member.
struct Health {
    endpoint: String,
    healthy: bool,
    took: Duration,
    error: String,
}

fn health(call: Call<'_>) -> Result<(), Exit> {
    with_endpoints(call, async |_, options, endpoints| {
        let checks = endpoints.iter().map(|endpoint| check_health(options, endpoint));
        let mut found = Healths(join_all(checks).await);
        // The first answer comes first, as people watching a slow cluster expect.
        found.0.sort_by_key(|health| health.took);
        answer::show(&found, options.style)?;
        if found.0.iter().any(|health| !health.error.is_empty()) {
            return Err(failed("unhealthy cluster"));
        }
        Ok(())
    })
}

async fn check_health(options: &Options, endpoint: &str) -> Health {
    let clock = Env::real().clock;
    let mut health = Health {
        endpoint: endpoint.to_owned(),
        healthy: false,
        took: Duration::ZERO,
        error: String::new(),
    };
    let client = match Client::new(options.only(endpoint)).await {
        Ok(client) => client,
        Err(exit) => {
            health.error = exit.text.unwrap_or_default();
            return health;
        }
    };
    let start = clock.monotonic();
    // Any key does: the answer to a linearizable read needs a leader and a quorum.
    let request = RangeRequest { key: Bytes::from_static(b"health"), ..RangeRequest::default() };
    let answer = client.ask(&RANGE, request).await;
    health.took = clock.monotonic() - start;
    match answer {
        Ok(_) => health.healthy = true,
        Err(failure) if is_permission_denied(&failure) => health.healthy = true,
        Err(failure) => health.error = failure.to_string(),
    }
    if !health.healthy {
        return health;
    }
    match client.ask(&ALARM, list_request()).await {
        Ok(answer) if answer.alarms.is_empty() => {}
        Ok(answer) => {
            health.healthy = false;
            "Active Alarm(s): ".clone_into(&mut health.error);
            for alarm in &answer.alarms {
                health.error.push_str(match AlarmType::try_from(alarm.alarm) {
                    Ok(AlarmType::Nospace) => "NOSPACE ",
                    Ok(AlarmType::Corrupt) => "CORRUPT ",
                    _ => "UNKNOWN ",
                });
            }
        }
        Err(_) => {
            health.healthy = false;
            "Unable to fetch the alarm list".clone_into(&mut health.error);
        }
    }
    health
}

/// The read went through the cluster before it was refused.
fn is_permission_denied(failure: &Failure) -> bool {
    let denied = keepd_api::Error::PermissionDenied.text();
    matches!(failure, Failure::Status(status) if status.message() == denied)
}

struct Healths(Vec<Health>);

impl Answer for Healths {
    fn simple(&self, _style: Style, out: &mut Vec<u8>) {
        for Health { endpoint, took, error, .. } in &self.0 {
            if error.is_empty() {
                let took = GoDuration::from(*took).to_string();
                line!(out, "{endpoint} is healthy: successfully committed proposal: took = {took}");
            } else {
                complain(&format!("{endpoint} is unhealthy: failed to commit proposal: {error}"));
            }
        }
    }

    fn json(&self, _style: Style) -> String {
        json::array(self.0.iter().map(|health| {
            Object::new()
                .always("endpoint", &json::string(&health.endpoint))
                .always("health", if health.healthy { "true" } else { "false" })
                .always("took", &json::string(&took_text(health)))
                .text("error", &health.error)
                .end()
        }))
    }

    fn fields(&self, _style: Style, out: &mut Vec<u8>) -> Result<(), Exit> {
        for health in &self.0 {
            line!(out, "\"Endpoint\" : {}", quote(&health.endpoint));
            line!(out, "\"Health\" : {}", health.healthy);
            line!(out, "\"Took\" : {}", took_text(health));
            line!(out, "\"Error\" : {}", health.error);
            line!(out, "");
        }
        Ok(())
    }

    fn table(&self) -> Result<String, Exit> {
        let rows: Vec<Vec<String>> = self
            .0
            .iter()
            .map(|health| {
                vec![
                    health.endpoint.clone(),
                    health.healthy.to_string(),
                    took_text(health),
                    health.error.clone(),
                ]
            })
            .collect();
        Ok(table::draw(&["endpoint", "health", "took", "error"], &rows))
    }
}

/// Nothing was measured where no connection could be set up.
fn took_text(health: &Health) -> String {
    if health.took.is_zero() { String::new() } else { GoDuration::from(health.took).to_string() }
}

/// Asks each endpoint in turn; what fails is complained about with the words of `what`.
async fn ask_each<Q, A>(
    options: &Options,
    endpoints: Vec<String>,
    method: &Method<Q, A>,
    request: Q,
    what: &str,
) -> Result<(Vec<(String, A)>, Option<Failure>), Exit>
where
    Q: prost::Message + Clone + Send + Sync + 'static,
    A: prost::Message + Default + Send + Sync + 'static,
{
    let mut answers = Vec::new();
    let mut last_failure = None;
    for endpoint in endpoints {
        let client = Client::new(options.only(&endpoint)).await?;
        match client.ask(method, request.clone()).await {
            Ok(answer) => answers.push((endpoint, answer)),
            Err(failure) => {
                complain(&format!("Failed to get the {what} of endpoint {endpoint} ({failure})"));
                last_failure = Some(failure);
            }
        }
    }
    Ok((answers, last_failure))
}

fn status(call: Call<'_>) -> Result<(), Exit> {
    with_endpoints(call, async |_, options, endpoints| {
        let (answers, failure) =
            ask_each(options, endpoints, &STATUS, StatusRequest {}, "status").await?;
        answer::show(&Statuses(answers), options.style)?;
        if failure.is_some() { Err(Exit::silent(FAILED)) } else { Ok(()) }
    })
}

struct Statuses(Vec<(String, StatusResponse)>);

impl Statuses {
    const TITLES: [&str; 16] = [
        "endpoint",
        "ID",
        "version",
        "storage version",
        "db size",
        "in use",
        "percentage not in use",
        "quota",
        "is leader",
        "is learner",
        "raft term",
        "raft index",
        "raft applied index",
        "errors",
        "downgrade target version",
        "downgrade enabled",
    ];

    fn rows(&self) -> Vec<Vec<String>> {
        self.0.iter().map(|(endpoint, status)| Self::row(endpoint, status)).collect()
    }

    fn row(endpoint: &str, status: &StatusResponse) -> Vec<String> {
        let member = status.header.unwrap_or_default().member_id;
        // No limit is -1, which etcdctl shows as the largest size.
        let size = |bytes: i64| humanize::bytes(bytes.cast_unsigned());
        let in_use = status.db_size_in_use.saturating_mul(100).checked_div(status.db_size);
        let downgrade = downgrade_of(status);
        vec![
            endpoint.to_owned(),
            format!("{member:x}"),
            status.version.clone(),
            status.storage_version.clone(),
            size(status.db_size),
            size(status.db_size_in_use),
            format!("{}%", 100 - in_use.unwrap_or(100)),
            size(status.db_size_quota),
            (status.leader == member).to_string(),
            status.is_learner.to_string(),
            status.raft_term.to_string(),
            status.raft_index.to_string(),
            status.raft_applied_index.to_string(),
            status.errors.join(", "),
            downgrade.target_version,
            downgrade.enabled.to_string(),
        ]
    }
}

fn downgrade_of(status: &StatusResponse) -> DowngradeInfo {
    status.downgrade_info.clone().unwrap_or_default()
}

fn status_object(status: &StatusResponse) -> Object {
    Object::new()
        .object("header", status.header.as_ref(), json::header)
        .text("version", &status.version)
        .int("dbSize", status.db_size)
        .uint("leader", status.leader)
        .uint("raftIndex", status.raft_index)
        .uint("raftTerm", status.raft_term)
        .uint("raftAppliedIndex", status.raft_applied_index)
        .texts("errors", &status.errors)
        .int("dbSizeInUse", status.db_size_in_use)
        .bool("isLearner", status.is_learner)
        .text("storageVersion", &status.storage_version)
        .int("dbSizeQuota", status.db_size_quota)
        .object("downgradeInfo", status.downgrade_info.as_ref(), |info| {
            Object::new().bool("enabled", info.enabled).text("targetVersion", &info.target_version)
        })
}

/// One endpoint's answer under its name; no answers at all are `null`, as in Go.
fn per_endpoint<A>(answers: &[(String, A)], name: &str, object: impl Fn(&A) -> Object) -> String {
    if answers.is_empty() {
        return "null".to_owned();
    }
    json::array(answers.iter().map(|(endpoint, answer)| {
        Object::new()
            .always("Endpoint", &json::string(endpoint))
            .always(name, &object(answer).end())
            .end()
    }))
}

impl Answer for Statuses {
    fn simple(&self, _style: Style, out: &mut Vec<u8>) {
        for row in self.rows() {
            line!(out, "{}", row.join(", "));
        }
    }

    fn json(&self, _style: Style) -> String {
        per_endpoint(&self.0, "Status", status_object)
    }

    fn fields(&self, style: Style, out: &mut Vec<u8>) -> Result<(), Exit> {
        for (endpoint, status) in &self.0 {
            let downgrade = downgrade_of(status);
            field_header(status.header.as_ref(), style, out);
            line!(out, "\"Version\" : {}", quote(&status.version));
            line!(out, "\"StorageVersion\" : {}", quote(&status.storage_version));
            line!(out, "\"DBSize\" : {}", status.db_size);
            line!(out, "\"DBSizeInUse\" : {}", status.db_size_in_use);
            line!(out, "\"DBSizeQuota\" : {}", status.db_size_quota);
            line!(out, "\"Leader\" : {}", status.leader);
            line!(out, "\"IsLearner\" : {}", status.is_learner);
            line!(out, "\"RaftIndex\" : {}", status.raft_index);
            line!(out, "\"RaftTerm\" : {}", status.raft_term);
            line!(out, "\"RaftAppliedIndex\" : {}", status.raft_applied_index);
            line!(out, "\"Errors\" : [{}]", status.errors.join(" "));
            line!(out, "\"Endpoint\" : {}", quote(endpoint));
            line!(out, "\"DowngradeTargetVersion\" : {}", quote(&downgrade.target_version));
            line!(out, "\"DowngradeEnabled\" : {}", downgrade.enabled);
            line!(out, "");
        }
        Ok(())
    }

    fn table(&self) -> Result<String, Exit> {
        Ok(table::draw(&Self::TITLES, &self.rows()))
    }
}

fn hash_kv(call: Call<'_>) -> Result<(), Exit> {
    with_endpoints(call, async |call, options, endpoints| {
        let request = HashKvRequest { revision: call.int("rev") };
        let (answers, failure) = ask_each(options, endpoints, &HASH_KV, request, "hash").await?;
        answer::show(&Hashes(answers), options.style)?;
        failure.map_or(Ok(()), |failure| Err(failed(failure)))
    })
}

struct Hashes(Vec<(String, HashKvResponse)>);

impl Hashes {
    fn rows(&self) -> Vec<Vec<String>> {
        let row = |(endpoint, answer): &(String, HashKvResponse)| {
            vec![endpoint.clone(), answer.hash.to_string(), answer.hash_revision.to_string()]
        };
        self.0.iter().map(row).collect()
    }
}

impl Answer for Hashes {
    fn simple(&self, _style: Style, out: &mut Vec<u8>) {
        for row in self.rows() {
            line!(out, "{}", row.join(", "));
        }
    }

    fn json(&self, _style: Style) -> String {
        per_endpoint(&self.0, "HashKV", |answer| {
            Object::new()
                .object("header", answer.header.as_ref(), json::header)
                .uint("hash", answer.hash.into())
                .int("compact_revision", answer.compact_revision)
                .int("hash_revision", answer.hash_revision)
        })
    }

    fn fields(&self, style: Style, out: &mut Vec<u8>) -> Result<(), Exit> {
        for (endpoint, answer) in &self.0 {
            field_header(answer.header.as_ref(), style, out);
            line!(out, "\"Endpoint\" : {}", quote(endpoint));
            line!(out, "\"Hash\" : {}", answer.hash);
            line!(out, "\"HashRevision\" : {}", answer.hash_revision);
            line!(out, "");
        }
        Ok(())
    }

    fn table(&self) -> Result<String, Exit> {
        Ok(table::draw(&["endpoint", "hash", "hash_revision"], &self.rows()))
    }
}
