//! `--join TOKEN`: an empty machine gets its certificate and is told of the cluster, before it starts as
//! any member that joins.
//!
//! All that it gets lies beside the data directory, not in it, for a copy of the data must not hold keys:
//!
//! ```text
//! <data-dir>.join/
//!   member.key        made here, and never sent
//!   member.crt ca.crt from the inviter
//!   encryption.yaml   only if the inviter was told to send it
//!   join.json         the members; written last: with it, nobody is asked again
//! ```
//!
//! A later start with the same flags finds the files and asks nobody; the token is spent then.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use keepd_crypto::{KeyServices, ValueSealer};
use keepd_env::Env;
use keepd_machine::membership;
use keepd_machine::tables;
use keepd_node::{DataDir, Handle};
use zeroize::Zeroizing;

use crate::enrol::{self, Granted, JoinRequest, Token};
use crate::flags::{self, ClusterState, ServerOptions};

/// Interval at which a member that joined looks how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// The files of a member that joined.
struct Place {
    dir: PathBuf,
}

impl Place {
    fn beside(data_dir: &Path) -> anyhow::Result<Self> {
        Ok(Self { dir: std::path::absolute(flags::join_dir(data_dir))? })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The answer of an inviter that was asked before.
    fn granted(&self, env: &Env) -> anyhow::Result<Option<Granted>> {
        let path = self.path("join.json");
        if !env.disk.exists(&path)? {
            return Ok(None);
        }
        let value = serde_json::from_slice(&env.disk.read(&path)?).ok();
        let granted = value.as_ref().and_then(Granted::decode);
        granted.map(Some).with_context(|| {
            format!(
                "{} cannot be read; remove {}, and join anew",
                path.display(),
                self.dir.display()
            )
        })
    }

    /// The request for a certificate for this machine's key, which is made if there is none.
    fn request(&self, env: &Env) -> anyhow::Result<String> {
        env.disk.create_dir(&self.dir)?;
        let path = self.path("member.key");
        if env.disk.exists(&path)? {
            let bytes = Zeroizing::new(env.disk.read(&path)?);
            let text = std::str::from_utf8(&bytes)
                .map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
            // The same key, so that an inviter knows a machine that comes again.
            return Ok(keepd_tls::certificate_request_for(text)?);
        }
        let (key, request) = keepd_tls::certificate_request()?;
        env.disk.replace(&path, key.as_bytes())?;
        Ok(request)
    }

    fn store(&self, env: &Env, granted: &Granted) -> anyhow::Result<()> {
        let disk = &env.disk;
        disk.replace(&self.path("ca.crt"), granted.ca.as_bytes())?;
        disk.replace(&self.path("member.crt"), granted.certificate.as_bytes())?;
        if let Some(encryption) = &granted.encryption {
            disk.replace(&self.path("encryption.yaml"), encryption.as_bytes())?;
        }
        let without_keys = Granted { encryption: None, ..granted.clone() };
        // ORDER: last; with it the others are there.
        disk.replace(&self.path("join.json"), without_keys.encode().to_string().as_bytes())?;
        let parent = self.dir.parent().unwrap_or_else(|| Path::new("/"));
        Ok(disk.sync_dir(parent)?)
    }

    /// Has the server use the configuration that was sent, where its flags name none; the certificates are
    /// in its options already.
    fn apply(&self, env: &Env, options: &mut ServerOptions) -> anyhow::Result<()> {
        let encryption = self.path("encryption.yaml");
        if options.encryption_provider_config.is_none() && env.disk.exists(&encryption)? {
            options.encryption_provider_config = Some(encryption);
        }
        Ok(())
    }
}

/// Joins, if the flags say so and this machine has not yet.
pub(super) async fn prepare(
    env: &Env,
    options: &mut ServerOptions,
    services: &dyn KeyServices,
) -> anyhow::Result<()> {
    let Some(token) = options.join.clone() else { return Ok(()) };
    let place = Place::beside(&options.data_dir)?;
    if DataDir::has_member(env, &options.data_dir)? {
        tracing::info!("this member has joined before; --join is ignored");
        return place.apply(env, options);
    }
    let granted = match place.granted(env)? {
        Some(granted) => granted,
        None => {
            let granted = ask(env, options, services, &place, &token).await?;
            place.store(env, &granted)?;
            granted
        }
    };
    tracing::info!(
        member = granted.member_id,
        cluster = granted.initial_cluster,
        "joining: the certificate is there, and the cluster has been told of this member"
    );
    crate::complain_to_person(&format!(
        "joining as {} ({}): receiving the state of the others",
        options.name, granted.member_id
    ));
    options.initial_cluster = members(&granted.initial_cluster)?;
    options.initial_cluster_state = ClusterState::Existing;
    place.apply(env, options)
}

async fn ask(
    env: &Env,
    options: &ServerOptions,
    services: &dyn KeyServices,
    place: &Place,
    token: &str,
) -> anyhow::Result<Granted> {
    let token = Token::parse(&read_token(token)?);
    let token = token.map_err(|error| anyhow::anyhow!("--join: {error}"))?;
    let config = super::encryption_config(env, options, services).await?;
    let keys = config.map(|config| {
        let keys = ValueSealer::new(&config).key_ids();
        keys.iter().map(|(id, _)| format!("{:016x}", id.0)).collect()
    });
    let wish = JoinRequest {
        name: options.name.clone(),
        peer_urls: options.initial_advertise_peer_urls.iter().map(ToString::to_string).collect(),
        client_urls: options.advertise_client_urls.iter().map(ToString::to_string).collect(),
        request: place.request(env)?,
        keys,
    };
    tracing::info!(addresses = token.addresses.join(","), "asking to be let in");
    let granted = enrol::enrol(env, &token, &wish).await;
    granted.map_err(|error| anyhow::anyhow!("--join: {error:#}"))
}

/// The token, from its file if it is named so: other users see command lines.
fn read_token(text: &str) -> anyhow::Result<String> {
    match text.strip_prefix('@') {
        Some(file) => std::fs::read_to_string(file)
            .map_err(|error| anyhow::anyhow!("--join @{file}: {error}")),
        None => Ok(text.to_owned()),
    }
}

fn members(text: &str) -> anyhow::Result<Vec<(String, String)>> {
    let pair = |part: &str| {
        let (name, url) = part.split_once('=')?;
        Some((name.to_owned(), url.to_owned()))
    };
    let pairs: Option<Vec<_>> = text.split(',').map(pair).collect();
    pairs.context("the inviter's list of members cannot be read")
}

/// Tells how far a member is that has just joined, until it votes.
pub(super) async fn tell_progress(handle: Handle) {
    let own = handle.identity().member;
    let mut interval = tokio::time::interval(PROGRESS_INTERVAL);
    let mut told = None;
    loop {
        interval.tick().await;
        if handle.halted().borrow().is_some() {
            return;
        }
        let view = handle.view();
        let known = membership::member(view.meta(tables::MEMBERS), own).ok().flatten();
        let applied = view.applied().index;
        let status = handle.status();
        if known.is_some_and(|member| !member.is_learner) && applied > 0 {
            tracing::info!(applied, "joined: this member votes");
            crate::complain_to_person("joined: this member votes");
            return;
        }
        if told != Some(applied) {
            told = Some(applied);
            tracing::info!(
                applied,
                committed = status.commit_index,
                "joining: catching up as a learner"
            );
            crate::complain_to_person(&format!(
                "catching up: {applied} of {} entries",
                status.commit_index
            ));
        }
    }
}
