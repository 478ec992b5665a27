//! A cluster of one process: the real machine on a simulated disk, its log, a shipper, and a folder.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use keepd_backup::{Export, LogPosition, Mark, Replayed, RestoreOptions, restore_with_log};
use keepd_crypto::{Encryption, EncryptionConfig, FileKeys, ValueSealer, quickstart_config};
use keepd_env::{Env, ManualClock, SeededRandom, SimDisk};
use keepd_machine::membership::{ConfState, Member};
use keepd_machine::{Command, Envelope, MembershipChange, Options, Origin, StateMachine, tables};
use keepd_member::Layout;
use keepd_mvcc::{Applied, JobRequest, Store, View};
use keepd_raft::{ConfChange, Step, Transition};
use keepd_types::{Entry, EntryKind, KeyRange, KeyValue, MemberId, Term};
use parking_lot::Mutex;

use crate::Error;
use crate::age::{Identity, Keys, Recipients};
use crate::catalog::Catalog;
use crate::destination::{self, Destination, Limit};
use crate::format::Sealing;
use crate::log::replay;
use crate::log::ship::{Page, Settings, Shipper, Source};
use crate::log::shipped::{Base, Shipped, Target};
use crate::name::Kind;
use crate::prove;
use crate::scratch::Scratch;
use crate::sidecar::{MemberFacts, Proven};
use crate::upload::{self, Snapshot};

pub(super) const CLUSTER: u64 = 0xaa;

/// The log of the cluster, as its members have it.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub(super) entries: Vec<Entry>,
    /// The entries up to here are gone.
    pub(super) released: u64,
    pub(super) state: Mark,
    pub(super) leader: u64,
    pub(super) kept_behind: u64,
}

/// A member's log.
#[derive(Clone, Debug)]
pub(super) struct MemberLog {
    pub(super) log: Arc<Mutex<Log>>,
    id: u64,
}

impl Source for MemberLog {
    fn leads(&self) -> bool {
        self.log.lock().leader == self.id
    }

    fn state(&self) -> Mark {
        self.log.lock().state
    }

    fn read(&mut self, first: u64, last: u64, bytes_max: usize) -> Result<Page, Error> {
        let log = self.log.lock();
        if first <= log.released {
            return Ok(Page::Gone);
        }
        let (mut found, mut bytes) = (Vec::new(), 0);
        for entry in log.entries.iter().filter(|it| (first..=last).contains(&it.index)) {
            bytes += entry.data.len();
            if bytes > bytes_max && !found.is_empty() {
                break;
            }
            found.push(entry.clone());
        }
        Ok(Page::Entries(found))
    }

    fn keep_behind(&mut self, index: u64) {
        self.log.lock().kept_behind = index;
    }
}

/// Everything that a client and an operator see of a state.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Seen {
    pub(super) revision: i64,
    compact_revision: i64,
    hash: u32,
    keys: Vec<KeyValue>,
    leases: Vec<(Bytes, Bytes)>,
    attachments: Vec<(Bytes, Bytes)>,
    alarms: Vec<Bytes>,
}

impl Seen {
    pub(super) fn of(view: &View, sealer: &ValueSealer) -> Self {
        let listed = view.range(&KeyRange::all(), 0, 0).unwrap();
        let record = |(key, revision): (Bytes, keepd_types::Revision)| {
            let record = view.load(revision).unwrap();
            let kv = KeyValue::decode(&record.encoded).unwrap();
            let stored = keepd_types::StoredValue { bytes: kv.value.clone(), seal: record.seal };
            KeyValue { value: sealer.open(&key, &stored).unwrap(), ..kv }
        };
        let table =
            |number| view.meta(number).iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        let hash = view.hash_kv(0).unwrap();
        Self {
            revision: view.revision(),
            compact_revision: hash.compact_revision.max(0),
            hash: hash.hash,
            keys: listed.keys.into_iter().map(record).collect(),
            leases: table(tables::LEASES),
            attachments: table(tables::ATTACHMENTS),
            alarms: view.meta(tables::ALARMS).keys().cloned().collect(),
        }
    }
}

pub(super) struct World {
    pub(super) env: Env,
    pub(super) disk: SimDisk,
    pub(super) clock: ManualClock,
    pub(super) machine: StateMachine,
    pub(super) log: Arc<Mutex<Log>>,
    pub(super) term: u64,
    pub(super) sealer: Arc<ValueSealer>,
    pub(super) config: Option<EncryptionConfig>,
    pub(super) destination: Arc<dyn Destination>,
    pub(super) scratch: Scratch,
    sealing: Sealing,
    pub(super) keys: Keys,
    boot: u64,
    proposals: u64,
    restores: u64,
    _runtime: tokio::runtime::Runtime,
}

impl World {
    /// A cluster of one member, whose values are sealed or not.
    pub(super) fn new(seed: u64, is_sealed: bool) -> Self {
        let (env, disk, clock) = Env::simulated(seed);
        for dir in ["/scratch", "/backups"] {
            env.disk.create_dir(Path::new(dir)).unwrap();
        }
        clock.advance(Duration::from_secs(1_000_000));
        let text = quickstart_config(&SeededRandom::new(seed));
        let config =
            is_sealed.then(|| EncryptionConfig::parse("enc.yaml", text.as_bytes()).unwrap());
        let sealer = Arc::new(config.as_ref().map_or_else(ValueSealer::none, ValueSealer::new));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let limit = Arc::new(Limit::new(Arc::clone(&env.clock), None));
        let url = "file:///backups";
        let destination = destination::open(url, &env, runtime.handle(), limit).unwrap();
        let scratch = Scratch::new(&env, Path::new("/scratch")).unwrap();
        let identity = Identity::generate(&SeededRandom::new(seed));
        let public = vec![identity.recipient()];
        let sealing = Sealing::To(Recipients { public, config: None });
        let keys = Keys { identities: vec![identity], ..Keys::default() };
        let machine = first_machine(&env);
        let mut world = Self {
            machine,
            log: Arc::new(Mutex::new(Log { leader: 1, released: 1, ..Log::default() })),
            term: 1,
            env,
            disk,
            clock,
            sealer,
            config,
            destination,
            scratch,
            sealing,
            keys,
            boot: seed,
            proposals: 0,
            restores: 0,
            _runtime: runtime,
        };
        world.publish();
        world
    }

    /// A shipper of a member.
    pub(super) fn shipper(&self, id: u64, bytes: usize) -> Shipper<MemberLog> {
        let settings = Settings {
            cluster: CLUSTER,
            member: MemberFacts { id: format!("{id:016x}"), name: format!("m{id}") },
            made_by: "test".to_owned(),
            interval: Duration::from_secs(5),
            bytes,
        };
        let source = MemberLog { log: Arc::clone(&self.log), id };
        let (destination, sealing) = (Arc::clone(&self.destination), self.sealing.clone());
        Shipper::new(&self.env, source, destination, sealing, settings)
    }

    pub(super) fn view(&self) -> Arc<View> {
        self.machine.store().views().load()
    }

    pub(super) fn seen(&self) -> Seen {
        Seen::of(&self.view(), &self.sealer)
    }

    pub(super) fn index(&self) -> u64 {
        self.machine.applied().index
    }

    /// Commits and applies an entry.
    pub(super) fn commit(&mut self, kind: EntryKind, data: Bytes) {
        let at = Applied { index: self.index() + 1, term: self.term };
        let entry = Entry { index: at.index, term: at.term, kind, data: data.clone() };
        if kind != EntryKind::Normal {
            self.change(at, &data);
        } else if data.is_empty() {
            self.machine.advance(at);
        } else {
            let _answered = self.machine.apply_entry(at, data).unwrap();
        }
        self.log.lock().entries.push(entry);
        self.publish();
    }

    pub(super) fn propose(&mut self, command: Command) {
        self.propose_in(command, None);
    }

    pub(super) fn propose_in(&mut self, command: Command, decided_in: Option<Term>) {
        let data = Envelope { origin: Some(self.origin()), decided_in, command }.encode();
        self.commit(EntryKind::Normal, data);
    }

    fn origin(&mut self) -> Origin {
        self.proposals += 1;
        Origin { member: MemberId(1), boot: self.boot, sequence: self.proposals }
    }

    pub(super) fn put(&mut self, key: &str, value: &str) {
        let put = self.put_of(key, value, 0);
        self.propose(Command::Put(put));
    }

    pub(super) fn put_of(&self, key: &str, value: &str, lease: i64) -> keepd_machine::command::Put {
        let value = Bytes::copy_from_slice(value.as_bytes());
        keepd_machine::command::Put {
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: self.sealer.seal(key.as_bytes(), value, &*self.env.random).unwrap(),
            lease: keepd_types::LeaseId(lease),
            ..Default::default()
        }
    }

    /// Proposes a change of the members, as a leader does.
    pub(super) fn change_members(&mut self, change: MembershipChange, step: Step) {
        let command = Command::ChangeMembership(change);
        let origin = Some(self.origin());
        let context = Envelope { origin, decided_in: None, command }.encode();
        let change = ConfChange { transition: Transition::Auto, steps: vec![step], context };
        self.commit(EntryKind::ConfChangeV2, change.encode());
    }

    fn change(&mut self, at: Applied, data: &Bytes) {
        let change = ConfChange::decode(data).unwrap();
        let table = self.machine.store().meta(tables::CONF_STATE);
        let mut state = ConfState::load(table).unwrap();
        let judgement = self.machine.judge_change(at, &change.context).unwrap();
        if judgement.is_accepted {
            let id = change.steps[0].member();
            if !matches!(change.steps[0], Step::Update(_)) {
                state.voters.retain(|it| *it != id);
                state.learners.retain(|it| *it != id);
            }
            match change.steps[0] {
                Step::AddVoter(_) | Step::Promote(_) => state.voters.push(id),
                Step::AddLearner(_) => state.learners.push(id),
                Step::Remove(_) | Step::Update(_) => {}
            }
        }
        self.machine.set_conf_state(&state);
    }

    fn publish(&mut self) {
        let view = self.machine.publish().view;
        self.log.lock().state =
            Mark { position: LogPosition::of(&view), revision: view.revision() };
    }

    /// Goes on as a cluster that was restored to what it is now.
    pub(super) fn begin_anew(&mut self) {
        let index = self.index();
        self.boot += 1;
        self.log.lock().released = index;
        let store = self.machine.store_mut();
        store.import_digest(keepd_mvcc::Digest::begin(index));
        store.publish(Applied { index, term: self.term });
        self.term += 1;
        self.publish();
    }

    /// Takes a base, and says that it is proven.
    pub(super) fn base(&self) {
        let view = self.view();
        let mut file = self.scratch.create(&format!("t{}", self.env.random.next_u64())).unwrap();
        for piece in Export::new(Arc::clone(&view), Arc::clone(&self.sealer)).unwrap() {
            file.write_all(&piece.unwrap()).unwrap();
        }
        let file = file.finish().unwrap();
        let status = prove::examine(&file, &mut |_, _, _| {}).unwrap();
        let hash = view.hash_kv(0).unwrap();
        let snapshot = Snapshot {
            cluster: CLUSTER,
            member: MemberFacts { id: "1".to_owned(), name: "one".to_owned() },
            time: prove::now(&self.env),
            kind: Kind::Scheduled,
            made_by: "test".to_owned(),
            state: prove::facts(&file, &status, hash.into()),
        };
        let (destination, random) = (&*self.destination, &*self.env.random);
        let (sealing, reader) = (&self.sealing, file.reader());
        let uploaded = upload::upload(destination, &snapshot, reader, sealing, random, &mut |_| {});
        let (sidecar, _) = uploaded.unwrap();
        let time = prove::now(&self.env);
        let proven = Proven { time, by: "t".to_owned(), millis: 1, with_operators_key: true };
        let name = snapshot.name(true);
        upload::note_proof(destination, CLUSTER, &name, &sidecar, proven).unwrap();
    }

    pub(super) fn shipped(&self) -> Shipped {
        Shipped::read(&*self.destination, CLUSTER).unwrap()
    }

    pub(super) fn bases(&self) -> Vec<Base> {
        let catalog = Catalog::read(&*self.destination, None).unwrap();
        assert_eq!(catalog.foreign_count, 0, "the log is not foreign");
        Base::among(&catalog.backups, CLUSTER)
    }

    /// Restores to a target: what is there then.
    pub(super) fn restore(&mut self, target: Target) -> Result<(Seen, Replayed), Error> {
        let catalog = Catalog::read(&*self.destination, None)?;
        let bases = Base::among(&catalog.backups, CLUSTER);
        let (destination, keys) = (&*self.destination, &self.keys);
        let mut open = |chain: &_, name: &_| replay::open(destination, CLUSTER, chain, name, keys);
        let plan = self.shipped().plan(target, &bases, &mut open)?;
        let base = &catalog.backups[plan.base];
        let scratch = Scratch::new(&self.env, Path::new("/scratch")).unwrap();
        let object = destination.get(&base.name.key(CLUSTER))?;
        let sidecar = base.sidecar.as_ref().unwrap();
        let file = prove::verify(object, sidecar, keys, &scratch, &mut |_, _, _| {})?.0;
        self.restores += 1;
        let dir = format!("/restored-{}", self.restores);
        let options =
            RestoreOptions { bump_revision: 0, mark_compacted: false, ..RestoreOptions::default() };
        let replay = plan.replay.expect("there is a log");
        let mut told = |_, _| {};
        let mut reader = replay::Reader::new(destination, CLUSTER, &replay, keys, &mut told);
        let (_, replayed) = restore_with_log(
            &self.env,
            Box::new(file),
            Path::new(&dir),
            &options,
            self.config.as_ref(),
            &mut reader,
            replay.end,
            &mut |_| {},
        )?;
        let member = Layout::new(Path::new(&dir)).member;
        let files = match &self.config {
            Some(config) => Encryption::open(&self.env, &member, Some(config.clone()))?.files(),
            None => FileKeys::plain(),
        };
        let store = Layout::store(&member);
        let store = Store::open(self.env.clone(), &store, files, keepd_mvcc::Options::default())?;
        let seen = Seen::of(&store.views().load(), &self.sealer);
        let machine = StateMachine::new(store, Options::default()).unwrap();
        let members = keepd_machine::membership::members(machine.store().meta(tables::MEMBERS));
        let names: Vec<String> = members.unwrap().into_iter().map(|it| it.name).collect();
        assert_eq!(names, ["default"], "the membership is the new cluster's");
        drop(machine);
        self.env.disk.remove_dir_all(Path::new(&dir)).unwrap();
        Ok((seen, replayed))
    }

    /// Keys of the batches in the folder.
    pub(super) fn batches(&self) -> Vec<String> {
        let found = self.destination.list_below("00000000000000aa/log", None).unwrap();
        found.into_iter().map(|entry| entry.key).collect()
    }

    pub(super) fn bytes_of(&self, key: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.destination.get(key).unwrap().read_to_end(&mut bytes).unwrap();
        bytes
    }
}

/// The machine of a cluster's first member.
fn first_machine(env: &Env) -> StateMachine {
    let (dir, options) = (Path::new("/source"), keepd_mvcc::Options::default());
    let mut store = Store::open(env.clone(), dir, FileKeys::plain(), options).unwrap();
    Member { id: 1, name: "one".to_owned(), ..Member::default() }.store(&mut store);
    ConfState::of_voters([MemberId(1)]).store(&mut store);
    keepd_machine::facts::begin_feature_level(&mut store, keepd_machine::levels::FIRST);
    store.publish(Applied { index: 1, term: 1 });
    store.run(JobRequest::Flush).unwrap();
    StateMachine::new(store, Options::default()).unwrap()
}
