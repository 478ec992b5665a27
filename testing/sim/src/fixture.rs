//! The member that tests start on a simulated disk, with its threads and on the machine's clock; and a
//! watch that keeps what it is told.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use keepd_crypto::EncryptionConfig;
use keepd_env::{Env, SeededRandom, SimDisk, SystemClock};
use keepd_node::{BootError, DataDir, Node, Options};
use keepd_watch::{CloseReason, Sink, StreamMessage};
use parking_lot::Mutex;

/// A configuration that encrypts every value.
pub const ENCRYPTION: &[u8] = b"
apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: ['*.*']
  providers:
  - secretbox: {keys: [{name: k, secret: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}]}
";

/// The configuration that encrypts every value.
///
/// # Panics
/// Never: it is right.
#[must_use]
pub fn encryption() -> EncryptionConfig {
    EncryptionConfig::parse("test", ENCRYPTION).expect("the configuration is right")
}

/// Secrets of further keys.
const SECRETS: [&str; 3] = [
    "MTEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
    "MjEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
    "MzEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
];

/// A configuration that encrypts every value under the last of so many further keys, and has all that
/// were before.
///
/// # Panics
/// If there are not so many.
#[must_use]
pub fn encryption_with(further: usize) -> EncryptionConfig {
    let keys = SECRETS[..further].iter().enumerate().rev();
    let keys: String =
        keys.map(|(number, secret)| format!("{{name: k{number}, secret: {secret}}}, ")).collect();
    let text = String::from_utf8_lossy(ENCRYPTION).replace("keys: [", &format!("keys: [{keys}"));
    EncryptionConfig::parse("test", text.as_bytes()).expect("the configuration is right")
}

/// Settings that let flushes happen within a test, and a ballast for a small disk.
#[must_use]
pub fn options() -> Options {
    let mut options = Options::new(PathBuf::from("/data"));
    options.flush_interval = Duration::from_millis(2);
    options.ballast_bytes = 64 * 1024;
    options
}

/// The disk, the machine's clock and the randomness of a seed.
#[must_use]
pub fn env(disk: &SimDisk, seed: u64) -> Env {
    Env {
        disk: Arc::new(disk.clone()),
        clock: Arc::new(SystemClock::new()),
        random: Arc::new(SeededRandom::new(seed)),
    }
}

/// Starts a member with its threads.
///
/// # Errors
/// If it refuses its data directory.
pub fn start(
    disk: &SimDisk,
    seed: u64,
    options: Options,
    config: Option<EncryptionConfig>,
) -> Result<Node, BootError> {
    let env = env(disk, seed);
    let data_dir = DataDir::prepare(&env, &options, config)?;
    Node::start(env, options, data_dir)
}

/// Starts a member and waits until it leads.
///
/// # Panics
/// If it does not start.
pub async fn started(
    disk: &SimDisk,
    seed: u64,
    options: Options,
    config: Option<EncryptionConfig>,
) -> Node {
    let node = start(disk, seed, options, config).expect("the member starts");
    node.ready().await.expect("the member leads");
    node
}

/// All that a watch was told.
#[derive(Clone, Debug, Default)]
pub struct Told(pub Arc<Mutex<Vec<StreamMessage>>>);

impl Sink for Told {
    fn answer(&mut self, message: StreamMessage) {
        self.0.lock().push(message);
    }

    fn unanswered(&mut self) {}

    fn try_send(&mut self, message: StreamMessage) -> Result<(), StreamMessage> {
        self.0.lock().push(message);
        Ok(())
    }

    fn has_capacity(&self) -> bool {
        true
    }

    fn close(&mut self, _reason: CloseReason) {}
}
