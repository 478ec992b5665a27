//! URLs of destinations: `scheme://bucket/prefix?option=value&...`.

use std::collections::BTreeMap;
use std::path::Path;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};

use super::is_plain;
use crate::Error;

/// BOUND: characters of a URL.
const LEN_MAX: usize = 2048;

/// The kind of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    File,
    S3,
    Google,
    Azure,
}

impl Scheme {
    const ALL: [(&'static str, Self); 4] =
        [("file", Self::File), ("s3", Self::S3), ("gs", Self::Google), ("az", Self::Azure)];

    /// The options that it takes.
    const fn options(self) -> &'static [&'static str] {
        match self {
            Self::File => &[],
            Self::S3 => &["endpoint", "region", "ca", "path-style", "credentials", "profile"],
            Self::Google => &["endpoint", "ca", "credentials"],
            Self::Azure => &["endpoint", "ca", "account"],
        }
    }
}

/// A URL that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) scheme: Scheme,
    /// Without the options, for messages.
    pub(super) shown: String,
    /// Empty for a folder.
    pub(super) bucket: String,
    /// The prefix in the bucket without slashes around it, or the folder.
    pub(super) path: String,
    pub(super) options: BTreeMap<&'static str, String>,
}

impl Url {
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        let fault = |reason: &str| Error::Url { url: harmless(text), reason: reason.to_owned() };
        if text.len() > LEN_MAX {
            return Err(fault("the URL is too long"));
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(fault(
                "a destination is a URL: file:///folder, s3://bucket/prefix, gs://bucket/prefix or \
                 az://container/prefix",
            ));
        };
        let known = Scheme::ALL.into_iter().find(|(name, _)| *name == scheme);
        let (_, scheme) = known.ok_or_else(|| fault("the schemes are file, s3, gs and az"))?;
        let (location, query) = rest.split_once('?').unwrap_or((rest, ""));
        if location.contains('@') {
            return Err(fault(
                "credentials do not belong into a URL, which logs show: use the environment, or a file \
                 named by credentials=",
            ));
        }
        let location = percent_decode_str(location).decode_utf8();
        let location = location.map_err(|_malformed| fault("it is not UTF-8"))?.into_owned();
        let (bucket, path) = match scheme {
            Scheme::File => (String::new(), folder(&location).map_err(fault)?),
            _ => bucket(&location).map_err(fault)?,
        };
        let options = options(scheme, query).map_err(|reason| fault(&reason))?;
        let shown = text.split('?').next().unwrap_or_default().trim_end_matches('/').to_owned();
        Ok(Self { scheme, shown, bucket, path, options })
    }

    pub(super) fn option(&self, name: &'static str) -> Option<&str> {
        self.options.get(name).map(String::as_str)
    }

    /// An error about this URL.
    pub(super) fn fault(&self, reason: impl Into<String>) -> Error {
        Error::Url { url: self.shown.clone(), reason: reason.into() }
    }
}

/// The URL of a folder; a comma would divide two of them where several are given.
pub(super) fn of_folder(folder: &Path) -> String {
    const KEPT: &AsciiSet =
        &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~');
    format!("file://{}", percent_encode(folder.as_os_str().as_encoded_bytes(), KEPT))
}

/// The part of a URL that has no secret, also where one was written into the wrong place.
pub(super) fn harmless(text: &str) -> String {
    let shown = if text.contains('@') {
        text.split_once("://").map_or("the URL", |(scheme, _)| scheme)
    } else {
        text.split('?').next().unwrap_or_default()
    };
    shown.chars().take(256).collect()
}

fn folder(location: &str) -> Result<String, &'static str> {
    if !location.starts_with('/') {
        return Err("a folder is absolute, with three slashes: file:///var/backups/keepd");
    }
    let path = location.trim_end_matches('/');
    if path.is_empty() {
        return Err("give backups a folder of their own, not the root");
    }
    if path.split('/').any(|part| part == ".." || part == ".") {
        return Err("write the folder without . and ..");
    }
    Ok(path.to_owned())
}

fn bucket(location: &str) -> Result<(String, String), &'static str> {
    let (bucket, prefix) = location.split_once('/').unwrap_or((location, ""));
    if bucket.is_empty() {
        return Err("it names no bucket");
    }
    let prefix = prefix.trim_matches('/');
    if !prefix.is_empty() && !is_plain(prefix) {
        return Err("a prefix is made of letters, digits and . - _ between single slashes");
    }
    Ok((bucket.to_owned(), prefix.to_owned()))
}

fn options(scheme: Scheme, query: &str) -> Result<BTreeMap<&'static str, String>, String> {
    let mut options = BTreeMap::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let known = scheme.options().iter().find(|known| **known == name);
        let Some(known) = known else {
            let list = scheme.options().join(", ");
            return Err(if list.is_empty() {
                format!("option {name:?} is unknown; a folder takes none")
            } else {
                format!("option {name:?} is unknown; these are known: {list}")
            });
        };
        let value = percent_decode_str(value).decode_utf8();
        let value = value.map_err(|_malformed| format!("option {name} is not UTF-8"))?;
        if value.is_empty() {
            return Err(format!("option {name} has no value"));
        }
        if options.insert(*known, value.into_owned()).is_some() {
            return Err(format!("option {name} is given twice"));
        }
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        Url::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn folders_buckets_and_options() {
        let url = Url::parse("file:///var/my%20backups/").unwrap();
        assert_eq!((url.scheme, url.path.as_str()), (Scheme::File, "/var/my backups"));
        let url = Url::parse("s3://b/a/c/?endpoint=http%3A%2F%2Fh:1&path-style=true").unwrap();
        assert_eq!((url.bucket.as_str(), url.path.as_str()), ("b", "a/c"));
        assert_eq!(url.option("endpoint"), Some("http://h:1"));
        assert_eq!(url.shown, "s3://b/a/c");
        assert_eq!(Url::parse("gs://b").unwrap().path, "");
        for folder in ["/var/backups", "/a b/c,d%20?x#y", "/\u{e4}"] {
            let text = of_folder(Path::new(folder));
            assert_eq!(Url::parse(&text).unwrap().path, folder);
            assert!(!text.contains(','), "{text}");
        }
    }

    #[test]
    fn mistakes_are_named_and_secrets_are_not_repeated() {
        for (text, expected) in [
            ("/var/backups", "a destination is a URL"),
            ("http://b/p", "the schemes are file, s3, gs and az"),
            ("file://var/backups", "three slashes"),
            ("file:///", "a folder of their own"),
            ("file:///a/../b", "without . and .."),
            ("file:///a?region=x", "a folder takes none"),
            ("s3:///p", "it names no bucket"),
            ("s3://b/p//q", "single slashes"),
            ("s3://b/../q", "single slashes"),
            ("s3://b?secret=x", "option \"secret\" is unknown; these are known: endpoint,"),
            ("s3://b?region=", "option region has no value"),
            ("s3://b?region=a&region=b", "given twice"),
            ("s3://key:hidden@b/p", "credentials do not belong into a URL"),
        ] {
            let error = error(text);
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains("hidden"), "{error}");
        }
    }
}
