//! Finds the other first members of a cluster at a discovery service: an etcd or keepd under whose
//! `/_etcd/registry/TOKEN` somebody put the cluster's size, and to which every member adds itself.
//! Keys, order and texts are etcd's, so that a service serves members of both.
//!
//! The service need not be there yet: as in etcd a member asks again for as long as it takes, and so it
//! does until the cluster is complete.

mod client;
mod registry;

use std::time::Duration;

use keepd_env::Env;
use thiserror::Error;

use crate::flags::{Discovery, ServerOptions, parse_url};

use client::Client;
use registry::Registry;

/// BOUND: doublings of the pause before a request is made again; the pause stays at four minutes then.
const BACKOFF_DOUBLINGS_MAX: u32 = 8;
/// Pause before a broken watch is made again.
const WATCH_PAUSE: Duration = Duration::from_millis(500);

/// The end of a discovery, in etcd's words.
#[derive(Debug, Error, PartialEq, Eq)]
pub(super) enum Problem {
    /// A member that is registered names no URL.
    #[error("discovery: invalid peer URL")]
    InvalidUrl,
    /// The size is no number of members.
    #[error("discovery: size key is bad")]
    BadSize,
    /// Nobody wrote the size.
    #[error("discovery: size key not found")]
    NoSize,
    /// Others were faster.
    #[error("discovery: cluster is full")]
    Full,
    /// The members of a cluster are told apart by their names.
    #[error(
        "discovery: two members are named {0}; give each a --name of its own, and all of them a new \
         discovery token"
    )]
    SameName(String),
    /// Connections to the service cannot be set up.
    #[error("{0}")]
    Setup(String),
}

/// Adds this member to its cluster at the service, waits for the others, and returns the names and URLs
/// of all.
pub(super) async fn join(
    env: &Env,
    options: &ServerOptions,
    discovery: &Discovery,
) -> Result<Vec<(String, String)>, String> {
    let local = options.members().map_err(|error| error.to_string())?.local;
    let mut own: Vec<String> = options.initial_cluster.iter().map(as_item).collect();
    own.sort_unstable();
    let token = discovery.token.as_str();
    tracing::info!(
        token,
        endpoints = discovery.endpoints.join(","),
        "Bootstrapping cluster using v3 discovery."
    );
    let joined = match Client::new(env, discovery) {
        Ok(client) => {
            let registry = Registry::new(token, local);
            Joining { client, registry, retries: 0 }.join(&own.join(",")).await
        }
        Err(problem) => Err(problem),
    };
    match joined {
        Ok(members) => {
            let cluster: Vec<String> = members.iter().map(as_item).collect();
            tracing::info!(
                token,
                cluster = cluster.join(","),
                "discovery joined cluster successfully"
            );
            Ok(members)
        }
        Err(problem) => {
            tracing::error!(token, error = %problem, "discovery failed to join cluster");
            let error = format!("failed to join discovery cluster ({problem})");
            tracing::warn!(token, error, "failed to bootstrap; discovery token was already used");
            tracing::warn!(
                "do not reuse discovery token; generate a new one to bootstrap a cluster"
            );
            Err(error)
        }
    }
}

fn as_item((name, url): &(String, String)) -> String {
    format!("{name}={url}")
}

/// A member that joins.
struct Joining {
    client: Client,
    registry: Registry,
    /// Failures since the last success.
    retries: u32,
}

/// The members that were found, how many there are to be, and the revision at which that was so.
struct Found {
    members: registry::Members,
    size: usize,
    revision: i64,
}

impl Joining {
    async fn join(&mut self, own: &str) -> Result<Vec<(String, String)>, Problem> {
        self.look().await?;
        self.register(own).await;
        let mut found = self.look().await?;
        while found.members.len() < found.size {
            tracing::info!(
                size = found.size,
                found = found.members.len(),
                "waiting for peers from discovery service"
            );
            if let Err(error) = self.wait(&mut found).await {
                tracing::warn!(error, "the watch for peers broke off; looking again");
                tokio::time::sleep(WATCH_PAUSE).await;
                found = self.look().await?;
            }
        }
        tracing::info!(
            size = found.size,
            found = found.members.len(),
            "found all needed peers from discovery service"
        );
        members(&found.members.first(found.size))
    }

    /// Looks whether there is room for this member.
    async fn look(&mut self) -> Result<Found, Problem> {
        loop {
            let found = match self.client.get(&self.registry.size_key()).await {
                Ok(None) => return Err(Problem::NoSize),
                Ok(Some(size)) => {
                    let size = registry::size(&size).ok_or(Problem::BadSize)?;
                    let listed = self.client.list(&self.registry.members_prefix()).await;
                    listed.map(|(kvs, revision)| (kvs, revision, size))
                }
                Err(error) => Err(error),
            };
            match found {
                Ok((kvs, revision, size)) => {
                    self.retries = 0;
                    let mut members = registry::Members::default();
                    for kv in &kvs {
                        members.add(&self.registry, kv);
                    }
                    if members.is_full_without(&self.registry.own_key(), size) {
                        return Err(Problem::Full);
                    }
                    return Ok(Found { members, size, revision });
                }
                Err(error) => self.back_off("cluster status check", &error).await,
            }
        }
    }

    async fn register(&mut self, own: &str) {
        let key = self.registry.own_key();
        while let Err(error) = self.client.put(&key, own).await {
            self.back_off("register member itself", &error).await;
        }
        self.retries = 0;
        tracing::info!(key, member = own, "register member itself successfully");
    }

    /// Waits until there are enough members, or the watch ends.
    async fn wait(&mut self, found: &mut Found) -> Result<(), String> {
        let prefix = self.registry.members_prefix();
        let mut watch = self.client.watch(&prefix, found.revision + 1).await?;
        while found.members.len() < found.size {
            for kv in watch.next().await? {
                found.members.add(&self.registry, &kv);
            }
        }
        Ok(())
    }

    async fn back_off(&mut self, step: &str, error: &str) {
        self.retries = self.retries.saturating_add(1);
        let backoff = Duration::from_secs(1 << self.retries.min(BACKOFF_DOUBLINGS_MAX));
        tracing::warn!(reason = step, error, ?backoff, "retry connecting to discovery service");
        tokio::time::sleep(backoff).await;
    }
}

/// The names and URLs of registered members, each of which wrote `name=url`, several with commas.
fn members(registered: &[String]) -> Result<Vec<(String, String)>, Problem> {
    let mut all: Vec<(String, String)> = Vec::new();
    for text in registered {
        let mut of_one = Vec::new();
        for item in text.split(',').filter(|item| !item.is_empty()) {
            let (name, url) = item.split_once('=').ok_or(Problem::InvalidUrl)?;
            let url = parse_url(url).map_err(|_unread| Problem::InvalidUrl)?;
            if all.iter().any(|(known, _)| known == name) {
                return Err(Problem::SameName(name.to_owned()));
            }
            of_one.push((name.to_owned(), url.to_string()));
        }
        all.append(&mut of_one);
    }
    Ok(all)
}

#[cfg(test)]
mod tests;
