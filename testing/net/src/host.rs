//! A host: a disk that outlives the processes on it, and a member with its ports.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use keepd_env::sim::CrashMode;
use keepd_env::{Env, ManualClock, Random, SeededRandom, SimDisk};
use keepd_member::InitialCluster;
use keepd_node::{Bootstrap, DataDir, Handle, Member, Options};
use keepd_peer::Network;
use keepd_server::{AccessControl, ConnectionOptions, Context, Endpoint, Limits, Listener, Server};
use keepd_tls::{ClientTls, ServerTls};
use parking_lot::Mutex;

use crate::door::{Doors, SimAccept, SimConnect};
use crate::parts;

/// The port for members.
pub const PEER_PORT: u16 = 2380;
/// The port for clients.
pub const CLIENT_PORT: u16 = 2379;

/// A host and its member.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) address: IpAddr,
    pub(crate) initial: InitialCluster,
    pub(crate) tls: (Arc<ServerTls>, Arc<ClientTls>),
    pub(crate) clock: ManualClock,
    pub(crate) doors: Doors,
    pub(crate) random: SeededRandom,
    pub(crate) adjust: fn(&mut Options),
    pub(crate) disk: Mutex<SimDisk>,
    /// The member, while its process runs.
    pub(crate) running: Mutex<Option<(Handle, Network)>>,
}

impl Host {
    /// The process has died; the disk is as it left it, or as a power cut left it.
    pub(crate) fn died(&self, power: Option<CrashMode>) {
        *self.running.lock() = None;
        let mut disk = self.disk.lock();
        *disk = match power {
            Some(mode) => disk.crash(mode),
            None => disk.kill(),
        };
    }

    fn options(&self) -> Options {
        let name = self.initial.members.iter().find(|it| it.id == self.initial.local);
        let mut options = Options::new(PathBuf::from("/data"));
        options.name = name.expect("it is one of the members").name.clone();
        options.client_urls = vec![format!("https://{}:{CLIENT_PORT}", self.address)];
        options.bootstrap = Bootstrap::New(self.initial.clone());
        options.ballast_bytes = 64 * 1024;
        (self.adjust)(&mut options);
        options
    }

    /// One process: from its start until the member halts, which is an error.
    pub(crate) async fn process(self: Arc<Self>) -> turmoil::Result {
        let random: Arc<dyn Random> = Arc::new(SeededRandom::new(self.random.next_u64()));
        let env = Env {
            disk: Arc::new(self.disk.lock().clone()),
            clock: Arc::new(self.clock.clone()),
            random: Arc::clone(&random),
        };
        let options = self.options();
        let election_timeout = options.election_timeout;
        let config = sim::fixture::encryption();
        let data_dir = DataDir::prepare(&env, &options, Some(config))?;
        let encryption = data_dir.encryption();
        let member = Member::open(env.clone(), options, data_dir)?;
        let handle = member.handle();
        let context = Context::new(handle.clone(), encryption, Limits::default());
        let server = Server::new(context, AccessControl::default());
        let network = Network::new(
            keepd_peer::Options {
                connect: Arc::new(SimConnect { doors: self.doors.clone(), host: self.address }),
                tls: Some(Arc::clone(&self.tls.1)),
                election_timeout,
                state_bytes_per_second: None,
            },
            &env,
        );
        server.serve_peers(self.listen(PEER_PORT, Endpoint::Peer).await?, &network);
        network.attach(Arc::new(handle.clone()));
        handle.connect(Arc::new(network.clone()));
        *self.running.lock() = Some((handle.clone(), network));
        let serving = async {
            if handle.ready().await.is_ok() && handle.encryption_is_active().await.is_ok() {
                let listener = self.listen(CLIENT_PORT, Endpoint::Client).await;
                server.serve_clients(listener.expect("nobody else listens there"));
                handle.clone().follow_active_keys().await;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = parts::run(&member, &self.clock, random.as_ref()) => {}
            () = serving => {}
        }
        let reason = handle.halted().borrow().clone();
        let reason = reason.map_or_else(|| "it ended".to_owned(), |reason| reason.0);
        Err(format!("{}: the member halts: {reason}", self.address).into())
    }

    async fn listen(&self, port: u16, endpoint: Endpoint) -> turmoil::Result<Listener> {
        let accept = SimAccept::bind(self.doors.clone(), self.address, port).await?;
        let options = ConnectionOptions {
            checks_addresses: endpoint == Endpoint::Peer,
            keepalive_interval: Some(Duration::from_secs(10)),
            ..ConnectionOptions::default()
        };
        let tls = Some(Arc::clone(&self.tls.0));
        Ok(Listener::over(Box::new(accept), tls, options, endpoint))
    }
}
