//! The flags of the discovery service.

use super::*;

const ALL: [&str; 13] = [
    "--name=n",
    "--initial-advertise-peer-urls=http://10.0.0.1:2380",
    "--discovery-token=t",
    "--discovery-endpoints=https://a:1, b:2",
    "--discovery-dial-timeout=1s",
    "--discovery-request-timeout=3s",
    "--discovery-keepalive-time=4s",
    "--discovery-keepalive-timeout=0s",
    "--discovery-insecure-transport=false",
    "--discovery-cert=c",
    "--discovery-key=k",
    "--discovery-cacert=ca",
    "--discovery-user=u:secret:word",
];

#[test]
fn a_member_that_is_to_be_discovered_knows_itself_and_the_service() {
    let parsed = options(&ALL);
    let own = ("n".to_owned(), "http://10.0.0.1:2380".to_owned());
    assert_eq!(parsed.initial_cluster, [own]);
    assert_eq!(parsed.initial_cluster_token, "t");
    let shown = format!("{parsed:?}");
    assert!(!shown.contains("secret:word"), "{shown}");
    let found = parsed.discovery.unwrap();
    assert_eq!(
        (found.endpoints.as_slice(), found.token.as_str()),
        (&["https://a:1".to_owned(), "b:2".to_owned()][..], "t")
    );
    assert_eq!(found.dial_timeout, Duration::from_secs(1));
    assert_eq!(found.request_timeout, Duration::from_secs(3));
    assert_eq!(found.keepalive_time, Duration::from_secs(4));
    assert_eq!(found.keepalive_timeout, Duration::from_secs(6), "0 is the default");
    assert_eq!(found.tls.cert_and_key_files, Some(("c".into(), "k".into())));
    assert_eq!(found.tls.trusted_ca_file, Some("ca".into()));
    assert!(!found.tls.is_insecure && !found.tls.skips_verification);
    let password = zeroize::Zeroizing::new("secret:word".to_owned());
    assert_eq!(found.identity, Some(DiscoveryIdentity::User("u".to_owned(), password)));

    let with_both = options(&[&ALL[..], &["--discovery-password=p"]].concat());
    let password = zeroize::Zeroizing::new("p".to_owned());
    let user = DiscoveryIdentity::User("u:secret:word".to_owned(), password);
    assert_eq!(with_both.discovery.unwrap().identity, Some(user));
    let plain = options(&ALL[..4]).discovery.unwrap();
    assert!(plain.tls.is_insecure && plain.identity.is_none());
}

#[test]
fn half_of_it_is_refused() {
    for half in ["--discovery-token=t", "--discovery-endpoints=a:1"] {
        let error = "both --discovery-token and --discovery-endpoints must be set";
        assert_eq!(refusal(&[half]), error);
    }
    let both = ["--discovery-token=t", "--discovery-endpoints=a:1"];
    let cluster = ["--initial-cluster=n=http://localhost:1"];
    assert!(refusal(&[&both[..], &cluster].concat()).starts_with("multiple discovery or"));
    assert_eq!(
        bootstrap(&[&both[..], &["--discovery-cert=c"]].concat()),
        "KeyFile and CertFile must both be present[key: , cert: c]"
    );
    let existing = ["--initial-cluster-state=existing"];
    assert_eq!(
        bootstrap(&[&both[..], &existing].concat()),
        "discovery URL should not be set when joining existing initial cluster"
    );
}

#[test]
fn a_configuration_file_has_it_in_groups() {
    let file = "name: n1\n\
                discovery-config:\n\
                \u{20} token: t\n\
                \u{20} client:\n\
                \u{20}   endpoints: [a:1, b:2]\n\
                \u{20}   request-timeout: 3000000000\n\
                \u{20}   secure: {cacert: ca, server-name: s, insecure-skip-tls-verify: true}\n\
                \u{20}   auth: {username: u, password: p}\n";
    let found = from_file(file).unwrap().options.discovery.unwrap();
    assert_eq!((found.endpoints.len(), found.token.as_str()), (2, "t"));
    assert_eq!(found.request_timeout, Duration::from_secs(3));
    assert_eq!(found.tls.server_name.as_deref(), Some("s"));
    assert!(found.tls.skips_verification && found.tls.is_insecure);
    let password = zeroize::Zeroizing::new("p".to_owned());
    assert_eq!(found.identity, Some(DiscoveryIdentity::User("u".to_owned(), password)));
    let promoted = "discovery-config: {token: t, endpoints: [a:1], auth: {token: x}}";
    let token = zeroize::Zeroizing::new("x".to_owned());
    let found = from_file(promoted).unwrap().options.discovery.unwrap();
    assert_eq!(found.identity, Some(DiscoveryIdentity::Token(token)));
}

#[test]
fn secrets_of_the_environment_stay_out_of_the_log() {
    let variables = [("ETCD_DISCOVERY_PASSWORD", "sesame"), ("ETCD_DISCOVERY_USER", "u:sesame")];
    let parsed = run_in(&["--name=n"], &variables).unwrap();
    let told = format!("{:?}", parsed.notices);
    assert!(told.contains("ETCD_DISCOVERY_PASSWORD") && !told.contains("sesame"), "{told}");
}
