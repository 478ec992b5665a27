//! Words of command lines, environments and configuration files: Go's literals and quotes, URLs,
//! clusters, names of resources.
//!
//! Modules that their crates do not export are included by path.

use keepd_crypto::{Directories, Scope};
use keepd_gotext::{GoDuration, parse_bool, parse_int, parse_uint, quote, unquote_prefix};
use keepd_member::InitialCluster;

#[path = "../../../crates/keepd-cli/src/engine/flag_list.rs"]
mod flag_list;
#[path = "../../../crates/keepd-cli/src/engine/humanize.rs"]
mod humanize;
#[path = "../../../crates/keepd/src/enrol/token.rs"]
mod token;
#[path = "../../../crates/keepd/src/flags/urls.rs"]
mod urls;

/// Reads the bytes as each kind of word.
pub fn words(bytes: &[u8]) {
    quotes(bytes);
    keys(bytes);
    let text = String::from_utf8_lossy(bytes);
    literals(&text);
    let list = urls::parse_urls(&text);
    if let Ok(list) = &list {
        let _told = (urls::check_bind(list).is_ok(), urls::check_host(list).is_ok());
        let again = urls::parse_urls(&urls::joined(list));
        assert_eq!(again.as_ref(), Ok(list), "a list is read as it is written");
        for url in list {
            let _told = (url.is_tls(), url.host(), url.address(), url.to_string());
        }
    }
    if let Ok(token) = token::Token::parse(&text) {
        assert_eq!(token::Token::parse(&token.encode()).as_ref(), Ok(&token));
        let _told = format!("{token:?}");
    }
    let mut parts = text.splitn(4, '\n');
    let mut part = || parts.next().unwrap_or("default");
    if let Err(error) = InitialCluster::parse(part(), part(), part(), part()) {
        let _told = error.to_string();
    }
}

/// Strings in Go's quotes, which come back as they were written.
fn quotes(bytes: &[u8]) {
    let quoted = quote(bytes);
    let back = unquote_prefix(quoted.as_bytes());
    assert_eq!(back, Some((bytes.to_vec(), &[][..])), "{quoted}");
    let _refused = unquote_prefix(bytes).is_none();
}

fn literals(text: &str) {
    for base in [0, 2, 8, 10, 16] {
        let _read = parse_uint(text, base, u64::MAX).is_ok();
        if let Ok(number) = parse_int(text, base) {
            let _told = humanize::bytes(number.unsigned_abs());
        }
    }
    let _read = (parse_bool(text).is_ok(), flag_list::split_list(text).is_ok());
    if let Ok(duration) = text.parse::<GoDuration>() {
        assert_eq!(duration.to_string().parse(), Ok(duration));
    }
}

/// Names of resources, and the keys of their objects.
fn keys(bytes: &[u8]) {
    let (name, key) = bytes.split_at(bytes.len().min(20));
    let name = String::from_utf8_lossy(name);
    let scope = Scope::parse(&name);
    assert_eq!(Scope::parse(&scope.to_string()), scope);
    let mut directories = Directories::new(&name);
    directories.extend(&name, "things.example.com");
    let _told = (directories.content_of(key), directories.can_produce(&scope));
}

/// One word of each kind.
pub(crate) fn first_inputs() -> Vec<Vec<u8>> {
    [
        "1h30m5.25s",
        "-300ms",
        "0x_1f",
        "-9223372036854775808",
        "0b101",
        "18446744073709551615",
        "true",
        "\"a\\x00\\u00e9\\n\\\"\"",
        "a,\"b,c\",d",
        "http://127.0.0.1:2379,https://[::1]:2379",
        "unix:///run/etcd.sock",
        "unixs://localhost:m1",
        "m\nm=http://a:2380,n=http://b:2380\netcd-cluster\nhttp://a:2380",
        "prefix:/some/",
        "keepd-join-AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAgICAgICAgICAgICAgICAgAAAABrSdIAAQ0xMC4wLjAuMToyMzc4OtkyeA",
        "deployments.apps\0\0\0\0/registry/apps/deployments/default/d",
    ]
    .map(|word| word.as_bytes().to_vec())
    .to_vec()
}
