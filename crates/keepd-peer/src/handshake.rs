//! The first words of a stream: both sides say who they are, and either may refuse the other.

use std::time::Duration;

use keepd_node::{Hello, Receiver, Refusal};
use keepd_types::MemberId;
use tokio::time::timeout;

use crate::frames::FrameReader;
use crate::protocol::{self, Greeting, Kind, NoGreeting, Purpose};

/// Time limit for the first frame of whoever dialed.
pub(crate) const GREETING_TIMEOUT: Duration = Duration::from_secs(5);

fn refusal(reason: String) -> Refusal {
    Refusal { reason, is_removed: false }
}

/// The greeting of this member.
pub(crate) fn own_greeting(hello: Hello, to: MemberId, purpose: Purpose) -> Greeting {
    Greeting { to, purpose, hello }
}

/// The reason why a greeting is not one.
pub(crate) fn unreadable(error: NoGreeting) -> Refusal {
    refusal(match error {
        NoGreeting::Version(version) => format!(
            "one member speaks version {version} of the protocol between members, the other version \
             {}: upgrade the older one",
            protocol::VERSION
        ),
        NoGreeting::Malformed => {
            "the greeting cannot be read: no release of keepd sends it; is the URL right?"
                .to_owned()
        }
    })
}

/// Judges a greeting: first whether it is meant for this member, then what the member says.
pub(crate) fn judge(receiver: &dyn Receiver, greeting: &Greeting) -> Result<(), Refusal> {
    let (own, other) = (receiver.hello(), &greeting.hello);
    if other.member == own.member {
        return Err(refusal(format!(
            "both sides are member {}: a peer URL points back to its own member, or two members were \
             started with copies of one data directory; correct the URL (member update), and start \
             each member with a data directory of its own",
            own.member
        )));
    }
    if other.cluster != own.cluster {
        return Err(refusal(format!(
            "cluster ID mismatch: member {} belongs to cluster {}, member {} to cluster {}: compare \
             their --initial-cluster and --initial-cluster-token; a member of the wrong cluster \
             starts anew with an empty data directory",
            other.member, other.cluster, own.member, own.cluster
        )));
    }
    if greeting.to != own.member {
        return Err(refusal(format!(
            "this is member {}, and member {} was dialed here: the peer URL of member {} is wrong; \
             correct it with member update",
            own.member, greeting.to, greeting.to
        )));
    }
    receiver.meet(other)
}

/// The bad end of a handshake, on the dialing side.
#[derive(Debug)]
pub(crate) enum Failed {
    /// The connection broke, or something unexpected came.
    Broken(String),
    /// The peer refuses this member.
    RefusedBy(Refusal),
    /// This member refuses the peer.
    Refusing(Refusal),
}

/// The dialing side: reads the answer of a member and judges it.
pub(crate) async fn answered(
    reader: &mut FrameReader,
    receiver: &dyn Receiver,
    to: MemberId,
    limit: Duration,
) -> Result<Hello, Failed> {
    let frame = timeout(limit, reader.next());
    let frame = frame.await.map_err(|_elapsed| Failed::Broken("no greeting came".to_owned()))?;
    match frame.map_err(|error| Failed::Broken(error.to_string()))? {
        Some((Kind::Greeting, payload)) => {
            let greeting =
                Greeting::decode(&payload).map_err(|error| Failed::Refusing(unreadable(error)))?;
            judge(receiver, &greeting).map_err(Failed::Refusing)?;
            let found = greeting.hello.member;
            if found != to {
                return Err(Failed::Refusing(refusal(format!(
                    "member {found} answers where member {to} was dialed: the peer URL of member \
                     {to} is wrong; correct it with member update"
                ))));
            }
            Ok(greeting.hello)
        }
        Some((Kind::Refused, payload)) => Err(Failed::RefusedBy(protocol::refusal(&payload))),
        Some((Kind::Ended | Kind::StateRefused, payload)) => {
            Err(Failed::Broken(protocol::text(&payload)))
        }
        Some((kind, _)) => Err(Failed::Broken(format!("{kind:?} came instead of a greeting"))),
        None => Err(Failed::Broken("it ended before its greeting".to_owned())),
    }
}
