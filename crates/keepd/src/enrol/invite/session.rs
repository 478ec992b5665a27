//! One connection of a machine that wants to join.

use std::time::Duration;

use anyhow::Context as _;
use keepd_api::etcdserverpb as pb;
use keepd_tls::{EXPORTER_LABEL, Side, Subject};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::super::grant;
use super::super::message::{self, Answer, Granted, JoinRequest, REQUEST_BYTES_MAX};
use super::Inviter;

/// BOUND: time of the handshake and of the wish.
const ASK_MAX: Duration = Duration::from_secs(15);

/// Hears a machine and answers it. The id and name of one that was let in.
pub(super) async fn run(
    inviter: &Inviter,
    stream: TcpStream,
) -> anyhow::Result<Option<(u64, String)>> {
    let acceptor = tokio_rustls::TlsAcceptor::from(inviter.tls.clone());
    let hearing = async {
        let mut stream = acceptor.accept(stream).await.map_err(|error| {
            anyhow::anyhow!("handshake failed: {}", keepd_tls::explain_io(&error))
        })?;
        let exported = stream.get_ref().1.export_keying_material([0; 32], EXPORTER_LABEL, None)?;
        // A MAC under 128 random bits tells nothing of them, so it may be said first.
        let proof = message::proof(&inviter.secret, Side::Inviter, &exported);
        stream.write_all(&proof).await?;
        stream.flush().await?;
        let secret = &inviter.secret;
        let knows = message::read_proof(&mut stream, secret, Side::Newcomer, &exported)
            .await
            .context("it left without proving that it knows the secret")?;
        anyhow::ensure!(knows, "refused: it does not know the invitation's secret");
        let wish = message::read_frame(&mut stream, REQUEST_BYTES_MAX).await?;
        let wish = JoinRequest::decode(&wish)
            .context("its wish cannot be read: is it another version?")?;
        Ok::<_, anyhow::Error>((stream, wish))
    };
    let heard = timeout(ASK_MAX, hearing).await;
    let (mut stream, wish) = heard.map_err(|_elapsed| anyhow::anyhow!("too slow"))??;
    let (answer, guest) = answer(inviter, &wish).await;
    match &answer {
        Answer::Refused(reason) => crate::complain(&format!("refused {}: {reason}", wish.name)),
        Answer::Granted(_) | Answer::Busy(_) => {}
    }
    let told = async {
        message::write_frame(&mut stream, &answer.encode()).await?;
        stream.shutdown().await
    };
    if !matches!(timeout(ASK_MAX, told).await, Ok(Ok(()))) {
        crate::complain(&format!(
            "{} left before its answer; it may come again with the same token",
            wish.name
        ));
    }
    Ok(guest)
}

/// Decides, and adds the member.
async fn answer(inviter: &Inviter, wish: &JoinRequest) -> (Answer, Option<(u64, String)>) {
    let refused = |reason: String| (Answer::Refused(reason), None);
    let again = inviter.granted.borrow().iter().find(|(of, _)| *of == wish.request).cloned();
    if let Some((_, granted)) = again {
        return (Answer::Granted(granted), None);
    }
    if inviter.env.clock.wall().as_secs() >= inviter.expires {
        return refused("the invitation has expired; ask for another".to_owned());
    }
    if inviter.uses_left.get() == 0 {
        return refused("the invitation has been used; ask for another".to_owned());
    }
    if inviter.has_guest.get() {
        return (Answer::Busy("another machine is joining".to_owned()), None);
    }
    inviter.has_guest.set(true);
    match let_in(inviter, wish).await {
        Ok((id, granted)) => {
            inviter.uses_left.set(inviter.uses_left.get() - 1);
            inviter.granted.borrow_mut().push((wish.request.clone(), granted.clone()));
            crate::complain(&format!("{} was added as learner {id:x}", wish.name));
            (Answer::Granted(granted), Some((id, wish.name.clone())))
        }
        Err(reason) => {
            inviter.has_guest.set(false);
            inviter.changed.notify_one();
            refused(reason)
        }
    }
}

async fn let_in(inviter: &Inviter, wish: &JoinRequest) -> Result<(u64, Granted), String> {
    let mut cluster = inviter.cluster.lock().await;
    let asked = cluster.members().await;
    let (_, members) = asked.map_err(|error| format!("the cluster does not answer: {error}"))?;
    let hosts = grant::check(wish, &inviter.limits, &members)?;
    let is_sent = inviter.encryption.is_some();
    grant::check_keys(wish.keys.as_deref(), &inviter.needed_keys, is_sent)?;
    // ORDER: signed before the cluster is told, which cannot be taken back so easily.
    let subject = Subject::peer(&wish.name, &hosts);
    let signed = inviter.authority.sign_request(&wish.request, &subject);
    let certificate = signed.map_err(|error| format!("no certificate can be made: {error}"))?;
    let added = cluster.add_learner(&wish.peer_urls).await;
    let (id, members) = added.map_err(|error| format!("the cluster does not take it: {error}"))?;
    let granted = Granted {
        ca: inviter.authority.certificate_pem(),
        certificate,
        initial_cluster: initial_cluster(&members, id, &wish.name),
        member_id: format!("{id:x}"),
        encryption: inviter.encryption.clone().filter(|_| wish.keys.is_none()),
    };
    Ok((id, granted))
}

/// The members as `--initial-cluster` has them; one that never told its name goes by its id.
fn initial_cluster(members: &[pb::Member], own: u64, own_name: &str) -> String {
    let named = members.iter().flat_map(|member| {
        let name = match member.name.as_str() {
            _ if member.id == own => own_name.to_owned(),
            "" => format!("{:x}", member.id),
            name => name.to_owned(),
        };
        member.peer_ur_ls.iter().map(move |url| format!("{name}={url}"))
    });
    named.collect::<Vec<_>>().join(",")
}
