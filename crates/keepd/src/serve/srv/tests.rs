//! Lookups at a name server of one socket.

use std::sync::Arc;

use domain::base::iana::Class;
use domain::base::message::Message;
use domain::base::{MessageBuilder, Ttl};
use domain::resolv::stub::conf::{ResolvConf, ServerConf, Transport};
use tokio::net::UdpSocket;

use super::*;
use crate::flags;

/// Records by their name: target and port.
type Zone = Vec<(&'static str, Vec<(&'static str, u16)>)>;

/// A name server that knows a zone, and a resolver that asks it.
async fn resolver(zone: Zone) -> StubResolver {
    let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let mut conf = ResolvConf::new();
    conf.servers.push(ServerConf::new(socket.local_addr().unwrap(), Transport::UdpTcp));
    tokio::spawn(async move {
        let mut buffer = [0; 1500];
        loop {
            let (len, from) = socket.recv_from(&mut buffer).await.unwrap();
            let query = Message::from_octets(buffer[..len].to_vec()).unwrap();
            socket.send_to(&answer(&zone, &query), from).await.unwrap();
        }
    });
    StubResolver::from_conf(conf)
}

fn answer(zone: &Zone, query: &Message<Vec<u8>>) -> Vec<u8> {
    let question = query.sole_question().unwrap();
    let name = question.qname().to_string();
    let records = zone.iter().find(|(of, _)| *of == name);
    let code = if records.is_some() { Rcode::NOERROR } else { Rcode::NXDOMAIN };
    let mut answer = MessageBuilder::new_vec().start_answer(query, code).unwrap();
    for (host, port) in records.map(|(_, records)| records).into_iter().flatten() {
        let target: Name<Vec<u8>> = host.parse().unwrap();
        let srv = Srv::new(0, 0, *port, target);
        answer.push((question.qname(), Class::IN, Ttl::from_secs(1), srv)).unwrap();
    }
    answer.finish()
}

fn options(args: &[&str]) -> ServerOptions {
    let mut all = vec!["--data-dir=/nowhere", "--discovery-srv=example.com"];
    all.extend(args);
    let all: Vec<String> = all.into_iter().map(str::to_owned).collect();
    flags::parse(&all, &[]).unwrap().options
}

fn pair(name: &str, url: &str) -> (String, String) {
    (name.to_owned(), url.to_owned())
}

#[tokio::test]
async fn the_record_with_the_own_address_is_the_local_member() {
    let zone = vec![
        ("_etcd-server-ssl._tcp.example.com", vec![("localhost", 1), ("localhost", 2)]),
        ("_etcd-server._tcp.example.com", vec![("127.0.0.1", 3)]),
        ("_etcd-server-x._tcp.example.com", vec![("localhost", 4)]),
    ];
    let resolver = resolver(zone).await;
    let own = "--initial-advertise-peer-urls=https://127.0.0.1:2";
    let found = members(&resolver, &options(&["--name=b", own])).await.unwrap();
    let expected = [
        pair("0", "https://localhost:1"),
        pair("b", "https://localhost:2"),
        pair("2", "http://127.0.0.1:3"),
    ];
    assert_eq!(found, expected);

    let other = ["--name=x", "--discovery-srv-name=x"];
    let own = "--initial-advertise-peer-urls=http://localhost:4";
    let found = members(&resolver, &options(&[other[0], other[1], own])).await.unwrap();
    assert_eq!(found, [pair("x", "http://localhost:4")]);
}

#[tokio::test]
async fn failures_are_told_in_etcds_words() {
    let zone = vec![("_etcd-server._tcp.example.com", vec![("localhost", 1)])];
    let resolver = resolver(zone).await;
    let elsewhere = "--initial-advertise-peer-urls=http://localhost:9";
    let error = members(&resolver, &options(&["--name=b", elsewhere])).await.unwrap_err();
    assert_eq!(
        error,
        "error setting up initial cluster: cannot find local etcd member \"b\" in SRV records"
    );
    let mismatch = "--initial-advertise-peer-urls=https://localhost:1";
    let error = members(&resolver, &options(&["--name=b", mismatch])).await.unwrap_err();
    assert_eq!(
        error,
        "error setting up initial cluster: error querying DNS SRV records for _etcd-server-ssl \
         lookup _etcd-server-ssl._tcp.example.com: no such host\nerror querying DNS SRV records \
         for _etcd-server bootstrap at http://localhost:1 from DNS for etcd-server has scheme \
         mismatch with expected peer https://localhost:1"
    );
}
