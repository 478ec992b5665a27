//! A build that ends at once at each of the places that harnesses of etcd know, under load: nothing
//! that was acknowledged is lost.
//!
//! `cargo xtask test` makes the build; by hand: `cargo build --release -p keepd --features failpoints`
//! with `KEEPD_FAILPOINTS_BIN`. Without it the test says so and ends.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use e2e::Client;
use testkit::process::tail;
use testkit::{Keepd, TempDir};
use tokio::time::{sleep, timeout};
use tonic::Status;

/// Clients that write at the same time.
const WRITERS: usize = 6;
/// Time in which a place is reached.
pub(crate) const REACHED_MAX: Duration = Duration::from_secs(60);
/// Pause behind a request that failed: on a busy machine one may fail while the member lives.
const FAILED_PAUSE: Duration = Duration::from_millis(50);
/// Ended by `abort`, which is what a panic of gofail is here.
pub(crate) const SIGABRT: i32 = 6;

/// Places that one member reaches with reads and writes, compactions and rewrites. `beforePublishing` is
/// reached once, and those of states from other members need others.
const PLACES: [&str; 25] = [
    "raftBeforeSave",
    "raftAfterSave",
    "walBeforeSync",
    "walAfterSync",
    "raftBeforeAdvance",
    "raftAfterWALRelease",
    "beforeApplyOneEntryNormal",
    "beforeWritebackBuf",
    "afterWritebackBuf",
    "beforeStartDBTxn",
    "afterStartDBTxn",
    "commitBeforePreCommitHook",
    "commitAfterPreCommitHook",
    "beforeCommit",
    "afterCommit",
    "compactBeforeCommitScheduledCompact",
    "compactAfterCommitScheduledCompact",
    "compactBeforeCommitBatch",
    "compactAfterCommitBatch",
    "compactBeforeSetFinishedCompact",
    "compactAfterSetFinishedCompact",
    "defragBeforeCopy",
    "defragBeforeRename",
    "beforeSendWatchResponse",
    "beforePublishing",
];

/// Places that are reached at a start, and then not for long.
const AT_START: [&str; 2] = ["raftAfterWALRelease", "beforePublishing"];

/// One request to the failpoints; the answer with its head.
pub(crate) fn ask(address: &str, method: &str, path: &str, body: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    let len = body.len();
    write!(stream, "{method} /{path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len}\r\n\r\n{body}")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Numbers of one writer: what it tried last, and what was acknowledged last.
#[derive(Debug, Default)]
struct Written {
    tried: AtomicU64,
    acknowledged: AtomicU64,
}

/// Writes rising numbers, each under two keys in one transaction, and one again if its request fails.
async fn write(client: Client, writer: usize, written: Arc<Written>) {
    // Long enough that segments fill up.
    let padding = "p".repeat(2000);
    loop {
        let number = written.tried.fetch_add(1, Ordering::SeqCst) + 1;
        let pairs = [
            (format!("same/{writer}"), format!("{number} {padding}")),
            (format!("each/{writer}/{number:08}"), String::new()),
        ];
        while client.put_all(&pairs).await.is_err() {
            sleep(FAILED_PAUSE).await;
        }
        written.acknowledged.store(number, Ordering::SeqCst);
    }
}

/// Compacts, rewrites and watches, again and again; keeps the last answer that was an error.
async fn maintain(client: Client, refused: Arc<Mutex<Option<Status>>>) {
    loop {
        if let Err(status) = maintain_once(&client).await {
            *refused.lock().unwrap() = Some(status);
        }
        sleep(Duration::from_millis(20)).await;
    }
}

async fn maintain_once(client: &Client) -> Result<(), Status> {
    let revision = client.revision().await?;
    client.compact(revision.max(3) - 2).await?;
    client.defragment().await?;
    let watched = async { Ok(client.watch(revision).await?.next().await) };
    timeout(Duration::from_millis(200), watched).await.map_or(Ok(()), |seen| seen.map(drop))
}

async fn assert_kept(client: &Client, all: &[Arc<Written>], place: &str) {
    for (writer, written) in all.iter().enumerate() {
        let acknowledged = written.acknowledged.load(Ordering::SeqCst);
        let tried = written.tried.load(Ordering::SeqCst);
        let number = |value: &str| value.split(' ').next().unwrap().parse::<u64>().unwrap();
        let kept = client.get(&format!("same/{writer}")).await.unwrap();
        let kept = kept.map_or(0, |value| number(&value));
        assert!(
            (acknowledged..=tried).contains(&kept),
            "{place}: {kept} of {acknowledged}..={tried}"
        );
        let each = client.list(&format!("each/{writer}/")).await.unwrap();
        assert_eq!(each.len() as u64, kept, "{place}: both keys of a transaction, and all of them");
        written.tried.store(kept, Ordering::SeqCst);
        written.acknowledged.store(kept, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_ends_at_any_place_under_load_loses_nothing_acknowledged() {
    let Some(program) = Keepd::failpoints_binary() else {
        eprintln!("SKIPPED: there is no build of keepd with failpoints");
        return;
    };
    let dir = TempDir::new("e2e-failpoints");
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    let keepd = Keepd::new(dir.path()).program(&program).env("GOFAIL_HTTP", &address);
    // An orderly stop leaves a checkpoint: without one a rewrite has none to take the place of, and the
    // places of `defrag` are reached only if there is load enough for one.
    let mut server = keepd.start();
    Client::ready(&mut server).await.put("first", "", 0).await.unwrap();
    let _status = tokio::task::block_in_place(|| server.stop());
    let all: Vec<Arc<Written>> = (0..WRITERS).map(|_| Arc::default()).collect();
    for (round, place) in PLACES.into_iter().enumerate() {
        let is_at_start = AT_START.contains(&place);
        let keepd = if is_at_start {
            let name = format!("name-{round}");
            keepd
                .clone()
                .args(["--name", &name])
                .env("GOFAIL_FAILPOINTS", &format!("{place}=panic"))
        } else {
            keepd.clone()
        };
        let mut server = keepd.start();
        if !is_at_start {
            let client = Client::ready(&mut server).await;
            assert_kept(&client, &all, place).await;
            let refused = Arc::default();
            let mut load = tokio::task::JoinSet::new();
            load.spawn(maintain(client.clone(), Arc::clone(&refused)));
            for (writer, written) in all.iter().enumerate() {
                load.spawn(write(client.clone(), writer, Arc::clone(written)));
            }
            sleep(Duration::from_millis(100)).await;
            // The process may end before it has answered.
            let _answer = ask(&address, "PUT", place, "panic");
            let status = tokio::task::block_in_place(|| server.wait(REACHED_MAX));
            let status = status.unwrap_or_else(|| {
                let list = ask(&address, "GET", "", "").unwrap_or_default();
                let refused = refused.lock().unwrap();
                panic!("{place} is not reached: {refused:?}\n{list}\n{}", tail(&keepd.log()))
            });
            assert_eq!(status.signal(), Some(SIGABRT), "{place}: {status}\n{}", tail(&keepd.log()));
            load.shutdown().await;
        } else {
            let status = tokio::task::block_in_place(|| server.wait(REACHED_MAX));
            assert_eq!(status.and_then(|status| status.signal()), Some(SIGABRT), "{place}");
        }
        let log = keepd.log();
        assert!(log.contains(&format!("panic: failpoint panic: {place}\n")), "{}", tail(&log));
        assert!(log.contains("this build has failpoints"), "{}", tail(&log));
    }
    let mut server = keepd.start();
    let client = Client::ready(&mut server).await;
    assert_kept(&client, &all, "the end").await;
    let written: u64 = all.iter().map(|written| written.tried.load(Ordering::SeqCst)).sum();
    assert!(written > 100, "{written}");

    // A pause is one, and is over when it is taken back.
    assert!(
        ask(&address, "PUT", "raftBeforeSave", "sleep(3000)").unwrap().starts_with("HTTP/1.1 204")
    );
    let paused = timeout(Duration::from_millis(300), client.put("paused", "", 0)).await;
    paused.expect_err("it is not over yet");
    assert!(ask(&address, "GET", "raftBeforeSave", "").unwrap().ends_with("\r\nsleep(3000)\n"));
    assert!(ask(&address, "DELETE", "raftBeforeSave", "").unwrap().starts_with("HTTP/1.1 204"));
    assert!(ask(&address, "GET", "raftBeforeSave/count", "").unwrap().ends_with("\r\n0"));
    client.put("paused", "", 0).await.unwrap();
}
