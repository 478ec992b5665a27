//! The states that a command line can name: a revision of the running cluster, a backup, or a time.

use std::sync::Arc;

use anyhow::Context as _;
use keepd_archive::catalog::{Backup, Catalog};
use keepd_archive::destination::Destination;
use keepd_archive::prove;
use keepd_archive::scratch::Scratch;
use keepd_archive::unpacked::Unpacked;
use keepd_archive::{Moment, age::Keys};

use super::archived::Archived;
use super::live::Live;
use super::state::State;
use crate::admin::{AccessArguments, Cluster};
use crate::backup::{
    Bar, LineArguments, Machine, OpenArguments, ScratchArguments, cluster_id, sidecar,
};

/// The word for the running cluster as it is.
const NOW: &str = "now";
/// The word for the newest proven backup.
const LATEST: &str = "latest";

/// The cluster, and the place of its backups, on a command line.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct SourceArguments {
    #[command(flatten)]
    access: AccessArguments,
    /// The place of the backups, as for `keepd backup list`.
    #[arg(long, value_name = "URL")]
    from: Option<String>,
    /// The cluster whose backups are meant, if the place has backups of several.
    #[arg(long, value_name = "ID", value_parser = cluster_id)]
    cluster: Option<u64>,
    #[command(flatten)]
    keys: OpenArguments,
    #[command(flatten)]
    scratch: ScratchArguments,
    #[command(flatten)]
    line: LineArguments,
}

/// The origins of states. The cluster is asked, and the place read, when a state of it is named.
pub(super) struct Sources<'a> {
    arguments: &'a SourceArguments,
    machine: Machine,
    live: Option<Live>,
    place: Option<Place>,
    unpacked: usize,
}

struct Place {
    destination: Arc<dyn Destination>,
    catalog: Catalog,
    keys: Keys,
    scratch: Arc<Scratch>,
}

impl<'a> Sources<'a> {
    pub(super) fn new(arguments: &'a SourceArguments) -> anyhow::Result<Self> {
        let machine = Machine::new(arguments.line.limit_rate)?;
        Ok(Self { arguments, machine, live: None, place: None, unpacked: 0 })
    }

    /// The running cluster.
    pub(super) fn live(&mut self) -> anyhow::Result<&Live> {
        let live = match self.live.take() {
            Some(live) => live,
            None => {
                let access = self.arguments.access.or_environment();
                let cluster = Cluster::new(&self.machine.env, &access)?;
                Live::new(cluster, self.machine.runtime.handle().clone())?
            }
        };
        Ok(self.live.insert(live))
    }

    /// Whether there is a place of backups.
    pub(super) const fn has_place(&self) -> bool {
        self.arguments.from.is_some()
    }

    /// The state that a word names.
    pub(super) fn state(&mut self, word: &str) -> anyhow::Result<Box<dyn State>> {
        if word == NOW {
            return Ok(Box::new(self.live()?.at(None)?));
        }
        if let Ok(revision) = word.parse::<i64>() {
            anyhow::ensure!(revision > 0, "{word}: revisions begin at 1");
            return Ok(Box::new(self.live()?.at(Some(revision))?));
        }
        let time: Option<Moment> = word.parse().ok();
        let at = {
            let place = self.place(word)?;
            match (word, time) {
                (LATEST, _) => place.find(word, |it| it.is_proven()),
                (_, Some(time)) => place.find(word, |it| it.is_proven() && it.name.time <= time),
                _ => {
                    let name = word.rsplit('/').next().unwrap_or_default();
                    place.find(word, |backup| backup.name.to_string() == name)
                }
            }?
        };
        Ok(Box::new(self.open(at)?))
    }

    /// The newest proven backups, oldest first.
    pub(super) fn newest(&mut self, count: usize) -> anyhow::Result<Vec<usize>> {
        let place = self.place("--from")?;
        let backups = place.catalog.backups.iter().enumerate();
        let proven: Vec<usize> =
            backups.filter(|(_, backup)| backup.is_proven()).map(|(at, _)| at).collect();
        Ok(proven[proven.len().saturating_sub(count)..].to_vec())
    }

    /// Fetches a backup of the place and opens it.
    pub(super) fn open(&mut self, at: usize) -> anyhow::Result<Archived> {
        self.unpacked += 1;
        let name = format!("unpacked-{}", self.unpacked);
        let env = self.machine.env.clone();
        let Place { destination, catalog, keys, scratch } = self.place("--from")?;
        let backup = catalog.backups.get(at).context("a backup of the place")?;
        let sidecar = sidecar(backup)?;
        let bar = Bar::new();
        let mut told = |stage, done, all| bar.tell(stage, done, all);
        let object = destination.get(&backup.name.key(backup.cluster))?;
        let (file, _) = prove::verify(object, sidecar, keys, scratch, &mut told)?;
        let what = (&file, &sidecar.state);
        let unpacked =
            Unpacked::open(&env, what, keys.config.as_ref(), (scratch, &name), &mut told)?;
        let title = format!("backup {} (revision {})", backup.name, backup.name.revision);
        Ok(Archived::new(title, unpacked, Arc::clone(scratch)))
    }

    fn place(&mut self, word: &str) -> anyhow::Result<&Place> {
        let place = match self.place.take() {
            Some(place) => place,
            None => self.read_place(word)?,
        };
        Ok(self.place.insert(place))
    }

    fn read_place(&self, word: &str) -> anyhow::Result<Place> {
        let url = self.arguments.from.as_ref().with_context(|| {
            format!(
                "{word} is not {NOW} and no revision, so it names a backup or a time: give their place with \
                 --from URL"
            )
        })?;
        let keys = self.arguments.keys.read()?;
        let destination = self.machine.open(url)?;
        let mut catalog = Catalog::read(&*destination, self.arguments.cluster)?;
        let clusters = catalog.clusters();
        if clusters.len() > 1 {
            let own = self.live.as_ref().map(Live::id).filter(|id| clusters.contains(id));
            let own = own.with_context(|| {
                let ids: Vec<String> = clusters.iter().map(|id| format!("{id:016x}")).collect();
                let ids = ids.join(", ");
                format!("{url} has backups of several clusters: name one of {ids} with --cluster")
            })?;
            catalog.backups.retain(|backup| backup.cluster == own);
        }
        let scratch = Arc::new(self.arguments.scratch.make(&self.machine.env)?);
        Ok(Place { destination, catalog, keys, scratch })
    }
}

impl Place {
    /// The newest backup that fits.
    fn find(&self, word: &str, fits: impl Fn(&Backup) -> bool) -> anyhow::Result<usize> {
        let found = self.catalog.backups.iter().rposition(fits);
        found.with_context(|| {
            format!(
                "{word}: the place has no such backup that is proven; see: keepd backup list URL"
            )
        })
    }
}
