//! `keepd undo`: puts back what was deleted or changed, in the running cluster, by ordinary transactions.
//!
//! Each write is guarded by the revision that the key was seen at: what somebody changes meanwhile is left
//! alone and told. A second run goes on where an interrupted one ended, since it begins with a new comparison.

use std::collections::BTreeMap;
use std::process::ExitCode;

use bytes::Bytes;
use clap::Parser;
use keepd_api::etcdserverpb as pb;
use keepd_cli::output;
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::request_op::Request;
use serde_json::json;

use super::live::Live;
use super::selection::{Selection, SelectionArguments};
use super::sources::{SourceArguments, Sources};
use super::state::{Content, Difference, State, differences};
use super::{kubernetes, shown};
use crate::backup::Format;

/// BOUND: keys of a transaction, fewer than any server's limit.
const KEYS_MAX: usize = 32;
/// BOUND: bytes of a transaction, below every server's limit, unless one value is larger.
const BYTES_MAX: usize = 1 << 20;
/// BOUND: keys that are named because they changed meanwhile.
const NAMED_MAX: usize = 20;
/// Some keys changed meanwhile.
const CHANGED_MEANWHILE: u8 = 4;

/// Put back what was deleted or changed since, in the running cluster.
///
/// Without --yes it tells what it would do. The state that is gone back to is a revision of the cluster, the
/// name of a backup, `latest` (the newest proven one), or a time (the newest proven backup before it). Keys
/// made since then are left alone, unless --delete-created is given. Every key is written only if it is
/// still what the comparison saw. Watchers see ordinary changes, with new revisions.
///
/// Exit codes: 0 done, 1 failed, 2 mistake on the command line, 4 some keys changed meanwhile and were left
/// alone.
#[derive(Debug, Parser)]
#[command(name = "keepd undo", bin_name = "keepd undo")]
pub(crate) struct Arguments {
    /// The state to go back to: REVISION, BACKUP or TIME.
    #[arg(long, value_name = "STATE")]
    to: String,
    #[command(flatten)]
    selection: SelectionArguments,
    #[command(flatten)]
    sources: SourceArguments,
    /// Delete the keys that were made since.
    #[arg(long)]
    delete_created: bool,
    /// Put back keys without the lease that they had and that is gone; otherwise they are left out.
    #[arg(long)]
    without_lease: bool,
    /// Do it.
    #[arg(long)]
    yes: bool,
    /// The form of what is printed; json is one object a line.
    #[arg(short = 'w', long, value_name = "FORMAT", default_value = "table")]
    write_out: Format,
}

/// The write that undoes a difference.
enum Write {
    Put(Content),
    Delete,
}

#[derive(Default)]
struct Counts {
    restored: u64,
    reverted: u64,
    deleted: u64,
    /// Keys made since, which stay.
    left: u64,
    /// Keys whose lease is gone.
    leased: u64,
    /// Objects that were being deleted at the time.
    being_deleted: u64,
    changed_meanwhile: u64,
}

/// Runs the verb.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(
        arguments.selection.is_given(),
        "name what to put back: --prefix PREFIX (--prefix '' for all keys), or --namespace NAME"
    );
    let selection = arguments.selection.read()?;
    let mut sources = Sources::new(&arguments.sources)?;
    let live = sources.live()?.clone();
    let before = sources.state(&arguments.to)?;
    let after = live.at(None)?;
    let mut undo = Undo {
        arguments,
        live: &live,
        namespace: selection.namespace_key(),
        leases: BTreeMap::new(),
        counts: Counts::default(),
    };
    // What is in a namespace must not be there before it.
    if let Some(alone) = selection.of_namespace_alone() {
        undo.walk(&*before, &after, &alone, true)?;
    }
    undo.walk(&*before, &after, &selection, false)?;
    undo.tell(&*before, if arguments.yes { "were" } else { "would be" });
    if !arguments.yes {
        output::complain("a dry run: nothing was changed; --yes does it");
    }
    let is_whole = undo.counts.changed_meanwhile == 0;
    Ok(if is_whole { ExitCode::SUCCESS } else { ExitCode::from(CHANGED_MEANWHILE) })
}

struct Undo<'a> {
    arguments: &'a Arguments,
    live: &'a Live,
    /// The key of the namespace, if it is one that comes back.
    namespace: Option<Bytes>,
    /// The leases that were asked for, and whether they are there.
    leases: BTreeMap<i64, bool>,
    counts: Counts,
}

/// Writes that go into one transaction.
#[derive(Default)]
struct Batch {
    compares: Vec<pb::Compare>,
    writes: Vec<pb::RequestOp>,
    bytes: usize,
}

impl Undo<'_> {
    /// Tells of the differences of a selection, and undoes them unless it is a dry run; of the namespace's
    /// own key alone, or of all but that.
    fn walk(
        &mut self,
        before: &dyn State,
        after: &dyn State,
        selection: &Selection,
        is_alone: bool,
    ) -> anyhow::Result<()> {
        let mut batch = Batch::default();
        differences(before, after, selection, &mut |difference| {
            let is_namespace = self.namespace.as_ref() == Some(&difference.key);
            if is_namespace != is_alone {
                return Ok(());
            }
            let Some(write) = self.write_for(&difference)? else { return Ok(()) };
            self.check(&difference.key, &write)?;
            self.show(&difference);
            if !self.arguments.yes {
                return Ok(());
            }
            if batch.is_full_with(&write) {
                self.commit(std::mem::take(&mut batch))?;
            }
            batch.add(&difference, write);
            Ok(())
        })?;
        self.commit(batch)
    }

    /// Refuses a namespace that was being deleted, and counts other objects that were.
    fn check(&mut self, key: &Bytes, write: &Write) -> anyhow::Result<()> {
        let Write::Put(content) = write else { return Ok(()) };
        if kubernetes::is_being_deleted(&content.value) {
            anyhow::ensure!(
                self.namespace.as_ref() != Some(key),
                "the namespace was being deleted at that time already, and would be deleted again: go back \
                 further (keepd history {} shows its versions)",
                shown::key(key)
            );
            self.counts.being_deleted += 1;
        }
        Ok(())
    }

    fn show(&self, difference: &Difference) {
        if self.arguments.write_out == Format::Json {
            output::line(&shown::json(difference, false).to_string());
            return;
        }
        let key = shown::key(&difference.key);
        output::line(&match (&difference.before, &difference.after) {
            (Some(before), None) => {
                format!("put back {key}  (as of revision {})", before.head.mod_revision)
            }
            (Some(before), Some(after)) => format!(
                "change back {key}  (from revision {} to that of {})",
                after.head.mod_revision, before.head.mod_revision
            ),
            (None, _) => format!("delete {key}"),
        });
    }

    /// The write that undoes a difference, if there is to be one; counts.
    fn write_for(&mut self, difference: &Difference) -> anyhow::Result<Option<Write>> {
        let Some(before) = &difference.before else {
            let deletes = self.arguments.delete_created;
            *(if deletes { &mut self.counts.deleted } else { &mut self.counts.left }) += 1;
            return Ok(deletes.then_some(Write::Delete));
        };
        let mut content = before.content.clone();
        if content.lease != 0 && !self.has_lease(content.lease)? {
            if !self.arguments.without_lease {
                self.counts.leased += 1;
                return Ok(None);
            }
            content.lease = 0;
        }
        let is_there = difference.after.is_some();
        *(if is_there { &mut self.counts.reverted } else { &mut self.counts.restored }) += 1;
        Ok(Some(Write::Put(content)))
    }

    fn has_lease(&mut self, lease: i64) -> anyhow::Result<bool> {
        if let Some(known) = self.leases.get(&lease) {
            return Ok(*known);
        }
        let is_there = self.live.has_lease(lease)?;
        self.leases.insert(lease, is_there);
        Ok(is_there)
    }

    fn commit(&mut self, batch: Batch) -> anyhow::Result<()> {
        if batch.writes.is_empty() || self.live.txn(batch.request())?.succeeded {
            return Ok(());
        }
        if let [compare] = &batch.compares[..] {
            self.counts.changed_meanwhile += 1;
            if self.counts.changed_meanwhile <= NAMED_MAX as u64 {
                let key = shown::key(&compare.key);
                output::complain(&format!("changed meanwhile, left alone: {key}"));
            }
            return Ok(());
        }
        for (compare, write) in batch.compares.into_iter().zip(batch.writes) {
            self.commit(Batch { compares: vec![compare], writes: vec![write], bytes: 0 })?;
        }
        Ok(())
    }

    fn tell(&self, to: &dyn State, verb: &str) {
        let Counts { restored, reverted, deleted, left, leased, being_deleted, changed_meanwhile } =
            self.counts;
        if self.arguments.write_out == Format::Json {
            output::line(
                &json!({
                    "to": to.name(), "is_done": self.arguments.yes, "put_back": restored,
                    "changed_back": reverted, "deleted": deleted, "left": left,
                    "lease_is_gone": leased, "changed_meanwhile": changed_meanwhile,
                })
                .to_string(),
            );
            return;
        }
        output::line(&format!(
            "to {}: {restored} {verb} put back, {reverted} {verb} changed back, {deleted} {verb} deleted",
            to.name()
        ));
        for (count, text) in [
            (left, "were made since and stay (--delete-created deletes them)"),
            (leased, "had a lease that is gone, and stay away (--without-lease puts them back)"),
            (
                being_deleted,
                "were being deleted at the time already: controllers may go on with that",
            ),
            (
                changed_meanwhile,
                "changed meanwhile and were left alone: run it again to look at them",
            ),
        ] {
            if count > 0 {
                output::line(&format!("{count} {text}"));
            }
        }
    }
}

impl Batch {
    fn is_full_with(&self, write: &Write) -> bool {
        let len = match write {
            Write::Put(content) => content.value.len(),
            Write::Delete => 0,
        };
        !self.writes.is_empty() && (self.writes.len() == KEYS_MAX || self.bytes + len > BYTES_MAX)
    }

    fn add(&mut self, difference: &Difference, write: Write) {
        let key = difference.key.clone();
        // A key that is not there has the revision 0.
        let seen = difference.after.as_ref().map_or(0, |side| side.head.mod_revision);
        self.compares.push(pb::Compare {
            result: CompareResult::Equal.into(),
            target: CompareTarget::Mod.into(),
            key: key.clone(),
            range_end: Bytes::new(),
            target_union: Some(TargetUnion::ModRevision(seen)),
        });
        let request = match write {
            Write::Put(Content { value, lease }) => {
                self.bytes += value.len();
                Request::RequestPut(pb::PutRequest { key, value, lease, ..Default::default() })
            }
            Write::Delete => {
                Request::RequestDeleteRange(pb::DeleteRangeRequest { key, ..Default::default() })
            }
        };
        self.writes.push(pb::RequestOp { request: Some(request) });
    }

    fn request(&self) -> pb::TxnRequest {
        let (compare, success) = (self.compares.clone(), self.writes.clone());
        pb::TxnRequest { compare, success, ..Default::default() }
    }
}
