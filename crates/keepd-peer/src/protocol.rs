//! The form of what members say on the wire: docs/formats/peer-protocol.md.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use keepd_node::{Hello, PEER_MESSAGE_BYTES_MAX, Refusal, STATE_CHUNK_BYTES_MAX};
use keepd_types::{ClusterId, MemberId, varint};

/// The version of the protocol.
pub(crate) const VERSION: u8 = 1;

/// The path of a lane of messages.
pub(crate) const MESSAGES: &str = "/keepd.peer.v1.Peers/Messages";
/// The path of a state.
pub(crate) const STATE: &str = "/keepd.peer.v1.Peers/State";
/// The path of the membership.
pub(crate) const MEMBERSHIP: &str = "/keepd.peer.v1.Peers/Membership";
/// The content type of requests and answers, by which a peer port of keepd is known.
pub(crate) const CONTENT_TYPE: &str = "application/x-keepd-peer";

/// The reason of a member that stops in order: whoever reads it does not miss the member for a while.
pub(crate) const STOPPING: &str = "this member stops";

/// Bytes of the head of a frame: its kind and the length of its payload.
pub(crate) const HEAD_BYTES: usize = 5;
/// BOUND: bytes of a payload that is neither a message nor of a state.
const SMALL_BYTES_MAX: usize = 64 * 1024;
/// BOUND: bytes of the head of a state.
pub(crate) const STATE_HEAD_BYTES_MAX: usize = 1024 * 1024;
/// BOUND: bytes of a reason.
const REASON_BYTES_MAX: usize = 4096;
/// BOUND: URLs in a greeting.
const URLS_MAX: usize = 8;
/// BOUND: check values of keys in a greeting.
const KEYS_MAX: usize = 1024;

/// The kind of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Greeting = 1,
    Refused = 2,
    Ended = 3,
    Message = 4,
    Ping = 5,
    Pong = 6,
    StateHead = 7,
    StateChunk = 8,
    StateEnd = 9,
    StateTaken = 10,
    StateRefused = 11,
    AskMembership = 12,
    Membership = 13,
}

impl Kind {
    const ALL: [Self; 13] = [
        Self::Greeting,
        Self::Refused,
        Self::Ended,
        Self::Message,
        Self::Ping,
        Self::Pong,
        Self::StateHead,
        Self::StateChunk,
        Self::StateEnd,
        Self::StateTaken,
        Self::StateRefused,
        Self::AskMembership,
        Self::Membership,
    ];

    pub(crate) fn of(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }

    /// The most bytes of a payload of this kind.
    pub(crate) const fn bytes_max(self) -> usize {
        match self {
            Self::Message | Self::Membership => PEER_MESSAGE_BYTES_MAX,
            Self::StateHead => STATE_HEAD_BYTES_MAX,
            Self::StateChunk => STATE_CHUNK_BYTES_MAX,
            Self::Greeting
            | Self::Refused
            | Self::Ended
            | Self::Ping
            | Self::Pong
            | Self::StateEnd
            | Self::StateTaken
            | Self::StateRefused
            | Self::AskMembership => SMALL_BYTES_MAX,
        }
    }
}

/// Appends the head of a frame.
pub(crate) fn put_head(kind: Kind, len: usize, out: &mut BytesMut) {
    assert!(len <= kind.bytes_max(), "a frame is within its bound");
    out.put_u8(kind as u8);
    out.put_u32(u32::try_from(len).expect("every bound is below 4 GiB"));
}

/// A frame.
pub(crate) fn frame(kind: Kind, payload: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(HEAD_BYTES + payload.len());
    put_head(kind, payload.len(), &mut out);
    out.extend_from_slice(payload);
    out.freeze()
}

/// A frame whose payload is a number.
pub(crate) fn number_frame(kind: Kind, number: u64) -> Bytes {
    frame(kind, &number.to_be_bytes())
}

/// The number that is a payload.
pub(crate) fn number(payload: &[u8]) -> Option<u64> {
    payload.try_into().ok().map(u64::from_be_bytes)
}

/// A frame whose payload is a text, cut at its bound.
pub(crate) fn text_frame(kind: Kind, text: &str) -> Bytes {
    frame(kind, cut(text).as_bytes())
}

/// The text that is a payload, fit for a log.
pub(crate) fn text(payload: &[u8]) -> String {
    let payload = &payload[..payload.len().min(REASON_BYTES_MAX)];
    let text = String::from_utf8_lossy(payload);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(REASON_BYTES_MAX)]
}

/// A frame that refuses; its form is the same in every version.
pub(crate) fn refused_frame(refusal: &Refusal) -> Bytes {
    let reason = cut(&refusal.reason);
    let mut payload = Vec::with_capacity(1 + reason.len());
    payload.push(u8::from(refusal.is_removed));
    payload.extend_from_slice(reason.as_bytes());
    frame(Kind::Refused, &payload)
}

/// The refusal that is a payload.
pub(crate) fn refusal(payload: &[u8]) -> Refusal {
    let (is_removed, reason) = payload.split_first().unwrap_or((&0, &[]));
    Refusal { reason: text(reason), is_removed: *is_removed == 1 }
}

/// The first frame from each side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Greeting {
    /// The member it is meant for.
    pub(crate) to: MemberId,
    /// The stream's purpose.
    pub(crate) purpose: Purpose,
    pub(crate) hello: Hello,
}

/// The purpose of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Purpose {
    Control = 0,
    Log = 1,
    State = 2,
}

/// The reason why bytes are no greeting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoGreeting {
    /// Of another version of the protocol.
    Version(u8),
    Malformed,
}

impl Greeting {
    /// The greeting as a frame.
    pub(crate) fn frame(&self) -> Bytes {
        let hello = &self.hello;
        let mut out = Vec::with_capacity(64);
        out.push(VERSION);
        out.extend_from_slice(&self.to.0.to_be_bytes());
        out.push(self.purpose as u8);
        out.extend_from_slice(&hello.cluster.0.to_be_bytes());
        out.extend_from_slice(&hello.member.0.to_be_bytes());
        varint::write_u64(u64::from(hello.feature_level), &mut out);
        put_bytes(cut(&hello.version).as_bytes(), &mut out);
        let urls = &hello.urls[..hello.urls.len().min(URLS_MAX)];
        varint::write_u64(urls.len() as u64, &mut out);
        for url in urls {
            put_bytes(cut(url).as_bytes(), &mut out);
        }
        assert!(hello.keys.len() <= KEYS_MAX, "a configuration has fewer keys");
        varint::write_u64(hello.keys.len() as u64, &mut out);
        for key in &hello.keys {
            put_bytes(key, &mut out);
        }
        frame(Kind::Greeting, &out)
    }

    /// Reads a greeting.
    pub(crate) fn decode(payload: &Bytes) -> Result<Self, NoGreeting> {
        match payload.first() {
            Some(&VERSION) => Self::fields(payload.slice(1..)).ok_or(NoGreeting::Malformed),
            Some(&version) => Err(NoGreeting::Version(version)),
            None => Err(NoGreeting::Malformed),
        }
    }

    fn fields(mut rest: Bytes) -> Option<Self> {
        let to = MemberId(rest.try_get_u64().ok()?);
        let purpose = match rest.try_get_u8().ok()? {
            0 => Purpose::Control,
            1 => Purpose::Log,
            2 => Purpose::State,
            _ => return None,
        };
        let cluster = ClusterId(rest.try_get_u64().ok()?);
        let member = MemberId(rest.try_get_u64().ok()?);
        let feature_level = u32::try_from(take_varint(&mut rest)?).ok()?;
        let version = text(&take_bytes(&mut rest)?);
        let count = usize::try_from(take_varint(&mut rest)?).ok()?;
        if count > URLS_MAX {
            return None;
        }
        let urls = (0..count).map(|_| Some(text(&take_bytes(&mut rest)?)));
        let urls = urls.collect::<Option<Vec<_>>>()?;
        let count = usize::try_from(take_varint(&mut rest)?).ok()?;
        if count > KEYS_MAX {
            return None;
        }
        let keys = (0..count).map(|_| take_bytes(&mut rest)).collect::<Option<Vec<_>>>()?;
        let hello = Hello { cluster, member, version, feature_level, urls, keys };
        rest.is_empty().then_some(Self { to, purpose, hello })
    }
}

fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    varint::write_u64(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn take_varint(rest: &mut Bytes) -> Option<u64> {
    let mut slice: &[u8] = rest;
    let before = slice.len();
    let value = varint::read_u64(&mut slice)?;
    let used = before - slice.len();
    rest.advance(used);
    Some(value)
}

fn take_bytes(rest: &mut Bytes) -> Option<Bytes> {
    let len = usize::try_from(take_varint(rest)?).ok()?;
    (len <= rest.len()).then(|| rest.split_to(len))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn greeting() -> Greeting {
        let hello = Hello {
            cluster: ClusterId(0xc1),
            member: MemberId(0xa),
            version: "0.1.0".to_owned(),
            urls: vec!["http://a:2380".to_owned()],
            feature_level: 300,
            keys: vec![Bytes::from_static(b"12345678"), Bytes::new()],
        };
        Greeting { to: MemberId(0xb), purpose: Purpose::Log, hello }
    }

    #[test]
    fn a_greeting_is_read_as_it_was_written() {
        let frame = greeting().frame();
        assert_eq!(frame[0], Kind::Greeting as u8);
        assert_eq!(Greeting::decode(&frame.slice(HEAD_BYTES..)), Ok(greeting()));
    }

    #[test]
    fn bytes_that_are_cut_or_too_many_are_no_greeting() {
        let payload = greeting().frame().slice(HEAD_BYTES..);
        for len in 0..payload.len() {
            assert_eq!(Greeting::decode(&payload.slice(..len)), Err(NoGreeting::Malformed));
        }
        let mut longer = payload.to_vec();
        longer.push(0);
        assert_eq!(Greeting::decode(&longer.into()), Err(NoGreeting::Malformed));
    }

    #[test]
    fn another_version_is_told_whatever_follows() {
        let bytes = Bytes::from_static(&[2, 9, 9]);
        assert_eq!(Greeting::decode(&bytes), Err(NoGreeting::Version(2)));
    }

    #[test]
    fn a_reason_is_cut_at_its_bound_and_has_no_control_characters() {
        let refusal_in = Refusal { reason: "\u{e9}\n".repeat(9000), is_removed: true };
        let read = refusal(&refused_frame(&refusal_in)[HEAD_BYTES..]);
        assert!(read.is_removed && read.reason.len() <= REASON_BYTES_MAX + 3);
        assert!(!read.reason.contains('\n') && read.reason.starts_with('\u{e9}'));
    }
}
