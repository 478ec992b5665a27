//! Errors, each with what to do where something can be done.

use std::fmt;
use std::io;

use keepd_crypto::UnwrapError;
use keepd_env::IoError;
use thiserror::Error;

/// A failure.
#[derive(Debug, Error)]
pub enum Error {
    /// A URL of a destination cannot be used.
    #[error("{url}: {reason}")]
    Url {
        /// The URL.
        url: String,
        /// The fault.
        reason: String,
    },
    /// An object is not there.
    #[error("{at} is not there")]
    NotFound {
        /// The object.
        at: String,
    },
    /// An object is there already.
    #[error("{at} exists already, and backups are never written over")]
    Exists {
        /// The object.
        at: String,
    },
    /// An object store refused or failed.
    #[error("{action} {at}: {reason}{remedy}")]
    Store {
        /// The attempt.
        action: &'static str,
        /// The object or folder.
        at: String,
        /// The store's answer.
        reason: String,
        /// Advice.
        remedy: Remedy,
    },
    /// A listing is longer than is read.
    #[error("{at} has more than {max} objects: give backups a folder of their own")]
    TooManyObjects {
        /// The folder.
        at: String,
        /// The bound.
        max: usize,
    },
    /// An object is larger than is written.
    #[error("{at} would be larger than {max} bytes, the most that is uploaded in parts")]
    TooLarge {
        /// The object.
        at: String,
        /// The bound.
        max: u64,
    },
    /// A disk failed.
    #[error(transparent)]
    Disk(#[from] IoError),
    /// There is too little space.
    #[error(
        "{path} has {available} bytes free, and {needed} are needed: make space, or name another place \
         with --scratch-dir (of a server: --backup-scratch-dir)"
    )]
    Space {
        /// The folder.
        path: String,
        /// Free bytes.
        available: u64,
        /// Needed bytes.
        needed: u64,
    },
    /// A backup without anybody who could open it.
    #[error("nobody could open it: no recipient is given")]
    NoRecipient,
    /// A configuration without a key that writes.
    #[error(
        "the encryption configuration seals nothing (identity is first in every rule), so it has no key \
         for a backup; give a recipient (age1...), or ask for a plain backup in words"
    )]
    ConfigSealsNothing,
    /// No recipient of age's.
    #[error("not an age recipient (age1...): {text}")]
    Recipient {
        /// The fault.
        text: String,
    },
    /// No identity of age's; its text is not repeated.
    #[error("not an age identity (a line AGE-SECRET-KEY-1..., as age-keygen writes it)")]
    Identity,
    /// An object that should be sealed is not.
    #[error("it does not begin as an age file does: it was exchanged, or is no backup")]
    NotSealed,
    /// An age header cannot be read.
    #[error("its header is damaged: {0}")]
    Header(&'static str),
    /// An age header was changed.
    #[error("its header was changed after it was written: its MAC does not fit")]
    HeaderMac,
    /// A stanza of a configuration's key was changed.
    #[error(transparent)]
    Unwrap(UnwrapError),
    /// None of the keys opens it.
    #[error(
        "no key opens it. It opens with any of: {}. Given were: {}",
        listed(needed),
        if given.is_empty() { "none".to_owned() } else { listed(given) }
    )]
    NoKeyOpens {
        /// The keys that would.
        needed: Vec<String>,
        /// The keys that were tried.
        given: Vec<String>,
    },
    /// A chunk of the payload does not open.
    #[error(
        "{}",
        if *is_last { "it is cut off or damaged at its end" } else { "it is damaged" }
    )]
    Chunk {
        /// Whether it was at the end.
        is_last: bool,
    },
    /// It ends too early.
    #[error("it is cut off")]
    Truncated,
    /// It has bytes behind its end.
    #[error("something follows its end: it was changed")]
    Trailing,
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Read(io::Error),
    /// It cannot be written.
    #[error("it cannot be written: {0}")]
    Write(io::Error),
    /// It is longer than it should be.
    #[error("it is longer than the {max} bytes that it should have")]
    TooLong {
        /// The bound.
        max: u64,
    },
    /// It is not what was uploaded.
    #[error(
        "it is not what was written: its {what} is {found}, and {expected} was written. The store lost or \
         changed it; take another backup"
    )]
    Digest {
        /// The compared fact.
        what: &'static str,
        /// As written.
        expected: String,
        /// As read.
        found: String,
    },
    /// A sidecar is malformed.
    #[error("sidecar of {name}: {reason}")]
    Sidecar {
        /// The backup.
        name: String,
        /// The fault.
        reason: String,
    },
    /// A batch of the log is refused.
    #[error("batch {name} of the log: {reason}")]
    Batch {
        /// The batch.
        name: String,
        /// The fault.
        reason: String,
    },
    /// Nothing can be brought back to what is asked for.
    #[error("{wanted} cannot be reached: {reason}. Reachable: {reachable}")]
    Unreachable {
        /// The moment or revision.
        wanted: String,
        /// The obstacle.
        reason: String,
        /// The windows that there are.
        reachable: String,
    },
    /// The log of a member cannot be read.
    #[error("the log of this member cannot be read: {0}")]
    MemberLog(String),
    /// The snapshot inside is refused.
    #[error(transparent)]
    Snapshot(#[from] keepd_backup::Error),
    /// A restored store cannot be opened.
    #[error(transparent)]
    Keyring(#[from] keepd_crypto::KeyringError),
    /// A restored store cannot be read.
    #[error(transparent)]
    Restored(#[from] keepd_mvcc::Error),
    /// The restored state is not the one that the member had.
    #[error(
        "it restores to something else: {what} is {found}, and the member had {expected}. Do not rely on \
         it; take another backup, and if that fails too, compare the members (keepd ctl endpoint hashkv)"
    )]
    NotEqual {
        /// The compared fact.
        what: &'static str,
        /// The member's.
        expected: String,
        /// The restored one's.
        found: String,
    },
    /// Its values are sealed and the configuration is not there.
    #[error(
        "{0} of its values are sealed under an encryption configuration, which a restore needs: give \
         --encryption-provider-config"
    )]
    ValuesAreSealed(u64),
}

/// Advice after an error of a store, empty if there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// None.
    None,
    /// No credentials were found.
    Credentials,
    /// The credentials do not permit it.
    Permission,
    /// The bucket does not exist.
    Bucket,
    /// The bucket is in another region.
    Region,
    /// The clocks differ.
    Clock,
    /// TLS failed.
    Tls,
    /// Nobody answers.
    Unreachable,
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "",
            Self::Credentials => {
                ". Credentials are missing or unknown to the store: set them in the environment \
                 (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS, \
                 AZURE_STORAGE_ACCOUNT_KEY), in a file named by credentials= in the URL, or by the \
                 machine's role"
            }
            Self::Permission => {
                ". The credentials do not permit this: they need to list, read and write below the \
                 prefix, and to delete there for prune"
            }
            Self::Bucket => ". There is no such bucket: make it, or correct the URL",
            Self::Region => ". The bucket is in another region: name it by region= in the URL",
            Self::Clock => ". The clocks of this machine and of the store differ: set this one by NTP",
            Self::Tls => {
                ". TLS failed: name the CA of the store by ca= in the URL, or use the host name that \
                 its certificate has"
            }
            Self::Unreachable => ". Nobody answers there: check endpoint= in the URL, and the network",
        })
    }
}

impl Error {
    /// A failed read: an error of this crate that came through a reader, or the system's.
    pub(crate) fn reading(error: io::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(own) => own,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Self::Truncated,
            Err(error) => Self::Read(error),
        }
    }

    /// The same error on its way through a reader.
    pub(crate) fn into_io(self) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, self)
    }

    /// Whether the store, not the caller, is in the way, and the same may succeed later.
    #[must_use]
    pub const fn is_refusal(&self) -> bool {
        matches!(self, Self::Store { remedy: Remedy::Permission, .. })
    }

    /// Whether the object itself is at fault: it is not, or no longer, what was written, or not what it should
    /// have been. Everything else may pass.
    #[must_use]
    pub const fn is_unsound(&self) -> bool {
        matches!(
            self,
            Self::NotSealed
                | Self::Header(_)
                | Self::HeaderMac
                | Self::Chunk { .. }
                | Self::Truncated
                | Self::Trailing
                | Self::TooLong { .. }
                | Self::Digest { .. }
                | Self::NotEqual { .. }
                | Self::NotFound { .. }
        )
    }

    /// Whether the object is not there.
    #[must_use]
    pub const fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }
}

fn listed(names: &[String]) -> String {
    names.join("; ")
}
