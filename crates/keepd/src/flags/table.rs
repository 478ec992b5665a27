//! Every flag of the server: name, kind, default, what keepd does with it, and its help.
//!
//! To support a flag that is refused or without effect today, use it and change its entry here;
//! `--help`, notices and refusals follow.

mod backup;
mod cluster;
mod member;
mod operation;
mod security;

/// The form of a flag's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Any text.
    Text,
    /// A boolean; needs `=` to take a value on the command line.
    Bool,
    /// An unsigned number of 64 bits.
    Uint,
    /// An unsigned number of 32 bits.
    Uint32,
    /// A signed number of 64 bits.
    Int,
    /// A Go duration; nanoseconds in the configuration file.
    Duration,
    /// Comma-separated URLs.
    Urls,
    /// Comma-separated URLs, or `*`.
    UrlsOrStar,
    /// Comma-separated texts.
    List,
    /// Comma-separated texts; given again it adds to what there is. A YAML list, or a text, in the
    /// configuration file.
    Repeated,
    /// One of these.
    OneOf(&'static [&'static str]),
    /// Comma-separated, each one of these.
    ListOf(&'static [&'static str]),
    /// `name=bool`, comma-separated.
    Gates,
}

/// The support for a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Support {
    /// As in etcd.
    Full,
    /// Accepted, and said in the log to have no effect, for this reason.
    AcceptedNoEffect(&'static str),
    /// Any value but the default ends the start, with this reason and remedy.
    Refused(&'static str),
}

/// The section of `--help` that shows a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Section {
    /// The member itself.
    Member,
    /// Its cluster.
    Clustering,
    /// TLS and access.
    Security,
    /// Users and roles.
    Auth,
    /// Encryption at rest, keepd's own.
    Encryption,
    /// Backups, keepd's own.
    Backup,
    /// Monitoring.
    Monitoring,
    /// Logging.
    Logging,
    /// Tracing.
    Tracing,
    /// Limits and background work.
    Features,
    /// Ways to lose data.
    Unsafe,
    /// The rest.
    Other,
    /// Old spellings, accepted and not shown.
    Hidden,
}

/// One flag.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flag {
    /// The name without dashes.
    pub(crate) name: &'static str,
    /// The value's form.
    pub(crate) kind: Kind,
    /// The default as text.
    pub(crate) default: &'static str,
    /// The section of `--help` that shows it.
    pub(crate) section: Section,
    /// The support for it.
    pub(crate) support: Support,
    /// One sentence for `--help`.
    pub(crate) help: &'static str,
}

impl Flag {
    const fn new(
        section: Section,
        name: &'static str,
        kind: Kind,
        default: &'static str,
        help: &'static str,
    ) -> Self {
        Self { name, kind, default, section, support: Support::Full, help }
    }

    const fn no_effect(mut self, reason: &'static str) -> Self {
        self.support = Support::AcceptedNoEffect(reason);
        self
    }

    const fn refused(mut self, reason: &'static str) -> Self {
        self.support = Support::Refused(reason);
        self
    }

    /// The environment variable's name after `ETCD_`.
    #[must_use]
    pub(crate) fn variable(&self) -> String {
        self.name.replace('-', "_").to_ascii_uppercase()
    }
}

/// All flags, in the order of `--help`.
pub(crate) fn all() -> impl Iterator<Item = &'static Flag> {
    [member::FLAGS, cluster::FLAGS, security::FLAGS, backup::FLAGS, operation::FLAGS]
        .into_iter()
        .flatten()
}

/// A flag that is known to exist.
pub(super) fn by_name(name: &str) -> &'static Flag {
    by_argument(name).expect("the caller names a flag of the table")
}

/// A flag as the command line names it.
pub(super) fn by_argument(name: &str) -> Option<&'static Flag> {
    all().find(|flag| flag.name == name)
}

/// A flag by the text after `ETCD_`.
pub(super) fn by_variable(suffix: &str) -> Option<&'static Flag> {
    all().find(|flag| flag.variable() == suffix)
}

/// Flags of etcd 0.4 that are taken as booleans and do nothing, as in etcd.
pub(super) fn is_ignored(name: &str) -> bool {
    const IGNORED: [&str; 14] = [
        "cluster-active-size",
        "cluster-remove-delay",
        "cluster-sync-interval",
        "config",
        "force",
        "max-result-buffer",
        "max-retry-attempts",
        "peer-election-timeout",
        "peer-heartbeat-interval",
        "retry-interval",
        "snapshot",
        "test.coverprofile",
        "test.outputdir",
        "v",
    ];
    IGNORED.contains(&name) || name == "vv"
}
