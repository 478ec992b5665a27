//! What a running server has in its memory, read from outside as root may.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use e2e::Client;
use testkit::process::tail;
use testkit::{Keepd, TempDir};

use crate::configuration::{changing, sealing};

/// Keys that occur nowhere else.
const OLD: &str = "wZ7yUq0k3mXbT5vRr1nPjD9aHsLgEcQoF2iWt8KuYxM=";
const OLD_BYTES: [u8; 32] = [
    0xc1, 0x9e, 0xf2, 0x52, 0xad, 0x24, 0xde, 0x65, 0xdb, 0x4f, 0x9b, 0xd1, 0xaf, 0x59, 0xcf, 0x8c,
    0x3f, 0x5a, 0x1e, 0xc2, 0xe0, 0x11, 0xc4, 0x28, 0x17, 0x68, 0x96, 0xb7, 0xc2, 0xae, 0x63, 0x13,
];
const NEW: &str = "p4Vd0cJm6rXwNe8QbZ1sKfTy3uGh7AiLo9RtWx2CqE0=";
const RELOADING: [&str; 1] = ["--encryption-provider-config-automatic-reload=true"];
/// Time limit for a reload and the re-encryption of a few kilobytes.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often `needle` occurs in what the process can write to; none if this user may not look.
fn count(pid: u32, needle: &[u8]) -> Option<usize> {
    let memory = File::open(format!("/proc/{pid}/mem")).ok()?;
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
    let mut found = 0;
    for line in maps.lines() {
        let mut fields = line.split_whitespace();
        let (range, mode) = (fields.next()?, fields.next()?);
        if !mode.starts_with("rw") {
            continue;
        }
        let (start, end) = range.split_once('-')?;
        let address = |text| u64::from_str_radix(text, 16).ok();
        let (start, end) = (address(start)?, address(end)?);
        let mut bytes = vec![0; usize::try_from(end - start).ok()?.min(1 << 20)];
        let mut at = start;
        // Pieces overlap, so that nothing is cut in two.
        while at < end {
            let len = usize::try_from(end - at).ok()?.min(bytes.len());
            if memory.read_exact_at(&mut bytes[..len], at).is_ok() {
                let windows = bytes[..len].windows(needle.len());
                found += windows.filter(|window| *window == needle).count();
            }
            at += u64::try_from(len.saturating_sub(needle.len()).max(1)).ok()?;
            if len <= needle.len() {
                break;
            }
        }
    }
    Some(found)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_has_left_the_configuration_leaves_the_memory() {
    let dir = TempDir::new("e2e-memory");
    let config = dir.write("live.yaml", &sealing("key1", OLD));
    let keepd = Keepd::new(dir.path()).encryption(&config).args(RELOADING);
    let mut server = keepd.start();
    let client = Client::ready(&mut server).await;
    client.put("/registry/secrets/default/a", "v", 0).await.unwrap();
    let Some(held) = count(server.pid(), &OLD_BYTES) else { return };
    assert!(held > 0, "the search finds a key in use");

    let take = |content: &str, nth: usize| {
        let new = config.with_extension("new");
        std::fs::write(&new, content).unwrap();
        std::fs::rename(new, &config).unwrap();
        let mut waited = Duration::ZERO;
        while keepd.log().matches("reloaded the encryption configuration").count() < nth {
            assert!(waited < PATIENCE, "{}", tail(&keepd.log()));
            std::thread::sleep(Duration::from_millis(100));
            waited += Duration::from_millis(100);
        }
    };
    take(&changing(&[("key2", NEW), ("key1", OLD)]), 1);
    // Refused until the values are re-encrypted; a refused content is tried again.
    take(&sealing("key2", NEW), 2);
    assert_eq!(client.get("/registry/secrets/default/a").await.unwrap().as_deref(), Some("v"));
    let mut left = (usize::MAX, usize::MAX);
    // A reader may hold the configuration before for a moment.
    for _ in 0..50 {
        let find = |needle: &[u8]| count(server.pid(), needle).unwrap();
        left = (find(OLD.as_bytes()), find(&OLD_BYTES));
        if left == (0, 0) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(left, (0, 0), "in base64, and as bytes");
    assert!(count(server.pid(), NEW.as_bytes()).unwrap() <= 1, "the file as it was last read");
}
