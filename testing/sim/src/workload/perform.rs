//! One request on one member, as the server's services do it.

use std::sync::Arc;

use bytes::Bytes;
use keepd_machine::command::{Compare, DeleteRange, Op, Put, Range, Relation, Target, Txn};
use keepd_machine::{Command, CommandResponse, OpResponse};
use keepd_mvcc::View;
use keepd_node::{Completion, Error, Handle, Renewal};
use keepd_types::{KeyRange, LeaseId};

use crate::history::{Outcome, Request, Response};
use crate::truth;

/// Has a member do what is asked for.
pub(crate) async fn perform(handle: &Handle, request: &Request) -> Outcome {
    match request {
        Request::Put { key, value, lease } => match put(handle, key, value, *lease) {
            Ok(put) => propose(handle, Command::Put(put)).await,
            Err(error) => Outcome::Failed(error),
        },
        Request::Delete { key } => {
            let range = KeyRange::point(key.clone());
            propose(handle, Command::DeleteRange(DeleteRange { range, prev_kv: false })).await
        }
        Request::Swap { key, expected, value } => {
            let put = match put(handle, key, value, LeaseId::NONE) {
                Ok(put) => put,
                Err(error) => return Outcome::Failed(error),
            };
            let range = KeyRange::point(key.clone());
            let compare = Compare::Number {
                range: range.clone(),
                target: Target::Mod,
                relation: Relation::Equal,
                operand: *expected,
            };
            let txn = Txn {
                compares: vec![compare],
                success: vec![Op::Put(put)],
                failure: vec![Op::Range(Range { range, revision: 0, fetch_limit: 0 })],
            };
            propose(handle, Command::Txn(Box::new(txn))).await
        }
        Request::Compact { revision } => {
            propose(handle, Command::Compact { revision: *revision }).await
        }
        Request::Grant { id, ttl } => {
            propose(handle, Command::LeaseGrant { id: *id, ttl: *ttl }).await
        }
        Request::Revoke { id } => propose(handle, Command::LeaseRevoke { id: *id }).await,
        Request::Renew { id } => match handle.renew_lease(*id).await {
            Ok(Renewal::Renewed { .. }) => Outcome::Ok(Response::Renewed),
            Ok(Renewal::Gone) => Outcome::Ok(Response::Gone),
            Ok(Renewal::NotPrimary) => Outcome::Failed("not primary".to_owned()),
            Err(error) => failed(&error),
        },
        Request::Read { range, at, is_serializable } => {
            let view = match is_serializable {
                true => handle.view(),
                false => match handle.linearizable_view().await {
                    Ok(view) => view,
                    Err(error) => return Outcome::Failed(error.to_string()),
                },
            };
            match read(handle, &view, range, *at) {
                Ok(response) => Outcome::Ok(response),
                Err(error) => Outcome::Failed(error),
            }
        }
        Request::Other(what) => Outcome::Failed(format!("{what} is no request of a client")),
    }
}

fn put(handle: &Handle, key: &Bytes, value: &Bytes, lease: LeaseId) -> Result<Put, String> {
    let sealer = handle.encryption().sealer();
    let sealed = sealer.seal(key, value.clone(), &*handle.env().random);
    let value = sealed.map_err(|error| error.to_string())?;
    Ok(Put { key: key.clone(), value, lease, ..Put::default() })
}

async fn propose(handle: &Handle, command: Command) -> Outcome {
    let completion = match handle.propose(command).await {
        Ok(completion) => completion,
        Err(error) => return failed(&error),
    };
    let Completion { outcome, .. } = completion;
    let revision = outcome.revision;
    match outcome.result {
        Err(refusal) => Outcome::Failed(refusal.to_string()),
        Ok(CommandResponse::DeleteRange { deleted, .. }) => {
            Outcome::Ok(Response::Deleted { revision, count: deleted })
        }
        Ok(CommandResponse::Txn(txn)) => {
            let is_put = matches!(txn.responses.as_slice(), [OpResponse::Put { .. }]);
            assert_eq!(is_put, txn.succeeded, "the chosen branch answers");
            Outcome::Ok(Response::Swapped { revision, is_swapped: txn.succeeded })
        }
        Ok(_) => Outcome::Ok(Response::Done { revision }),
    }
}

/// The outcome of a proposal that was not answered.
fn failed(error: &Error) -> Outcome {
    match error {
        Error::NoLeader
        | Error::NotProposed
        | Error::ProposalDropped
        | Error::TooManyRequests
        | Error::TooLarge
        | Error::FeatureLevel { .. }
        | Error::NotLeader
        | Error::NotVoter => Outcome::Failed(error.to_string()),
        // A state of another member may have it, without that this one sees the entry.
        Error::LeaderChanged
        | Error::Stopped
        | Error::TimedOut
        | Error::TimedOutByElection
        | Error::TimedOutByConnection
        | Error::TransferTimedOut => Outcome::Unknown(error.to_string()),
    }
}

fn read(handle: &Handle, view: &Arc<View>, range: &KeyRange, at: i64) -> Result<Response, String> {
    let refs = view.range(range, at, 0).map_err(|error| error.to_string())?;
    let revisions: Vec<_> = refs.keys.iter().map(|(_, revision)| *revision).collect();
    let records = view.load_many(&revisions).map_err(|error| error.to_string())?;
    let sealer = handle.encryption().sealer();
    let pairs = records.iter().map(|record| truth::pair(record, &sealer));
    Ok(Response::Read { revision: view.revision(), pairs: pairs.collect::<Result<_, _>>()? })
}
