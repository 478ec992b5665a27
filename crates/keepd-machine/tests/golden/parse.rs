//! Reads operations and transactions as the scripts write them.

use bytes::Bytes;
use keepd_machine::command::{Compare, DeleteRange, Guard, Op, Put, Range, Relation, Target, Txn};
use keepd_types::{KeyRange, LeaseId, StoredValue};

/// `KEY VALUE`, then options.
pub(crate) fn put(text: &str) -> Put {
    let words: Vec<&str> = text.split_whitespace().collect();
    let value = if words.get(1).is_some_and(|word| !is_option(word)) { words[1] } else { "" };
    Put {
        key: key(words[0]),
        value: StoredValue::plain(Bytes::from(value.to_owned())),
        lease: LeaseId(number(&words, "lease=").unwrap_or_default()),
        prev_kv: words.contains(&"prev"),
        ignore_value: words.contains(&"ignore-value"),
        ignore_lease: words.contains(&"ignore-lease"),
    }
}

fn is_option(word: &str) -> bool {
    word.contains('=') || ["prev", "ignore-value", "ignore-lease"].contains(&word)
}

/// `KEYS`, then options.
pub(crate) fn delete(text: &str) -> DeleteRange {
    let words: Vec<&str> = text.split_whitespace().collect();
    DeleteRange { range: range(words[0]), prev_kv: words.contains(&"prev") }
}

/// `KEYS`, then options.
pub(crate) fn get(text: &str) -> Range {
    let words: Vec<&str> = text.split_whitespace().collect();
    Range {
        range: range(words[0]),
        revision: number(&words, "at=").unwrap_or_default(),
        fetch_limit: number(&words, "limit=").unwrap_or_default().cast_unsigned(),
    }
}

fn number(words: &[&str], name: &str) -> Option<i64> {
    words.iter().find_map(|word| word.strip_prefix(name)).map(|number| number.parse().unwrap())
}

/// `a`, `a..c`, or `a..` for everything from `a` on.
fn range(text: &str) -> KeyRange {
    match text.split_once("..") {
        None => KeyRange::point(key(text)),
        Some((start, "")) => KeyRange::from_request(key(start), Bytes::from_static(b"\0")),
        Some((start, end)) => KeyRange::from_request(key(start), key(end)),
    }
}

fn key(text: &str) -> Bytes {
    Bytes::from(text.to_owned())
}

/// `[if CONDITIONS] then OPERATIONS [else OPERATIONS]`.
pub(crate) fn txn(text: &str) -> Txn {
    let mut words = text.split_whitespace().peekable();
    let txn = read_txn(&mut words);
    assert_eq!(words.next(), None, "the transaction ends with its operations: {text}");
    txn
}

type Tokens<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn read_txn(words: &mut Tokens<'_>) -> Txn {
    let mut txn = Txn::default();
    if words.next_if_eq(&"if").is_some() {
        while let Some(word) = words.next_if(|word| *word != "then") {
            txn.compares.push(compare(word.trim_end_matches(',')));
        }
    }
    assert_eq!(words.next(), Some("then"), "a transaction has operations");
    txn.success = read_ops(words);
    if words.next_if_eq(&"else").is_some() {
        txn.failure = read_ops(words);
    }
    txn
}

fn read_ops(words: &mut Tokens<'_>) -> Vec<Op> {
    let mut ops = Vec::new();
    while let Some(word) = words.next_if(|word| !["else", ")", ");"].contains(word)) {
        if word == "(" {
            ops.push(Op::Txn(Box::new(read_txn(words))));
            assert_eq!(words.next().map(|end| end.trim_end_matches(';')), Some(")"));
            continue;
        }
        let mut rest = Vec::new();
        let mut is_last = word.ends_with(';');
        while !is_last {
            let Some(next) = words.next_if(|word| !["else", ")", ");"].contains(word)) else {
                break;
            };
            is_last = next.ends_with(';');
            rest.push(next.trim_end_matches(';'));
        }
        ops.push(op(word.trim_end_matches(';'), &rest.join(" ")));
    }
    ops
}

fn op(name: &str, rest: &str) -> Op {
    match name {
        "put" => Op::Put(put(rest)),
        "get" => Op::Range(get(rest)),
        "delete" => Op::DeleteRange(delete(rest)),
        other => panic!("no operation {other}"),
    }
}

fn compare(text: &str) -> Compare {
    let (name, rest) = text.split_once('(').unwrap();
    let (keys, rest) = rest.split_once(')').unwrap();
    let range = range(keys);
    if let Some(guard) = rest.strip_prefix('[') {
        let (keys, revision) = guard.trim_end_matches(']').split_once('@').unwrap();
        let guard = Guard { keys: keys.parse().unwrap(), revision: revision.parse().unwrap() };
        return Compare::Resolved { range, guard, result: name == "holds" };
    }
    let target = match name {
        "version" => Target::Version,
        "create" => Target::Create,
        "mod" => Target::Mod,
        "lease" => Target::Lease,
        "unknown" => Target::Unknown,
        other => panic!("no comparison of {other}"),
    };
    let operators = [
        ("!=", Relation::NotEqual),
        ("=", Relation::Equal),
        (">", Relation::Greater),
        ("<", Relation::Less),
        ("?", Relation::Any),
    ];
    let (relation, operand) = operators
        .iter()
        .find_map(|(sign, relation)| Some((*relation, rest.strip_prefix(sign)?)))
        .unwrap_or_else(|| panic!("no operator in {text}"));
    Compare::Number { range, target, relation, operand: operand.parse().unwrap() }
}
