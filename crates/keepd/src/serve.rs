//! Running a server: from checked options to serving, to an orderly end.

mod auto_tls;
mod background;
mod backups;
mod bootstrap;
mod discovery;
mod join;
mod network;
mod process;
mod shipping;
mod srv;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use domain::resolv::StubResolver;
use keepd_crypto::{
    ConfigOptions, DataKeyId, Encryption, EncryptionConfig, KeyServices, NoKeyServices,
};
use keepd_env::Env;
use keepd_node::{DataDir, Node};
use keepd_peer::Network;
use keepd_server::{
    BackupMetrics, Bind, ConnectionOptions, Context, Endpoint, Limits, Listener, Server,
};
use keepd_tls::{ClientTls, ServerTls, TlsOptions};
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::backups::Backups;
use self::shipping::Shipping;
use crate::flags::{Parsed, ServerOptions, Url};

/// Exit code of a server that cannot start or had to stop.
const FAILED: u8 = 1;

/// Interval at which unused memory is given back to the system.
const MEMORY_INTERVAL: Duration = Duration::from_secs(1);
/// Time that connections get to end after the member has stopped by itself.
const HALTED_PATIENCE: Duration = Duration::from_millis(200);
/// Election timeouts that another member gets to take leadership over before a stop.
const HAND_OVER_TIMEOUTS: u32 = 2;

/// Runs a server until it is told to stop; returns the exit code.
pub(crate) fn run(parsed: Parsed) -> ExitCode {
    let Parsed { options, notices } = parsed;
    if let Err(error) = crate::logging::init(&options.log) {
        crate::complain(&error);
        return ExitCode::from(FAILED);
    }
    for notice in &notices {
        crate::log_notice(notice);
    }
    process::ignore_signals();
    #[cfg(feature = "failpoints")]
    if let Err(error) = crate::failpoints::start() {
        tracing::error!(error, "the server does not start");
        return ExitCode::from(FAILED);
    }
    if let Err(error) = process::prepare() {
        tracing::error!(error, "the server does not start");
        crate::complain_to_person(&error);
        return ExitCode::from(FAILED);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start the runtime");
            return ExitCode::from(FAILED);
        }
    };
    match runtime.block_on(serve(options)) {
        Ok(ending) => {
            runtime.shutdown_timeout(Duration::from_secs(1));
            ending.exit()
        }
        Err(error) => {
            let is_refused = error.is::<bootstrap::Refused>();
            let message = if is_refused { "discovery failed" } else { "the server does not start" };
            tracing::error!(error = %error, "{message}");
            crate::complain_to_person(&error.to_string());
            ExitCode::from(FAILED)
        }
    }
}

/// The reason why a server ended.
enum Ending {
    /// A signal.
    Signal(i32),
    /// An error after which the member must not go on.
    Halted(String),
    /// The member was removed from its cluster.
    Removed,
}

impl Ending {
    fn exit(self) -> ExitCode {
        match self {
            Self::Signal(signal) => process::end_by_signal(signal),
            Self::Halted(reason) => {
                crate::complain_to_person(&reason);
                ExitCode::from(FAILED)
            }
            // As etcd: it was asked for, and another start would change nothing.
            Self::Removed => ExitCode::SUCCESS,
        }
    }
}

/// The listeners of a server, bound before anything is written.
struct Listeners {
    clients: Vec<Listener>,
    peers: Vec<Listener>,
    metrics: Vec<Listener>,
}

async fn serve(mut options: ServerOptions) -> anyhow::Result<Ending> {
    let env = if options.unsafe_no_fsync { Env::real_unsynced() } else { Env::real() };
    if !env.disk.is_synced() {
        tracing::warn!("{}; for data that may be lost only", keepd_server::UNSYNCED);
    }
    let services: Arc<dyn KeyServices> = Arc::new(NoKeyServices);
    join::prepare(&env, &mut options, &*services).await?;
    let config = encryption_config(&env, &options, &*services).await?;
    backups::check(&env, &options).await?;
    let own_certificates = auto_tls::prepare(&env, &mut options)?;
    let listeners = bind(&env, &options).await?;
    let peer_tls = network::tls(&env, &options)?;
    complete_import(&env, &options, config.clone()).await?;
    let node_options = node_options(&env, &options, peer_tls.clone()).await?;
    let data_dir = {
        let (env, node_options) = (env.clone(), node_options.clone());
        tokio::task::spawn_blocking(move || DataDir::prepare(&env, &node_options, config)).await??
    };
    let (encryption, is_new) = (data_dir.encryption(), data_dir.is_new());
    tracing::info!(
        data_dir = %options.data_dir.display(),
        is_new,
        sealed = encryption.files().is_sealing(),
        "starting an etcd server"
    );
    warn_of_data_dir(&options, &encryption);
    tell_of_plain_data(&encryption);
    let node = {
        let env = env.clone();
        tokio::task::spawn_blocking(move || Node::start(env, node_options, data_dir)).await??
    };
    let backup_metrics = Arc::new(BackupMetrics::default());
    let server = server(&options, &node, Arc::clone(&encryption), &backup_metrics);
    for listener in listeners.metrics {
        tracing::info!(address = listener.local_address(), "serving metrics");
        server.serve_metrics(listener);
    }
    let network = network::start(&env, &options, peer_tls);
    for listener in listeners.peers {
        server.serve_peers(listener, &network);
    }
    // ORDER: the others reach this member before it waits for a leader, whom they may have to elect
    // with it; it answers before it speaks.
    network.attach(Arc::new(node.handle()));
    node.handle().connect(Arc::new(network.clone()));
    // ORDER: before it is waited for; a configuration that lacks keys is mended by its reload.
    follow(&options, &node, services, is_new);
    let mut signals = Signals::new()?;
    let ended = tokio::select! {
        ending = signals.wait_for_end(&node) => Some(ending?),
        is_ready = is_ready(&options, &node, is_new) => {
            if is_ready? {
                serve_clients(&server, listeners.clients);
            }
            None
        }
    };
    tokio::spawn(node.handle().follow_active_keys());
    tokio::spawn(give_back_memory());
    tokio::spawn(own_certificates.renew(env.clone()));
    server.compact_automatically(options.auto_compaction);
    server.check_for_corruption(options.corruption_checks);
    let (ending, backups, shipping) = match ended {
        Some(ending) => (ending, Backups::default(), Shipping::default()),
        None => {
            let backups = Backups::start(&options, node.handle(), backup_metrics)?;
            let shipping = Shipping::start(&options, &node.handle())?;
            (signals.wait_for_end(&node).await?, backups, shipping)
        }
    };
    stop(&ending, server, network, node, (backups, shipping)).await?;
    Ok(ending)
}

/// The services of the member.
fn server(
    options: &ServerOptions,
    node: &Node,
    encryption: Arc<Encryption>,
    backups: &Arc<BackupMetrics>,
) -> Server {
    let limits = Limits {
        request_bytes_max: options.max_request_bytes,
        txn_ops_max: options.max_txn_ops,
        request_expected: options.request_expected,
    };
    let context = Context::new(node.handle(), encryption, limits);
    let server = Server::new(context, options.access.clone())
        .with_metrics(options.has_extensive_metrics, &options.feature_gates);
    if options.backups.to.is_empty() { server } else { server.with_backups(Arc::clone(backups)) }
}

/// Begins what goes on beside the member from its start: the reload of its encryption configuration, and
/// word of how far one is that joins by invitation.
fn follow(options: &ServerOptions, node: &Node, services: Arc<dyn KeyServices>, is_new: bool) {
    if options.encryption_provider_config_automatic_reload
        && let Some(path) = options.encryption_provider_config.clone()
    {
        tokio::spawn(node.handle().reload_encryption_on_change(path, services));
    }
    if options.join.is_some() && is_new {
        tokio::spawn(join::tell_progress(node.handle()));
    }
}

async fn stop(
    ending: &Ending,
    server: Server,
    network: Network,
    node: Node,
    (backups, shipping): (Backups, Shipping),
) -> anyhow::Result<()> {
    backups.begin_stop();
    let patience = match ending {
        Ending::Signal(_) => {
            hand_over(&node).await;
            node.handle().options().request_timeout()
        }
        // Nothing is acknowledged any more: whoever watches the process should know soon.
        Ending::Halted(_) | Ending::Removed => HALTED_PATIENCE,
    };
    // ORDER: clients first, whose requests other members may be answering.
    server.stop_clients(patience).await;
    // ORDER: behind the clients, whose last writes it ships.
    shipping.stop().await;
    network.shutdown().await;
    server.stop().await;
    tokio::task::spawn_blocking(move || node.stop()).await?;
    backups.stop().await;
    tracing::info!("closed etcd server");
    Ok(())
}

/// Waits until the cluster can commit, and until this member may serve the stored values.
async fn is_ready(options: &ServerOptions, node: &Node, is_new: bool) -> anyhow::Result<bool> {
    if node.ready().await.is_err() || node.handle().encryption_is_active().await.is_err() {
        return Ok(false);
    }
    check_initially(options, node, is_new).await?;
    Ok(true)
}

fn serve_clients(server: &Server, listeners: Vec<Listener>) {
    tracing::info!("published local member to cluster through raft");
    announce(&listeners);
    for listener in listeners {
        server.serve_clients(listener);
    }
    process::notify_ready();
}

/// Has another member lead, so that nobody has to wait for an election.
async fn hand_over(node: &Node) {
    let limit = HAND_OVER_TIMEOUTS * node.handle().options().election_timeout;
    if tokio::time::timeout(limit, node.handle().hand_over_leadership()).await.is_err() {
        tracing::warn!("leadership was not handed over in time; the others elect a leader");
    }
}

/// Compares a member that was there before with the others, before it serves anybody.
async fn check_initially(options: &ServerOptions, node: &Node, is_new: bool) -> anyhow::Result<()> {
    if !options.initial_corruption_check || is_new {
        return Ok(());
    }
    keepd_server::check_initially(&node.handle()).await.map_err(|error| {
        tracing::error!(error, "checkInitialHashKV failed");
        anyhow::anyhow!("{error}: remove this member, empty its data directory and add it again")
    })
}

fn tell_of_plain_data(encryption: &Encryption) {
    if !encryption.files().is_sealing() {
        tracing::warn!(
            "data at rest is NOT encrypted: give --encryption-provider-config to seal it"
        );
    }
}

/// Returns unused memory to the system, at intervals.
async fn give_back_memory() {
    let mut interval = tokio::time::interval(MEMORY_INTERVAL);
    loop {
        interval.tick().await;
        crate::give_back_memory();
    }
}

/// The signals that end a server.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let (terminate, interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(Self { terminate, interrupt })
    }

    /// Waits for a signal, or for the member to stop by itself.
    async fn wait_for_end(&mut self, node: &Node) -> anyhow::Result<Ending> {
        let mut halted = node.handle().halted();
        let signal = tokio::select! {
            _ = self.terminate.recv() => libc::SIGTERM,
            _ = self.interrupt.recv() => libc::SIGINT,
            reason = halted.wait_for(Option::is_some) => {
                let reason = reason?.clone().expect("it was waited for");
                let is_removal = reason.is_removal();
                return Ok(if is_removal { Ending::Removed } else { Ending::Halted(reason.0) });
            }
        };
        let name = if signal == libc::SIGTERM { "terminated" } else { "interrupt" };
        tracing::info!(signal = name, "received signal; shutting down");
        Ok(Ending::Signal(signal))
    }
}

fn announce(listeners: &[Listener]) {
    tracing::info!("ready to serve client requests");
    for listener in listeners {
        let address = listener.local_address();
        if listener.is_tls() {
            tracing::info!(traffic = "grpc+http", address, "serving client traffic securely");
        } else {
            tracing::info!(
                traffic = "grpc+http",
                address,
                "serving client traffic insecurely; this is strongly discouraged!"
            );
        }
    }
}

/// Reads the encryption configuration; a file that others can read gets a warning.
async fn encryption_config(
    env: &Env,
    options: &ServerOptions,
    services: &dyn KeyServices,
) -> anyhow::Result<Option<EncryptionConfig>> {
    let Some(path) = &options.encryption_provider_config else { return Ok(None) };
    let trust_plain_data = options.encryption_trust_plain_data;
    let forms = ConfigOptions { trust_plain_data, ..ConfigOptions::default() };
    let config = crate::encryption_config(env, path, forms, services, &options.data_dir).await?;
    for warning in config.warnings() {
        tracing::warn!(file = %path.display(), "{warning}");
    }
    if process::is_readable_by_others(path) {
        tracing::warn!(
            file = %path.display(),
            "others can read the encryption configuration, which holds keys: chmod 600 it"
        );
    }
    Ok(Some(config))
}

/// Warns of a data directory that others can enter, and says what `--encryption-trust-plain-data`
/// does at this start: it is meant for the first encryption of a directory.
fn warn_of_data_dir(options: &ServerOptions, encryption: &Encryption) {
    if process::is_entered_by_others(&options.data_dir) {
        tracing::warn!(
            data_dir = %options.data_dir.display(),
            "others can enter the data directory: chmod 700 it"
        );
    }
    if !options.encryption_trust_plain_data {
        return;
    }
    if encryption.files().known().contains(&DataKeyId::PLAIN) {
        tracing::warn!(
            "plain files of the data directory are taken for genuine and are being encrypted; \
             remove --encryption-trust-plain-data when `keepd encryption status` shows none"
        );
    } else {
        tracing::warn!(
            "--encryption-trust-plain-data is spent: plain files are refused; remove the flag"
        );
    }
}

/// Finishes a restore that waited for the encryption configuration.
async fn complete_import(
    env: &Env,
    options: &ServerOptions,
    config: Option<EncryptionConfig>,
) -> anyhow::Result<()> {
    crate::backup::refuse_half_restored(env, &options.data_dir)?;
    let (env, data_dir) = (env.clone(), options.data_dir.clone());
    let importing = tokio::task::spawn_blocking(move || {
        keepd_backup::complete_pending(&env, &data_dir, config.as_ref(), &mut |_| {})
    });
    if let Some(restored) = importing.await?? {
        tracing::info!(
            file_revision = restored.file_revision,
            revision = restored.revision,
            records = restored.records,
            sealed = restored.sealed,
            "finished the import of a restored snapshot"
        );
    }
    Ok(())
}

/// The member's options. What the flags say of its first start counts only if there is no member yet.
async fn node_options(
    env: &Env,
    options: &ServerOptions,
    peer_tls: Option<Arc<ClientTls>>,
) -> anyhow::Result<keepd_node::Options> {
    let mut of_node = keepd_node::Options::new(options.data_dir.clone());
    #[cfg(feature = "failpoints")]
    {
        of_node.feature_level = crate::failpoints::feature_level().map_err(anyhow::Error::msg)?;
    }
    if DataDir::has_member(env, &options.data_dir)? {
        tracing::info!("server has already been initialized");
        if options.discovery.is_some() {
            tracing::warn!("discovery token is ignored since cluster already initialized");
        }
    } else {
        tracing::info!("Initialize and start etcd server");
        let mut options = options.clone();
        if !options.discovery_srv.is_empty() {
            let found = srv::members(&StubResolver::new(), &options).await;
            options.initial_cluster = found.map_err(bootstrap::Refused)?;
        }
        if let Some(discovery) = &options.discovery {
            let found = discovery::join(env, &options, discovery).await;
            options.initial_cluster = found.map_err(bootstrap::Refused)?;
        }
        let fetch = async |urls, timeout| network::fetch(urls, peer_tls.clone(), timeout).await;
        of_node.bootstrap = bootstrap::decide(&options, fetch).await?;
    }
    Ok(keepd_node::Options {
        name: options.name.clone(),
        client_urls: options.advertise_client_urls.iter().map(ToString::to_string).collect(),
        heartbeat_interval: options.heartbeat_interval,
        election_timeout: options.election_timeout,
        pre_vote: options.pre_vote,
        force_new_cluster: options.force_new_cluster,
        learners_max: options.learners_max,
        snapshot_count: options.snapshot_count,
        catch_up_entries: options.catch_up_entries,
        hastens_first_election: options.hastens_first_election,
        apply_expected: options.apply_expected,
        flush_interval: options.flush_interval,
        strict_reconfig_check: options.strict_reconfig_check,
        quota_bytes: options.quota_backend_bytes,
        request_bytes_max: options.max_request_bytes,
        progress_notify_interval: options.watch_progress_notify_interval,
        log_holds: options.backups.log.map_or(0, |_| options.backups.to.len()),
        shipped_log_bytes: options.backups.log.map_or(0, |log| log.hold),
        ..of_node
    })
}

async fn bind(env: &Env, options: &ServerOptions) -> anyhow::Result<Listeners> {
    let client_tls = tls(env, options.client_tls())?;
    let peer_tls = tls(env, options.peer_tls())?;
    let mut listeners = Listeners { clients: vec![], peers: vec![], metrics: vec![] };
    for url in &options.listen_peer_urls {
        let listener = bind_one(options, url, peer_tls.as_ref(), Endpoint::Peer).await?;
        listeners.peers.push(listener);
    }
    for url in &options.listen_client_urls {
        let listener = bind_one(options, url, client_tls.as_ref(), Endpoint::Client).await?;
        listeners.clients.push(listener);
    }
    for url in &options.listen_metrics_urls {
        let listener = bind_one(options, url, client_tls.as_ref(), Endpoint::Metrics).await?;
        listeners.metrics.push(listener);
    }
    Ok(listeners)
}

fn tls(env: &Env, options: Option<TlsOptions>) -> anyhow::Result<Option<Arc<ServerTls>>> {
    let Some(options) = options else { return Ok(None) };
    let key_file = options.key_file.clone();
    let tls = ServerTls::new(options, env)?;
    if process::is_readable_by_others(&key_file) {
        tracing::warn!(
            file = %key_file.display(),
            "others can read the private key: chmod 600 it"
        );
    }
    for warning in tls.warnings() {
        tracing::warn!("{warning}");
    }
    Ok(Some(Arc::new(tls)))
}

async fn bind_one(
    options: &ServerOptions,
    url: &Url,
    tls: Option<&Arc<ServerTls>>,
    endpoint: Endpoint,
) -> anyhow::Result<Listener> {
    let tls = match (url.is_tls(), tls) {
        (true, Some(tls)) => Some(Arc::clone(tls)),
        (true, None) if endpoint == Endpoint::Peer => anyhow::bail!(
            "cannot listen on TLS for {}: KeyFile and CertFile are not presented",
            url.address()
        ),
        (true, None) => anyhow::bail!(
            "TLS key/cert (--cert-file, --key-file) must be provided for {} url {url} \
             with HTTPS scheme",
            endpoint.name()
        ),
        (false, Some(_)) => {
            tracing::warn!(
                url = %url,
                "scheme is http or unix while key and cert files are present; ignoring key and \
                 cert files"
            );
            None
        }
        (false, None) => None,
    };
    let bind = if url.is_unix() {
        Bind::Unix(PathBuf::from(url.address()))
    } else {
        Bind::Tcp(url.address().to_owned())
    };
    let connection = ConnectionOptions {
        concurrent_streams_max: options.max_concurrent_streams,
        keepalive_interval: options.grpc_keepalive_interval,
        keepalive_timeout: options.grpc_keepalive_timeout,
        reuse_port: options.socket_reuse_port,
        checks_addresses: match endpoint {
            Endpoint::Client => false,
            Endpoint::Metrics => true,
            Endpoint::Peer => !options.peer_security.skip_client_san_verification,
        },
    };
    Ok(Listener::bind(&bind, tls, connection, endpoint).await?)
}
