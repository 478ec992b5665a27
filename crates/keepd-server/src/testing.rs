//! A member on a simulated disk, for the tests of the services.

use std::sync::Arc;

use keepd_crypto::EncryptionConfig;
use keepd_env::{Env, SeededRandom, SimDisk, SystemClock};
use keepd_node::{DataDir, Handle, Node, Options};

use crate::context::{Context, Limits};

/// A running member.
pub(crate) struct Member(Node);

impl Member {
    pub(crate) fn handle(&self) -> Handle {
        self.0.handle()
    }

    pub(crate) async fn stop(self) {
        let stopping = tokio::task::spawn_blocking(move || self.0.stop());
        stopping.await.expect("it stops");
    }
}

/// Starts a member that seals as `config` says.
pub(crate) async fn member(config: Option<&[u8]>) -> Member {
    let env = Env {
        disk: Arc::new(SimDisk::new()),
        clock: Arc::new(SystemClock::new()),
        random: Arc::new(SeededRandom::new(1)),
    };
    let mut options = Options::new("/data".into());
    options.ballast_bytes = 64 * 1024;
    let config = config.map(|it| EncryptionConfig::parse("test", it).expect("it is right"));
    let data_dir = DataDir::prepare(&env, &options, config).expect("the directory is new");
    let node = Node::start(env, options, data_dir).expect("the member starts");
    node.ready().await.expect("the member leads");
    node.handle().activate_encryption().await.expect("the keys are active");
    Member(node)
}

/// The services' context for a member.
pub(crate) fn context(member: &Member) -> Arc<Context> {
    let encryption = Arc::clone(member.handle().encryption());
    Context::new(member.handle(), encryption, Limits::default())
}
