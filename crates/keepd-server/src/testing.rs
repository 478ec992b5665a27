//! A member on a simulated disk, for the tests of the services.

use std::sync::Arc;

use keepd_crypto::EncryptionConfig;
use keepd_env::SimDisk;
use keepd_node::{Handle, Node, Options};
use sim::fixture;

use crate::authorization::{self, Caller, Everyone, Permission};
use crate::context::{Context, Limits};
use crate::grpc::call::Call;
use crate::peer::Peer;

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
    let mut options = Options::new("/data".into());
    options.ballast_bytes = 64 * 1024;
    let config = config.map(|it| EncryptionConfig::parse("test", it).expect("it is right"));
    let node = fixture::started(&SimDisk::new(), 1, options, config).await;
    node.handle().activate_encryption().await.expect("the keys are active");
    Member(node)
}

/// The services' context for a member.
pub(crate) fn context(member: &Member) -> Arc<Context> {
    let encryption = Arc::clone(member.handle().encryption());
    Context::new(member.handle(), encryption, Limits::default())
}

/// An authorized call with this request, without a deadline.
pub(crate) fn call<R>(context: &Context, request: R) -> Call<R> {
    let (peer, share) = (Peer::default(), context.unfinished.share(Peer::default()));
    let caller = Caller { peer: &peer, token: None };
    let authorized = authorization::authorize(&Everyone, "/test", Permission::None, caller);
    Call::new(request, None, share, authorized.expect("everyone may"))
}
