//! Encryption switched on over a plain directory, the key changed, and off again.

use std::time::Duration;

use e2e::Client;
use testkit::process::tail;
use testkit::{Keepd, TempDir};

use crate::configuration::{FIRST, SECOND, changing, sealing, unsealing};
use crate::sealed::{needles, open_files, write_canaries};

/// Time limit for the re-encryption of some hundred kilobytes.
const CONVERSION_SECONDS_MAX: u64 = 60;

#[tokio::test(flavor = "multi_thread")]
async fn encryption_goes_on_over_a_plain_directory_and_off_again() {
    let dir = TempDir::new("e2e-reencrypt");
    let plain = Keepd::new(dir.path());
    let mut server = plain.start();
    let client = Client::ready(&mut server).await;
    // In a segment of their own, where nothing but the re-encryption ever rewrites them.
    for (i, needle) in needles().iter().cycle().take(300).enumerate() {
        let key = format!("/registry/pods/{}/{i}", String::from_utf8_lossy(needle));
        client.put(&key, "untouched", 0).await.unwrap();
    }
    server.stop();
    let mut server = plain.start();
    let client = Client::ready(&mut server).await;
    let (key, first) = write_canaries(&client, 0).await;
    let history_end = client.revision().await.unwrap();
    let history = client.history(history_end - 20, history_end).await;
    server.stop();
    assert!(!open_files(&plain.data_dir()).is_empty());

    // On: at once for what is written, in a while for what lies there.
    let on = dir.write("on.yaml", &sealing("key1", FIRST));
    let sealed = plain.clone().encryption(&on);
    let mut server = sealed.start();
    let client = Client::ready(&mut server).await;
    assert_eq!(client.get(&key).await.unwrap(), Some(first));
    assert_eq!(client.history(history_end - 20, history_end).await, history);
    let (_, second) = write_canaries(&client, 1).await;
    let mut open = Vec::new();
    for _ in 0..CONVERSION_SECONDS_MAX {
        open = open_files(&plain.data_dir());
        if open.is_empty() {
            break;
        }
        server.assert_running();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(open.is_empty(), "still open: {open:?}\n{}", tail(&sealed.log()));
    assert_eq!(client.get(&key).await.unwrap(), Some(second.clone()));
    server.kill();

    // Off: the key stays until nothing needs it.
    let off = dir.write("off.yaml", &unsealing("key1", FIRST));
    let leaving = plain.clone().encryption(&off);
    let mut is_free = false;
    let mut spent = 0;
    while !is_free && spent < CONVERSION_SECONDS_MAX {
        let mut server = leaving.start();
        let client = Client::ready(&mut server).await;
        assert_eq!(client.get(&key).await.unwrap(), Some(second.clone()));
        tokio::time::sleep(Duration::from_secs(5)).await;
        server.stop();
        spent += 5;
        // Without the configuration it either starts with everything, or refuses.
        let mut server = plain.start();
        is_free = server.wait(Duration::from_secs(3)).is_none();
        if is_free {
            let client = Client::ready(&mut server).await;
            assert_eq!(client.get(&key).await.unwrap(), Some(second.clone()));
            client.put(&key, "third", 0).await.unwrap();
            server.stop();
        }
    }
    assert!(is_free, "the key is still needed\n{}", tail(&plain.log()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_alone_is_either_enough_or_refused() {
    let dir = TempDir::new("e2e-rotate");
    let keepd = Keepd::new(dir.path());
    let old = dir.write("old.yaml", &sealing("key1", FIRST));
    let mut server = keepd.clone().encryption(&old).start();
    let client = Client::ready(&mut server).await;
    let (key, first) = write_canaries(&client, 0).await;
    server.kill();

    let both = [("key2", SECOND), ("key1", FIRST)];
    let both = dir.write("both.yaml", &changing(&both));
    let mut server = keepd.clone().encryption(&both).start();
    let client = Client::ready(&mut server).await;
    assert_eq!(client.get(&key).await.unwrap(), Some(first));
    let (_, second) = write_canaries(&client, 1).await;
    let revision = client.revision().await.unwrap();
    assert!(open_files(&keepd.data_dir()).is_empty());
    server.stop();

    // What the first key sealed may still be there: then the new one alone is refused by name.
    let new = dir.write("new.yaml", &sealing("key2", SECOND));
    let alone = keepd.clone().encryption(&new);
    let log_before = keepd.log().len();
    let mut server = alone.start();
    match server.wait(Duration::from_secs(5)) {
        Some(status) => {
            assert!(!status.success());
            assert!(keepd.log()[log_before..].contains("key1"), "{}", tail(&keepd.log()));
        }
        None => {
            let client = Client::ready(&mut server).await;
            assert_eq!(client.get(&key).await.unwrap(), Some(second.clone()));
            assert_eq!(client.list("/registry/").await.unwrap().len(), 251);
            server.stop();
        }
    }

    // Either way nothing is lost for who has both.
    let mut server = keepd.clone().encryption(&both).start();
    let client = Client::ready(&mut server).await;
    assert_eq!(client.get(&key).await.unwrap(), Some(second));
    assert_eq!(client.list("/registry/").await.unwrap().len(), 251);
    assert!(client.revision().await.unwrap() >= revision);
}
