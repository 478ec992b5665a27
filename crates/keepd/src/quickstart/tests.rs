//! First run, second run, and what must never be papered over.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicU32, Ordering};

use keepd_crypto::EncryptionConfig;
use keepd_tls::{ClientTls, ClientTlsOptions, ServerTls};

use super::*;

struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("keepd-quickstart-{}-{count}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    fn place(&self) -> Place {
        Place { dir: self.0.clone(), members: 1, client_port: 2379, peer_port: 2380 }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _unused = fs::remove_dir_all(&self.0);
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn the_first_run_makes_everything_and_the_second_changes_nothing() {
    let (scratch, env) = (Scratch::new(), Env::real());
    let place = scratch.place();
    let first = prepare(&env, &place).unwrap();
    assert!(first.is_new && first.renewed.is_empty());
    assert_eq!(mode(&place.dir), 0o700);
    assert_eq!(mode(&place.encryption()), 0o600);
    assert_eq!(mode(&place.pki().join("ca.key")), 0o600);
    let config = fs::read(place.encryption()).unwrap();
    EncryptionConfig::parse("encryption.yaml", &config).unwrap();
    let ca = fs::read(place.pki().join("ca.crt")).unwrap();

    let second = prepare(&env, &place).unwrap();
    assert_eq!(second, Made { is_new: false, ..first });
    assert_eq!(fs::read(place.encryption()).unwrap(), config);
    assert_eq!(fs::read(place.pki().join("ca.crt")).unwrap(), ca);
}

#[test]
fn the_flags_are_those_of_a_server_whose_certificates_work() {
    let (scratch, env) = (Scratch::new(), Env::real());
    let place = scratch.place();
    prepare(&env, &place).unwrap();
    let options = flags::parse(&place.flags(1), &[]).unwrap().options;
    assert_eq!(options.encryption_provider_config, Some(place.encryption()));
    let backups = &options.backups;
    assert_eq!(backups.to, [place.backups_url()]);
    assert!(backups.schedule.is_some() && backups.sealing.has_config_key);
    assert!(!backups.keep.is_empty() && backups.scratch_dir.is_some());
    for tls in [options.client_tls().unwrap(), options.peer_tls().unwrap()] {
        let server = ServerTls::new(tls, &env).unwrap();
        assert!(server.verifies_clients());
        assert_eq!(server.warnings(), Vec::<String>::new());
    }
    for name in ["client", "apiserver"] {
        let options = ClientTlsOptions {
            trusted_ca_file: Some(place.pki().join("ca.crt")),
            cert_and_key_files: Some(Authority::paths(&place.pki(), name)),
            ..ClientTlsOptions::default()
        };
        ClientTls::new(options, &env).unwrap();
    }
}

#[test]
fn data_without_its_encryption_configuration_is_refused() {
    let (scratch, env) = (Scratch::new(), Env::real());
    let place = scratch.place();
    prepare(&env, &place).unwrap();
    fs::remove_file(place.encryption()).unwrap();
    fs::create_dir(place.data_of(1)).unwrap();
    fs::write(place.data_of(1).join("KEYRING"), "x").unwrap();
    let error = prepare(&env, &place).unwrap_err().to_string();
    assert!(error.contains("encryption.yaml is missing"), "{error}");
    assert!(!place.encryption().exists());
}

#[test]
fn an_interrupted_first_run_is_finished_by_the_next() {
    let (scratch, env) = (Scratch::new(), Env::real());
    let place = scratch.place();
    let unfinished = place.dir.join("pki.new");
    fs::create_dir_all(&unfinished).unwrap();
    fs::write(unfinished.join("ca.key"), "half").unwrap();
    assert!(prepare(&env, &place).unwrap().is_new);
    assert!(!unfinished.exists());
}

#[test]
fn a_directory_of_something_else_is_left_alone() {
    let (scratch, env) = (Scratch::new(), Env::real());
    let place = scratch.place();
    fs::create_dir_all(&place.dir).unwrap();
    fs::write(place.dir.join("notes.txt"), "mine").unwrap();
    let error = prepare(&env, &place).unwrap_err().to_string();
    assert!(error.contains("not made by keepd quickstart"), "{error}");
    assert_eq!(fs::read_dir(&place.dir).unwrap().count(), 1);
}

#[test]
fn a_certificate_near_its_end_is_renewed_by_the_same_ca() {
    let (scratch, env) = (Scratch::new(), Env::real());
    let place = scratch.place();
    prepare(&env, &place).unwrap();
    let authority = Authority::open(&env, &place.pki()).unwrap();
    authority.renew("server", &Subject { days: 5, ..Subject::server("old", &[]) }).unwrap();
    let made = prepare(&env, &place).unwrap();
    assert_eq!(made.renewed, ["server"]);
    let server = facts(&env, &place.pki().join("server.crt")).unwrap();
    assert_eq!(server.common_name.as_deref(), Some("keepd-1"));
    assert!(server.dns_names.contains(&"localhost".to_owned()));
}

#[test]
fn the_guide_names_every_file_and_the_program() {
    let place =
        Place { dir: PathBuf::from("/home/a b"), members: 1, client_port: 4001, peer_port: 4002 };
    let made = Made { is_new: true, renewed: vec!["peer"], valid_until: "2029-01-01".to_owned() };
    let text = guide::text(&place, &made, Path::new("/bin/keepd"), true);
    for part in [
        "made /home/a b",
        "until 2029-01-01",
        "Renewed, being near their end: peer.",
        "--etcd-servers=https://127.0.0.1:4001 \\",
        "--etcd-cafile='/home/a b/pki/ca.crt' \\",
        "/bin/keepd server \\",
        "'--data-dir=/home/a b/data'",
        "/bin/keepd encryption status --endpoint https://127.0.0.1:4001 \\\n    --cacert '/home/a b/pki/",
        "/bin/keepd backup list file:///home/a%20b/backups\n",
        "--backup-to=file:///home/a%20b/backups",
        "'--backup-schedule=*/30 * * * *'",
        "Ctrl-C",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn ports_follow_the_clients_and_must_differ() {
    let parse = |args: &[&str]| {
        let all = std::iter::once("quickstart").chain(args.iter().copied());
        place(&Arguments::try_parse_from(all).unwrap())
    };
    let usual = parse(&[]).unwrap();
    assert_eq!((usual.client_port, usual.peer_port), (2379, 2380));
    assert!(usual.dir.is_absolute() && usual.dir.ends_with("keepd-quickstart"));
    assert_eq!(parse(&["--client-port=4001"]).unwrap().peer_port, 4002);
    assert!(parse(&["--client-port=4001", "--peer-port=4001"]).is_err());
    assert!(parse(&["--client-port=65535"]).unwrap_err().to_string().contains("--peer-port"));
    assert!(parse(&["--client-port=0"]).is_err());
}

/// Directories as another user leaves them for whoever comes next. Needs root to give them away,
/// as the tests have it.
#[test]
fn what_others_own_or_may_write_is_refused() {
    let refusal = |make: &dyn Fn(&Place)| {
        let (scratch, env) = (Scratch::new(), Env::real());
        let place = scratch.place();
        make(&place);
        prepare(&env, &place).unwrap_err().to_string()
    };
    let chmod = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let made = |place: &Place| {
        prepare(&Env::real(), place).unwrap();
    };
    for (name, is_dir) in
        [("", true), ("pki", true), ("pki/ca.key", false), ("encryption.yaml", false)]
    {
        let path =
            |place: &Place| if name.is_empty() { place.dir.clone() } else { place.dir.join(name) };
        let writable = refusal(&|place| {
            made(place);
            chmod(&path(place), if is_dir { 0o770 } else { 0o620 });
        });
        assert!(writable.contains("others can write") && writable.contains("chmod"), "{writable}");
        let linked = refusal(&|place| {
            made(place);
            let real = path(place);
            let elsewhere = place.dir.with_extension("real");
            let _earlier = fs::remove_dir_all(&elsewhere).or_else(|_| fs::remove_file(&elsewhere));
            fs::rename(&real, &elsewhere).unwrap();
            std::os::unix::fs::symlink(&elsewhere, &real).unwrap();
        });
        assert!(linked.contains("symbolic link"), "{name}: {linked}");
        let given_away = Scratch::new();
        fs::create_dir(&given_away.0).unwrap();
        if std::os::unix::fs::chown(&given_away.0, Some(65_534), None).is_ok() {
            let foreign = refusal(&|place| {
                made(place);
                std::os::unix::fs::chown(path(place), Some(65_534), None).unwrap();
            });
            assert!(foreign.contains("another user (uid 65534"), "{name}: {foreign}");
        }
    }
    // Every user can exchange the folder itself.
    let parent = Scratch::new();
    fs::create_dir(&parent.0).unwrap();
    chmod(&parent.0, 0o777);
    let place =
        Place { dir: parent.0.join("keepd"), members: 1, client_port: 2379, peer_port: 2380 };
    let open = prepare(&Env::real(), &place).unwrap_err().to_string();
    assert!(open.contains("every user of this machine"), "{open}");
    assert!(!place.dir.exists());
    chmod(&parent.0, 0o1777);
    prepare(&Env::real(), &place).unwrap();
}

#[test]
fn a_cluster_has_ports_data_and_flags_for_each_member_and_stays_as_large_as_it_is() {
    let scratch = Scratch::new();
    let parse = |args: &[&str]| {
        let dir = format!("--dir={}", scratch.0.display());
        let all = ["quickstart", &dir].into_iter().chain(args.iter().copied());
        let parsed = Arguments::try_parse_from(all).map_err(|error| error.to_string())?;
        place(&parsed).map_err(|error| error.to_string())
    };
    let three = parse(&["--members=3"]).unwrap();
    assert_eq!(three.ports(3), (2399, 2400));
    let urls = "https://127.0.0.1:2379,https://127.0.0.1:2389,https://127.0.0.1:2399";
    assert_eq!(three.client_urls().join(","), urls);
    for member in 1..=3 {
        let options = flags::parse(&three.flags(member), &[]).unwrap().options;
        assert_eq!(options.name, format!("keepd-{member}"));
        assert_eq!(options.data_dir, scratch.0.join(format!("data-{member}")));
        assert_eq!(options.members().unwrap().members.len(), 3);
    }
    assert!(parse(&["--members=2"]).unwrap_err().contains("1, 3, 5 or 7"));
    assert!(parse(&["--members=3", "--peer-port=2399"]).unwrap_err().contains("two ports"));
    assert!(parse(&["--members=7", "--client-port=65480"]).unwrap_err().contains("lower"));
    let made = prepare(&Env::real(), &three).unwrap();
    let text = guide::text(&three, &made, Path::new("/bin/keepd"), true);
    for part in
        [&format!("--etcd-servers={urls} \\"), "--name=keepd-3", "endpoint status", "data-2"]
    {
        assert!(text.contains(part), "{part} in {text}");
    }

    assert_eq!(parse(&[]).unwrap().members, 3, "as it was made");
    assert!(parse(&["--members=1"]).unwrap_err().contains("holds a cluster of 3"));
}
