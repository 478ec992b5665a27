//! The words between a newcomer and an inviter, once TLS stands between them.
//!
//! ```text
//!  inviter   its proof, 32 bytes
//!  newcomer  its proof, 32 bytes, then a frame: the wish
//!  inviter   a frame: the answer
//! ```
//!
//! A frame is a length of 4 bytes, big-endian, and so many bytes of JSON. BOUND: the length, before memory
//! is taken for it. Nobody sends anything of worth before the other side's proof.

use std::io;

use keepd_tls::Side;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::token::SECRET_LEN;

/// BOUND: a wish: a key request, a name and some URLs.
pub(super) const REQUEST_BYTES_MAX: usize = 64 << 10;
/// BOUND: an answer: certificates, members, and an encryption configuration.
pub(super) const ANSWER_BYTES_MAX: usize = 4 << 20;
/// BOUND: URLs and keys of a wish.
const LIST_LEN_MAX: usize = 64;

/// The wish of a newcomer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JoinRequest {
    /// Its name.
    pub(crate) name: String,
    /// URLs for its peers.
    pub(crate) peer_urls: Vec<String>,
    /// URLs for its clients.
    pub(crate) client_urls: Vec<String>,
    /// The request for a certificate, PEM.
    pub(crate) request: String,
    /// The check values of the keys in its encryption configuration, in hex; `None` if it has none.
    pub(crate) keys: Option<Vec<String>>,
}

/// The things that an invited machine gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Granted {
    /// The CA's certificate, PEM.
    pub(crate) ca: String,
    /// The member's certificate, PEM.
    pub(crate) certificate: String,
    /// All members with their peer URLs, as `--initial-cluster` has them.
    pub(crate) initial_cluster: String,
    /// The id under which it was added.
    pub(crate) member_id: String,
    /// The encryption configuration, if the inviter was told to send it.
    pub(crate) encryption: Option<String>,
}

/// An inviter's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Granted(Granted),
    /// Not now: another machine is joining.
    Busy(String),
    /// Not at all.
    Refused(String),
}

impl JoinRequest {
    pub(super) fn encode(&self) -> Value {
        json!({
            "name": self.name,
            "peer_urls": self.peer_urls,
            "client_urls": self.client_urls,
            "request": self.request,
            "keys": self.keys,
        })
    }

    pub(super) fn decode(value: &Value) -> Option<Self> {
        let keys = match &value["keys"] {
            Value::Null => None,
            list => Some(texts(list)?),
        };
        Some(Self {
            name: text(&value["name"])?,
            peer_urls: texts(&value["peer_urls"])?,
            client_urls: texts(&value["client_urls"])?,
            request: text(&value["request"])?,
            keys,
        })
    }
}

impl Granted {
    pub(crate) fn encode(&self) -> Value {
        json!({
            "ca": self.ca,
            "certificate": self.certificate,
            "initial_cluster": self.initial_cluster,
            "member_id": self.member_id,
            "encryption": self.encryption,
        })
    }

    pub(crate) fn decode(value: &Value) -> Option<Self> {
        Some(Self {
            ca: text(&value["ca"])?,
            certificate: text(&value["certificate"])?,
            initial_cluster: text(&value["initial_cluster"])?,
            member_id: text(&value["member_id"])?,
            encryption: text(&value["encryption"]),
        })
    }
}

impl Answer {
    pub(super) fn encode(&self) -> Value {
        match self {
            Self::Granted(granted) => json!({ "granted": granted.encode() }),
            Self::Busy(reason) => json!({ "busy": reason }),
            Self::Refused(reason) => json!({ "refused": reason }),
        }
    }

    pub(super) fn decode(value: &Value) -> Option<Self> {
        if let Some(granted) = value.get("granted") {
            return Some(Self::Granted(Granted::decode(granted)?));
        }
        if let Some(reason) = value.get("busy") {
            return Some(Self::Busy(text(reason)?));
        }
        Some(Self::Refused(text(&value["refused"])?))
    }
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn texts(value: &Value) -> Option<Vec<String>> {
    let list = value.as_array().filter(|list| list.len() <= LIST_LEN_MAX)?;
    list.iter().map(text).collect()
}

/// The proof of a side, for the session that exported this.
pub(super) fn proof(secret: &[u8; SECRET_LEN], side: Side, exported: &[u8; 32]) -> [u8; 32] {
    keepd_tls::proof(secret, side, exported)
}

/// Reads a proof and judges it.
pub(super) async fn read_proof(
    stream: &mut (impl AsyncRead + Unpin),
    secret: &[u8; SECRET_LEN],
    side: Side,
    exported: &[u8; 32],
) -> io::Result<bool> {
    let mut found = [0; 32];
    stream.read_exact(&mut found).await?;
    Ok(keepd_tls::is_proof(secret, side, exported, &found))
}

/// Reads a frame.
pub(super) async fn read_frame(
    stream: &mut (impl AsyncRead + Unpin),
    bytes_max: usize,
) -> io::Result<Value> {
    let len = usize::try_from(stream.read_u32().await?).unwrap_or(usize::MAX);
    if len > bytes_max {
        return Err(io::Error::other("a message is longer than any can be"));
    }
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).await?;
    serde_json::from_slice(&bytes).map_err(io::Error::other)
}

/// Writes a frame.
pub(super) async fn write_frame(
    stream: &mut (impl AsyncWrite + Unpin),
    value: &Value,
) -> io::Result<()> {
    let bytes = value.to_string().into_bytes();
    let len = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_u32(len).await?;
    stream.write_all(&bytes).await?;
    stream.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_back_as_they_were_sent_and_strange_ones_are_none() {
        let mut wish = JoinRequest {
            name: "m1".to_owned(),
            peer_urls: vec!["https://h:1".to_owned()],
            client_urls: vec![],
            request: "pem".to_owned(),
            keys: None,
        };
        assert_eq!(JoinRequest::decode(&wish.encode()), Some(wish.clone()));
        wish.keys = Some(vec!["0a".to_owned()]);
        assert_eq!(JoinRequest::decode(&wish.encode()), Some(wish.clone()));
        wish.peer_urls = vec![String::new(); LIST_LEN_MAX + 1];
        assert_eq!(JoinRequest::decode(&wish.encode()), None);
        assert_eq!(JoinRequest::decode(&json!([])), None);
        let granted = Granted {
            ca: "a".to_owned(),
            certificate: "b".to_owned(),
            initial_cluster: "c".to_owned(),
            member_id: "d".to_owned(),
            encryption: None,
        };
        for answer in [
            Answer::Granted(granted),
            Answer::Busy("x".to_owned()),
            Answer::Refused("y".to_owned()),
        ] {
            assert_eq!(Answer::decode(&answer.encode()), Some(answer));
        }
        assert_eq!(Answer::decode(&json!({"granted": {}})), None);
    }

    #[tokio::test]
    async fn a_frame_is_bounded_before_it_is_read() {
        let value = json!({"a": "b"});
        let mut bytes = Vec::new();
        write_frame(&mut bytes, &value).await.unwrap();
        assert_eq!(read_frame(&mut bytes.as_slice(), 100).await.unwrap(), value);
        read_frame(&mut bytes.as_slice(), bytes.len() - 5).await.unwrap_err();
        let endless = u32::MAX.to_be_bytes();
        read_frame(&mut endless.as_slice(), 100).await.unwrap_err();
        read_frame(&mut &bytes[..bytes.len() - 1], 100).await.unwrap_err();
    }
}
