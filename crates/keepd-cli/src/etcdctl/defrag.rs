//! `defrag`: asks members to defragment their storage.

use keepd_api::etcdserverpb::{DefragmentRequest, DefragmentResponse};
use keepd_env::Env;
use keepd_gotext::GoDuration;

use super::GROUP_CLUSTER;
use super::client::{Client, Method, Repeat};
use super::endpoint::{CLUSTER, with_endpoints};
use crate::engine::answer::{complain, print};
use crate::engine::command::{Call, Command};
use crate::engine::exit::{Exit, FAILED};

const DEFRAGMENT: Method<DefragmentRequest, DefragmentResponse> =
    Method::new("/etcdserverpb.Maintenance/Defragment", Repeat::Never);

/// The command.
pub(super) static COMMAND: Command = Command {
    usage: "defrag",
    short: "Defragments the storage of the etcd members with given endpoints",
    group: GROUP_CLUSTER,
    flags: &[CLUSTER],
    run: Some(run),
    ..Command::NONE
};

fn run(call: Call<'_>) -> Result<(), Exit> {
    with_endpoints(call, async |_, options, endpoints| {
        let clock = Env::real().clock;
        let mut any_failed = false;
        for endpoint in endpoints {
            let client = Client::new(options.only(&endpoint)).await?;
            let start = clock.monotonic();
            let answer = client.ask(&DEFRAGMENT, DefragmentRequest {}).await;
            let took = GoDuration::from(clock.monotonic() - start).to_string();
            match answer {
                Ok(_) => print(
                    format!("Finished defragmenting etcd member[{endpoint}]. took {took}\n")
                        .as_bytes(),
                ),
                Err(failure) => {
                    any_failed = true;
                    complain(&format!(
                        "Failed to defragment etcd member[{endpoint}]. took {took}. ({failure})"
                    ));
                }
            }
        }
        if any_failed { Err(Exit::silent(FAILED)) } else { Ok(()) }
    })
}
