//! Lists that are longer than a window.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use keepd_api::etcdserverpb::{PutRequest, RangeRequest, RangeResponse};
use prost::Message as _;

use super::super::{put, range};
use super::CONFIG;
use crate::encoded_message::EncodedMessage;
use crate::testing;

const KEYS: usize = 400;

fn value(number: usize) -> Vec<u8> {
    // Of all lengths: where a length takes another byte, too, and more than a part.
    let len = match number {
        0 => 0,
        1 => 127,
        2 => 128,
        100 => 700 * 1024,
        _ => number * 7919 % 17_000,
    };
    vec![u8::try_from(number % 251).unwrap(); len]
}

/// A list is the same whether it is made at once or while it is sent, and as long as it says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_list_is_what_was_put_and_as_long_as_it_says() {
    let member = testing::member(Some(CONFIG)).await;
    let context = testing::context(&member);
    // Those below `s/` are sealed.
    for prefix in ["p/", "s/"] {
        for number in 0..KEYS {
            let (key, value) = (format!("{prefix}{number:04}").into(), value(number).into());
            let request = PutRequest { key, value, ..PutRequest::default() };
            put(&context, testing::call(&context, request)).await.unwrap();
        }
        let [key, range_end] = [prefix.to_owned(), prefix.replace('/', "0")].map(Bytes::from);
        for (limit, shown) in [(0, KEYS), (300, 300), (400, KEYS), (-1, KEYS)] {
            let (key, range_end) = (key.clone(), range_end.clone());
            let request = RangeRequest { key, range_end, limit, ..RangeRequest::default() };
            let list = range(&context, testing::call(&context, request)).await.unwrap();
            assert!(list.later.is_some(), "it is made while it is sent");
            let told = list.len();
            let whole: EncodedMessage = list.whole().await.unwrap();
            assert_eq!(whole.len(), told);
            let answer = RangeResponse::decode(&*whole.pieces.concat()).unwrap();
            assert_eq!((answer.kvs.len(), answer.more), (shown, shown < KEYS), "limit {limit}");
            assert_eq!(usize::try_from(answer.count).unwrap(), KEYS);
            for (number, kv) in answer.kvs.iter().enumerate() {
                assert_eq!(kv.key, format!("{prefix}{number:04}"));
                assert!(kv.value == value(number), "the value of {number}");
            }
        }
    }
    drop(context);
    member.stop().await;
}

/// A client that leaves ends the work on its list.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_that_nobody_reads_any_more_lets_go_of_its_view() {
    let member = testing::member(None).await;
    let context = testing::context(&member);
    for number in 0..KEYS {
        let (key, value) = (format!("p/{number:04}").into(), vec![7; 8192].into());
        let request = PutRequest { key, value, ..PutRequest::default() };
        put(&context, testing::call(&context, request)).await.unwrap();
    }
    let (key, range_end) = ("p/".into(), "p0".into());
    let request = RangeRequest { key, range_end, ..RangeRequest::default() };
    let list = range(&context, testing::call(&context, request)).await.unwrap();
    assert!(Arc::strong_count(&context) > 1, "its maker waits for room");
    drop(list);
    while Arc::strong_count(&context) > 1 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(context);
    member.stop().await;
}
