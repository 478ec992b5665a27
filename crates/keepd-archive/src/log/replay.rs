//! The batches of a plan, as a restore reads them.

use std::collections::VecDeque;
use std::error::Error as StdError;

use keepd_backup::{Mark, ShippedLog, Step};

use super::batch::{self, After, Batch, MarkFacts};
use super::name::{BatchName, ChainName};
use super::shipped::{Found, ReplayPlan};
use crate::Error;
use crate::age::Keys;
use crate::destination::Destination;
use crate::digest::sha256;

/// BOUND: bytes of objects that are fetched at once, but one at least.
const FETCH_BYTES: u64 = 32 << 20;
/// BOUND: objects that are.
const FETCH_MAX: usize = 16;

/// Reads and opens one batch.
///
/// # Errors
/// If it is not there, no key opens it, or it is not what its name says.
pub fn open(
    destination: &dyn Destination,
    cluster: u64,
    chain: &ChainName,
    name: &BatchName,
    keys: &Keys,
) -> Result<Batch, Error> {
    let found = destination.get_all(&[name.key(cluster, chain)], batch::OBJECT_BYTES_MAX).pop();
    batch::open(cluster, chain, name, &found.unwrap_or(Err(Error::Truncated))?, keys)
}

/// Reads the log of a plan.
pub struct Reader<'a> {
    destination: &'a dyn Destination,
    cluster: u64,
    chain: ChainName,
    keys: &'a Keys,
    /// To be fetched.
    coming: VecDeque<Found>,
    fetched: VecDeque<(BatchName, Result<Vec<u8>, Error>)>,
    steps: VecDeque<Step>,
    /// The batch before: its name and digest.
    before: Option<(String, String)>,
    done: u64,
    all: u64,
    tell: &'a mut dyn FnMut(u64, u64),
}

impl std::fmt::Debug for Reader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("chain", &self.chain).finish_non_exhaustive()
    }
}

impl<'a> Reader<'a> {
    /// A reader; `tell` hears of the entries that were read, and of how many there are in all.
    pub fn new(
        destination: &'a dyn Destination,
        cluster: u64,
        plan: &ReplayPlan,
        keys: &'a Keys,
        tell: &'a mut dyn FnMut(u64, u64),
    ) -> Self {
        let all = plan.batches.iter().map(|it| it.name.entries()).sum();
        Self {
            destination,
            cluster,
            chain: plan.chain,
            keys,
            coming: plan.batches.iter().copied().collect(),
            fetched: VecDeque::new(),
            steps: VecDeque::new(),
            before: None,
            done: 0,
            all,
            tell,
        }
    }

    fn fetch(&mut self) {
        let (mut names, mut bytes) = (Vec::new(), 0);
        while let Some(found) = self.coming.front() {
            bytes += found.bytes;
            if names.len() == FETCH_MAX || (bytes > FETCH_BYTES && !names.is_empty()) {
                break;
            }
            names.push(found.name);
            self.coming.pop_front();
        }
        let keys: Vec<String> =
            names.iter().map(|name| name.key(self.cluster, &self.chain)).collect();
        let objects = self.destination.get_all(&keys, batch::OBJECT_BYTES_MAX);
        self.fetched.extend(names.into_iter().zip(objects));
    }

    /// Opens the next batch; whether there was one.
    fn advance(&mut self) -> Result<bool, Error> {
        if self.fetched.is_empty() {
            self.fetch();
        }
        let Some((name, object)) = self.fetched.pop_front() else { return Ok(false) };
        let object = object?;
        let batch = batch::open(self.cluster, &self.chain, &name, &object, self.keys)?;
        self.check_before(&name, &batch)?;
        self.before = Some((name.to_string(), sha256(&object)));
        self.done += name.entries();
        (self.tell)(self.done, self.all);
        self.queue(batch);
        Ok(true)
    }

    /// A batch that follows the one that was read before names its digest.
    fn check_before(&self, name: &BatchName, batch: &Batch) -> Result<(), Error> {
        let Some((before, digest)) = &self.before else { return Ok(()) };
        match &batch.header.after {
            After::Batch { name: of, sha256 } if of == before && sha256 != digest => {
                let reason = format!("it follows another {of} than the one that lies there");
                Err(Error::Batch { name: name.to_string(), reason })
            }
            After::Begin(_) | After::Batch { .. } => Ok(()),
        }
    }

    /// Queues entries and marks in the order of the log.
    fn queue(&mut self, batch: Batch) {
        let mut marks = batch.header.marks.iter().peekable();
        let mut entries = batch.entries.into_iter().peekable();
        let step = |mark: &MarkFacts| {
            Step::Mark(Mark { position: mark.at.into(), revision: mark.revision })
        };
        loop {
            match (entries.peek(), marks.peek()) {
                (Some(entry), Some(mark)) if mark.at.index < entry.index => {
                    self.steps.extend(marks.next().map(step));
                }
                (Some(_), _) => self.steps.extend(entries.next().map(Step::Entry)),
                (None, Some(_)) => self.steps.extend(marks.next().map(step)),
                (None, None) => return,
            }
        }
    }
}

impl ShippedLog for Reader<'_> {
    fn next(&mut self) -> Result<Option<Step>, Box<dyn StdError + Send + Sync>> {
        while self.steps.is_empty() {
            if !self.advance()? {
                return Ok(None);
            }
        }
        Ok(self.steps.pop_front())
    }
}
