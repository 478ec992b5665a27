//! `keepd cluster invite`: lets machines join for a while, and promotes them.
//!
//! The invitation lives as long as this process: its secret is in memory only, and nothing of it is left
//! when it ends. One machine joins at a time, since a cluster takes one learner at a time. A machine that
//! lost the answer may ask again with the same key and gets the same answer.

mod session;
mod setup;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use keepd_env::Env;
use keepd_gotext::GoDuration;
use keepd_tls::Authority;
use rustls::ServerConfig;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio::task::LocalSet;

use super::grant::{Key, Limits};
use super::message::Granted;
use super::token::{SECRET_LEN, Token};
use crate::admin::{AccessArguments, Cluster};
use crate::promotion;

/// BOUND: machines that are connected at once; others are let go.
const CONNECTIONS_MAX: usize = 16;
/// Pause after a connection that could not be taken: descriptors may have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Exit code if the invitation expired and nobody joined.
const NOBODY_CAME: u8 = 3;

/// Let machines join: prints a token for `keepd server --join`, and waits for them.
///
/// Run it where the CA's key is, or bring the key here for the time; the servers do not need it. The token
/// is printed to standard output, all else to standard error. It is worth as much as the invitation: give it
/// to nobody but the machine.
///
/// Exit codes: 0 a machine joined, 1 failed, 2 mistake on the command line, 3 nobody came in time.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// A directory that `keepd quickstart` made: has CA, client certificate and endpoint.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The directory with the CA's ca.crt and ca.key.
    #[arg(long, value_name = "DIR", required_unless_present = "dir")]
    ca_dir: Option<PathBuf>,
    #[command(flatten)]
    access: AccessArguments,
    /// The address at which to wait for machines.
    #[arg(long, value_name = "HOST:PORT", default_value = "0.0.0.0:2378")]
    listen: String,
    /// Addresses at which machines reach it; the one of --listen if not given.
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    advertise: Vec<String>,
    /// The time for which the token is good.
    #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = ttl)]
    ttl: Duration,
    /// The number of machines that may join.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=8))]
    uses: u32,
    /// Let in only a machine of this name.
    #[arg(long)]
    name: Option<String>,
    /// A host that the machine may have although another member has it; may be repeated.
    #[arg(long = "allow-host", value_name = "HOST")]
    allow_hosts: Vec<String>,
    /// Leave the member a learner.
    #[arg(long)]
    learner_only: bool,
    /// Send this encryption configuration, the members' own, to the machine.
    #[arg(long, value_name = "FILE")]
    with_encryption_config: Option<PathBuf>,
    /// Print the token as JSON.
    #[arg(short = 'w', long, value_name = "FORMAT", default_value = "text")]
    write_out: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Text,
    Json,
}

/// An invitation, while it runs.
struct Inviter {
    env: Env,
    authority: Authority,
    tls: Arc<ServerConfig>,
    secret: [u8; SECRET_LEN],
    /// Seconds since 1970.
    expires: u64,
    limits: Limits,
    needed_keys: Vec<Key>,
    /// The encryption configuration that is sent.
    encryption: Option<String>,
    cluster: tokio::sync::Mutex<Cluster>,
    uses_left: Cell<u32>,
    /// A machine is being let in, or catches up.
    has_guest: Cell<bool>,
    /// The answers that were given, by the requests: BOUND by the uses.
    granted: RefCell<Vec<(String, Granted)>>,
    learner_only: bool,
    changed: Notify,
}

/// A time that an invitation may last.
fn ttl(text: &str) -> Result<Duration, String> {
    const MAX: Duration = Duration::from_secs(24 * 60 * 60);
    let ttl: GoDuration = text.parse().map_err(|_bad| "a duration such as 15m".to_owned())?;
    let ttl = u64::try_from(ttl.nanos).map(Duration::from_nanos).unwrap_or_default();
    if ttl < Duration::from_secs(1) || ttl > MAX {
        return Err("from 1s to 24h".to_owned());
    }
    Ok(ttl)
}

/// Runs the command.
pub(super) fn main(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, run(&Env::real(), arguments))
}

async fn run(env: &Env, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let (inviter, listener, token) = setup::prepare(env, &arguments).await?;
    tell(&arguments, &token);
    let inviter = Rc::new(inviter);
    let total = arguments.uses;
    let ending = tokio::time::sleep(arguments.ttl);
    tokio::pin!(ending);
    let mut is_over = false;
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        if (is_over || inviter.uses_left.get() == 0) && !inviter.has_guest.get() {
            break;
        }
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(connection) => serve(&inviter, &connections, connection),
                Err(error) => {
                    crate::complain(&format!("cannot take a connection: {error}"));
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            () = &mut ending, if !is_over => {
                is_over = true;
                if inviter.has_guest.get() {
                    crate::complain("the invitation has expired; still waiting for the one that joins");
                }
            }
            () = inviter.changed.notified() => {}
        }
    }
    if inviter.uses_left.get() == total {
        crate::complain("the invitation has expired, and nobody came");
        return Ok(ExitCode::from(NOBODY_CAME));
    }
    Ok(ExitCode::SUCCESS)
}

/// Has a connection of its own task; at the bound it is let go.
fn serve(
    inviter: &Rc<Inviter>,
    connections: &Arc<Semaphore>,
    (stream, from): (TcpStream, SocketAddr),
) {
    let Ok(permit) = Arc::clone(connections).try_acquire_owned() else { return };
    let inviter = Rc::clone(inviter);
    tokio::task::spawn_local(async move {
        let _permit = permit;
        match session::run(&inviter, stream).await {
            Ok(Some((id, name))) => accompany(&inviter, id, &name).await,
            Ok(None) => {}
            Err(error) => crate::complain(&format!("{}: {error:#}", from.ip())),
        }
    });
}

/// Goes with a machine that was let in until it votes.
async fn accompany(inviter: &Inviter, id: u64, name: &str) {
    if inviter.learner_only {
        crate::complain(&format!("{name} ({id:x}) stays a learner, as asked"));
    } else {
        let mut cluster = inviter.cluster.lock().await;
        if let Err(error) = promotion::wait(&mut cluster, id, name).await {
            crate::complain(&format!("{error:#}"));
        }
    }
    inviter.has_guest.set(false);
    inviter.changed.notify_one();
}

/// Prints the token, and what to do with it.
fn tell(arguments: &Arguments, token: &Token) {
    let text = token.encode();
    let addresses = token.addresses.join(", ");
    if arguments.write_out == Format::Json {
        let value = json!({
            "token": text,
            "expires_unix": token.expires,
            "addresses": token.addresses,
            "uses": arguments.uses,
        });
        keepd_cli::output::line(&value.to_string());
    } else {
        keepd_cli::output::line(&text);
    }
    crate::complain(&format!(
        "waiting at {addresses} for {} machine(s), until {}; on each:\n\n  \
         keepd server --name NAME --data-dir DIR --join {text} \\\n    \
         --listen-peer-urls https://ADDRESS:2380 --initial-advertise-peer-urls https://ADDRESS:2380 \\\n    \
         --listen-client-urls https://ADDRESS:2379 --advertise-client-urls https://ADDRESS:2379{}\n\n\
         Ctrl-C ends the invitation.",
        arguments.uses,
        keepd_cli::timestamp(Duration::from_secs(token.expires)),
        if arguments.with_encryption_config.is_some() {
            ""
        } else {
            " \\\n    --encryption-provider-config FILE"
        },
    ));
}

/// Listens where machines are to come.
async fn listen(address: &str) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address).await;
    listener.map_err(|error| anyhow::anyhow!("cannot listen at {address}: {error}; give --listen"))
}
