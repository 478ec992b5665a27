//! The KV service as golden scripts: what is refused before the log, which commands enter it, and what
//! clients are answered.

mod lists;
mod requests;
mod show;

use std::sync::Arc;

use keepd_api::etcdserverpb::request_op::Request;
use tokio::runtime::Runtime;
use tonic::Status;

use super::{to_command, txn, validate};
use crate::context::Context;
use crate::testing;

/// Keys below `s/` are sealed.
const CONFIG: &[u8] = b"
apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: ['prefix:s/']
  providers:
  - secretbox: {keys: [{name: k, secret: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}]}
";

/// Operations of one transaction, etcd's default.
const OPS_MAX: usize = 128;

/// Runs a script:
///
/// | command | prints |
/// |---|---|
/// | `check REQUEST` | whether it is refused before the log, in etcd's words |
/// | `command REQUEST` | the command that would be proposed |
/// | `run REQUEST` | the answer; runs it |
///
/// Requests are written as in [`requests`].
struct Script {
    runtime: Runtime,
    member: Option<(testing::Member, Arc<Context>)>,
}

impl Script {
    fn new() -> Self {
        let runtime = Runtime::new().expect("a runtime starts");
        Self { runtime, member: None }
    }

    fn context(&mut self) -> Arc<Context> {
        let (_, context) = self.member.get_or_insert_with(|| {
            let member = self.runtime.block_on(testing::member(Some(CONFIG)));
            let context = testing::context(&member);
            (member, context)
        });
        Arc::clone(context)
    }

    fn run(&mut self, name: &str, request: &str) -> String {
        let request = requests::request(request);
        match name {
            "check" => match check(&request) {
                Ok(()) => "ok\n".to_owned(),
                Err(error) => format!("{}\n", error.text()),
            },
            "command" => {
                let context = self.context();
                let command = self.runtime.block_on(command(&context, request));
                told(command.map(|op| show::op(&op)))
            }
            "run" => {
                let context = self.context();
                told(self.runtime.block_on(answer(&context, request)))
            }
            _ => panic!("`{name}`: no such command"),
        }
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        if let Some((member, context)) = self.member.take() {
            drop(context);
            self.runtime.block_on(member.stop());
        }
    }
}

fn told(result: Result<String, Status>) -> String {
    result.unwrap_or_else(|status| format!("{:?}: {}\n", status.code(), status.message()))
}

fn check(request: &Request) -> Result<(), keepd_api::Error> {
    match request {
        Request::RequestRange(request) => validate::range(request),
        Request::RequestPut(request) => validate::put(request),
        Request::RequestDeleteRange(request) => validate::delete(request),
        Request::RequestTxn(request) => validate::txn(request, OPS_MAX),
    }
}

/// The command for a request, as the only operation of a transaction if it is none.
async fn command(
    context: &Arc<Context>,
    request: Request,
) -> Result<keepd_machine::command::Op, Status> {
    let view = context.node.view();
    let txn = requests::txn_of(request);
    let txn = to_command::resolved(context, &view, txn).await?;
    Ok(keepd_machine::command::Op::Txn(Box::new(txn)))
}

/// The answer to a request, as a client sees it in a transaction.
async fn answer(context: &Arc<Context>, request: Request) -> Result<String, Status> {
    check(&request)?;
    let answer = txn::run(context, requests::txn_of(request)).await?;
    Ok(show::answer(&answer))
}

#[test]
fn scripts() {
    testkit::golden::check("src/kv/tests/golden", || {
        let mut script = Script::new();
        move |command| script.run(&command.name, command.rest())
    });
}
