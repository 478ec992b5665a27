//! The token of an invitation: what a machine must know to find the inviter, to know it from an
//! impostor, and to be let in.
//!
//! ```text
//!  keepd-join-  base64url( version 1 | CA digest 32 | secret 16 | expiry 8 BE | count 1 |
//!                          count x (length 1 | host:port) | CRC32C of all before, 4 BE )
//! ```
//!
//! The checksum finds a token that was cut or mistyped; what protects the rest is the secret, which both
//! sides prove to know, and the digest. It is read from a command line: BOUND at every length.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

const PREFIX: &str = "keepd-join-";
const VERSION: u8 = 1;
/// Bytes of the secret: 128 bits that nobody guesses.
pub(crate) const SECRET_LEN: usize = 16;
/// BOUND: the longest token.
const TEXT_LEN_MAX: usize = 4096;
/// BOUND: addresses of an inviter.
const ADDRESSES_MAX: usize = 8;

/// A token.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Token {
    /// The SHA-256 of the CA's certificate.
    pub(crate) ca_digest: [u8; 32],
    /// The secret that lets in.
    pub(crate) secret: [u8; SECRET_LEN],
    /// The end of the invitation, in seconds since 1970 by the inviter's clock.
    pub(crate) expires: u64,
    /// The addresses of the inviter: `host:port`.
    pub(crate) addresses: Vec<String>,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

/// The fault of a text that is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    /// It does not begin like one.
    #[error("not a token of `keepd cluster invite`: it begins with {PREFIX}")]
    NotAToken,
    /// Its form is of a version that is not known here.
    #[error(
        "a token of another version of keepd (form {0}): start this machine with the inviter's"
    )]
    Version(u8),
    /// It was cut or changed on its way.
    #[error("the token is damaged: copy it again, as a whole")]
    Damaged,
}

impl Token {
    /// The text.
    pub(crate) fn encode(&self) -> String {
        assert!(
            self.addresses.len() <= ADDRESSES_MAX,
            "the addresses are counted when they are given"
        );
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&self.ca_digest);
        bytes.extend_from_slice(&self.secret);
        bytes.extend_from_slice(&self.expires.to_be_bytes());
        bytes.push(u8::try_from(self.addresses.len()).unwrap_or(u8::MAX));
        for address in &self.addresses {
            bytes.push(u8::try_from(address.len()).expect("is_address has looked at it"));
            bytes.extend_from_slice(address.as_bytes());
        }
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_be_bytes());
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Reads the text.
    pub(crate) fn parse(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        let encoded = text.strip_prefix(PREFIX).ok_or(TokenError::NotAToken)?;
        if text.len() > TEXT_LEN_MAX {
            return Err(TokenError::Damaged);
        }
        let bytes = URL_SAFE_NO_PAD.decode(encoded).map_err(|_bad| TokenError::Damaged)?;
        let (content, sum) = bytes.split_last_chunk::<4>().ok_or(TokenError::Damaged)?;
        if crc32c::crc32c(content) != u32::from_be_bytes(*sum) {
            return Err(TokenError::Damaged);
        }
        match content.split_first() {
            Some((&VERSION, content)) => Self::decode(content).ok_or(TokenError::Damaged),
            Some((version, _)) => Err(TokenError::Version(*version)),
            None => Err(TokenError::Damaged),
        }
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (ca_digest, bytes) = bytes.split_first_chunk()?;
        let (secret, bytes) = bytes.split_first_chunk()?;
        let (expires, bytes) = bytes.split_first_chunk()?;
        let (&count, mut bytes) = bytes.split_first()?;
        if !(1..=ADDRESSES_MAX).contains(&usize::from(count)) {
            return None;
        }
        let mut addresses = Vec::new();
        for _ in 0..count {
            let (&len, rest) = bytes.split_first()?;
            let (address, rest) = rest.split_at_checked(usize::from(len))?;
            addresses.push(std::str::from_utf8(address).ok()?.to_owned());
            bytes = rest;
        }
        let expires = u64::from_be_bytes(*expires);
        let token = Self { ca_digest: *ca_digest, secret: *secret, expires, addresses };
        (bytes.is_empty() && token.addresses.iter().all(|it| is_address(it))).then_some(token)
    }
}

/// Whether a text is `host:port`, such that a token can carry it.
pub(crate) fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    let is_bracketed = host.starts_with('[') && host.ends_with(']');
    text.len() <= usize::from(u8::MAX)
        && !host.is_empty()
        && host.chars().all(is_plain)
        && (is_bracketed || !host.contains([':', '[', ']']))
        && port.parse::<u16>().is_ok_and(|port| port > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(addresses: &[&str]) -> Token {
        let addresses = addresses.iter().map(|&address| address.to_owned()).collect();
        Token { ca_digest: [1; 32], secret: [2; 16], expires: 3, addresses }
    }

    #[test]
    fn a_token_is_read_as_it_was_written() {
        for addresses in [&["10.0.0.1:2378"][..], &["[fd00::1]:2378", "a.example:1"]] {
            let token = token(addresses);
            assert_eq!(Token::parse(&token.encode()), Ok(token.clone()));
            assert_eq!(Token::parse(&format!("  {}\n", token.encode())), Ok(token));
        }
    }

    #[test]
    fn a_changed_token_is_told_from_one_of_another_form() {
        let text = token(&["10.0.0.1:2378"]).encode();
        for (position, old) in text.char_indices().skip(PREFIX.len()) {
            let mut changed = text.clone();
            let new = if old == 'A' { "B" } else { "A" };
            changed.replace_range(position..=position, new);
            assert_eq!(Token::parse(&changed), Err(TokenError::Damaged), "at {position}");
            assert_eq!(Token::parse(&text[..position]), Err(TokenError::Damaged));
        }
        assert_eq!(Token::parse("abc"), Err(TokenError::NotAToken));
        assert_eq!(Token::parse(""), Err(TokenError::NotAToken));
        let mut bytes = vec![9, 9, 9];
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_be_bytes());
        let newer = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes));
        assert_eq!(Token::parse(&newer), Err(TokenError::Version(9)));
        let long = format!("{PREFIX}{}", "A".repeat(TEXT_LEN_MAX));
        assert_eq!(Token::parse(&long), Err(TokenError::Damaged));
    }

    #[test]
    fn addresses_have_a_host_and_a_port() {
        for good in ["a:1", "10.0.0.1:65535", "[::1]:80"] {
            assert!(is_address(good), "{good}");
        }
        for bad in ["", "a", ":1", "a:0", "a:65536", "::1:80", "[::1:80", "a b:1", "a/b:1"] {
            assert!(!is_address(bad), "{bad}");
        }
    }

    #[test]
    fn a_secret_is_not_printed() {
        assert!(!format!("{:?}", token(&["a:1"])).contains('2'));
    }
}
