//! The side of an empty machine: finds the inviter, checks that it is the token's, and asks to be let in.

use std::time::Duration;

use anyhow::{Context as _, bail};
use keepd_env::Env;
use keepd_tls::{EXPORTER_LABEL, Side};
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::message::{self, ANSWER_BYTES_MAX, Answer, Granted, JoinRequest};
use super::token::Token;

/// BOUND: time of a connection and its handshake.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// BOUND: time of the answer: the inviter asks its cluster.
const ANSWER_MAX: Duration = Duration::from_secs(180);
/// Pause before an inviter is asked again that has another guest.
const BUSY_PAUSE: Duration = Duration::from_secs(2);
/// BOUND: attempts at a busy inviter: as long as the longest invitation of an hour.
const BUSY_MAX: u32 = 1800;

/// Asks the inviter of a token.
pub(crate) async fn enrol(env: &Env, token: &Token, wish: &JoinRequest) -> anyhow::Result<Granted> {
    for attempt in 0..BUSY_MAX {
        match ask_any(env, token, wish).await? {
            Answer::Granted(granted) => return Ok(granted),
            Answer::Refused(reason) => bail!("the inviter refuses this machine: {reason}"),
            Answer::Busy(reason) if attempt == 0 => tracing::info!(reason, "waiting to be let in"),
            Answer::Busy(_) => {}
        }
        sleep(BUSY_PAUSE).await;
    }
    bail!("the inviter has been busy for too long; ask for another invitation")
}

/// Asks at each address until one is an inviter's.
async fn ask_any(env: &Env, token: &Token, wish: &JoinRequest) -> anyhow::Result<Answer> {
    let mut reasons = Vec::new();
    for address in &token.addresses {
        let connecting = timeout(CONNECT_MAX, TcpStream::connect(address)).await;
        let stream = match connecting {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                reasons.push(format!("{address}: {error}"));
                continue;
            }
            Err(_elapsed) => {
                reasons.push(format!("{address}: no connection within {CONNECT_MAX:?}"));
                continue;
            }
        };
        // Somebody listens: if it is not the inviter, that is the answer.
        return ask(env, token, wish, address, stream).await.context(address.clone());
    }
    let now = env.clock.wall().as_secs();
    let ended =
        if now >= token.expires { ", and by this machine's clock it has expired" } else { "" };
    bail!(
        "no inviter answers ({}): an invitation lives as long as `keepd cluster invite` runs, until it is \
         used or expires{ended}; ask for another, or see that this machine reaches the address",
        reasons.join("; ")
    )
}

async fn ask(
    env: &Env,
    token: &Token,
    wish: &JoinRequest,
    address: &str,
    stream: TcpStream,
) -> anyhow::Result<Answer> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let config = keepd_tls::newcomer(env, token.ca_digest)?;
    let connector = tokio_rustls::TlsConnector::from(config);
    let handshake = connector.connect(ServerName::try_from(host)?, stream);
    let handshake = timeout(CONNECT_MAX, handshake).await;
    let mut stream = handshake
        .map_err(|_elapsed| anyhow::anyhow!("no handshake within {CONNECT_MAX:?}"))?
        .map_err(|error| {
            anyhow::anyhow!(
                "this is not the inviter of the token; nothing was told to it: {}",
                keepd_tls::explain_io(&error)
            )
        })?;
    let exported = stream.get_ref().1.export_keying_material([0; 32], EXPORTER_LABEL, None)?;
    let asking = async {
        // ORDER: nothing is told before the other side has proved to be the one that made the token.
        let is_inviter =
            message::read_proof(&mut stream, &token.secret, Side::Inviter, &exported).await?;
        anyhow::ensure!(
            is_inviter,
            "this is another invitation than the token's, or the token was changed; nothing was told to it"
        );
        let proof = message::proof(&token.secret, Side::Newcomer, &exported);
        stream.write_all(&proof).await?;
        message::write_frame(&mut stream, &wish.encode()).await?;
        let answer = message::read_frame(&mut stream, ANSWER_BYTES_MAX).await?;
        Answer::decode(&answer)
            .context("the inviter's answer cannot be read: is it another version?")
    };
    let answer = timeout(ANSWER_MAX, asking).await;
    answer.map_err(|_elapsed| anyhow::anyhow!("no answer within {ANSWER_MAX:?}"))?
}
