//! `lock`: holds a named lock until it is told to end, or while a command runs.

use keepd_api::etcdserverpb::{DeleteRangeRequest, RangeRequest};

use super::GROUP_CONCURRENCY;
use super::client::{Client, Failure, with_client};
use super::del::DELETE_RANGE;
use super::exec;
use super::get::RANGE;
use super::session::{Session, Turn, told_to_end};
use crate::engine::answer;
use crate::engine::command::{Call, Command, Flag};
use crate::engine::exit::{Exit, FAILED, bad_arguments, failed};

/// The command.
pub(super) static COMMAND: Command = Command {
    usage: "lock <lockname> [exec-command arg1 arg2 ...]",
    short: "Acquires a named lock",
    group: GROUP_CONCURRENCY,
    flags: &[Flag::int("ttl", "timeout for session").unless_given("10")],
    run: Some(run),
    ..Command::NONE
};

fn run(call: Call<'_>) -> Result<(), Exit> {
    if call.arguments.is_empty() {
        return Err(bad_arguments(
            "lock takes a lock name argument and an optional command to execute",
        ));
    }
    with_client(call, async |call, client| {
        let session = Session::open(client, call.int("ttl")).await.map_err(failed)?;
        let prefix = [&call.arguments[0][..], b"/"].concat();
        let turn = tokio::select! {
            turn = session.take_turn(&prefix, "".into()) => turn.map_err(failed)?,
            () = session.expired() => return Err(failed("session expired")),
            () = told_to_end() => {
                unlock(client, session.key(&prefix)).await.map_err(failed)?;
                return Err(failed("context canceled"));
            }
        };
        if call.arguments.len() > 1 {
            return tokio::select! {
                // The command decides about signals; it gets them from the terminal, too.
                ended = run_command(call, client, turn) => ended,
                () = session.expired() => Err(failed("session expired")),
            };
        }
        show_holder(client, &turn).await?;
        tokio::select! {
            () = told_to_end() => unlock(client, turn.key).await.map_err(failed),
            () = session.expired() => Err(failed("session expired")),
        }
    })
}

async fn unlock(client: &Client, key: bytes::Bytes) -> Result<(), Failure> {
    let request = DeleteRangeRequest { key, ..DeleteRangeRequest::default() };
    client.call(&DELETE_RANGE, request).await.map(drop)
}

async fn show_holder(client: &Client, turn: &Turn) -> Result<(), Exit> {
    let request = RangeRequest { key: turn.key.clone(), ..RangeRequest::default() };
    let answer = client.call(&RANGE, request).await.map_err(failed)?;
    if answer.kvs.is_empty() {
        return Err(failed("lock lost on init"));
    }
    answer::show(&answer, client.options.style)
}

async fn run_command(call: &Call<'_>, client: &Client, turn: Turn) -> Result<(), Exit> {
    let words = &call.arguments[1..];
    let Some(mut command) = exec::command(words) else { return Ok(()) };
    command
        .env("ETCD_LOCK_KEY", String::from_utf8_lossy(&turn.key).into_owned())
        .env("ETCD_LOCK_REV", turn.revision.to_string())
        .stdin(std::process::Stdio::null());
    // The lease is kept alive on this thread meanwhile.
    let ended = tokio::task::spawn_blocking(move || command.status()).await.map_err(failed)?;
    let unlocked = unlock(client, turn.key).await;
    match ended {
        Ok(status) if status.success() => unlocked.map_err(failed),
        Ok(status) => {
            let code = status.code().and_then(|code| u8::try_from(code).ok());
            Err(Exit::new(code.unwrap_or(FAILED), exec::ended(status)))
        }
        Err(error) => Err(failed(exec::not_started(&words[0], &error))),
    }
}
