//! `TxnRequest`, the one message that contains itself, by hand.
//!
//! Generated code stops at a hundred nested messages, which is fifty nested transactions, with an
//! error that no client of etcd knows; lifting that limit would lift it for hostile bytes in every
//! message. Here each transaction starts with a fresh allowance, and [`TXN_DEPTH_MAX`] bounds how
//! many lie in each other: what lies deeper is skipped unread, and the operation that held it is
//! left empty. Whoever runs a transaction refuses those that reach deeper, by counting.

use std::cell::Cell;

use prost::bytes::{Buf, BufMut};
use prost::encoding::{DecodeContext, WireType, message, skip_field};
use prost::{DecodeError, Message};

use crate::etcdserverpb::{Compare, RequestOp};

/// The depth to which transactions may be nested, the outermost included.
///
/// BOUND: a level takes about a kibibyte of stack. One more than etcd's default of operations,
/// because the innermost may be empty.
pub const TXN_DEPTH_MAX: usize = 129;

thread_local! {
    /// The nesting depth of the transaction that this thread decodes.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// Several operations in one revision: `etcdserverpb.TxnRequest`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TxnRequest {
    /// All must hold for `success` to run.
    pub compare: Vec<Compare>,
    /// Run if they do.
    pub success: Vec<RequestOp>,
    /// Run otherwise.
    pub failure: Vec<RequestOp>,
}

/// One level deeper until dropped.
struct Level(usize);

impl Level {
    fn enter() -> Self {
        let depth = DEPTH.get() + 1;
        DEPTH.set(depth);
        Self(depth)
    }
}

impl Drop for Level {
    fn drop(&mut self) {
        DEPTH.set(self.0 - 1);
    }
}

fn merge_op(
    ops: &mut Vec<RequestOp>,
    tag: u32,
    wire_type: WireType,
    buf: &mut impl Buf,
    ctx: DecodeContext,
) -> Result<(), DecodeError> {
    let level = Level::enter();
    if level.0 > TXN_DEPTH_MAX {
        ops.push(RequestOp::default());
        return skip_field(wire_type, tag, buf, ctx);
    }
    message::merge_repeated(wire_type, ops, buf, DecodeContext::default())
}

impl Message for TxnRequest {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        message::encode_repeated(1, &self.compare, buf);
        message::encode_repeated(2, &self.success, buf);
        message::encode_repeated(3, &self.failure, buf);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        match tag {
            1 => message::merge_repeated(wire_type, &mut self.compare, buf, ctx),
            2 => merge_op(&mut self.success, tag, wire_type, buf, ctx),
            3 => merge_op(&mut self.failure, tag, wire_type, buf, ctx),
            _ => skip_field(wire_type, tag, buf, ctx),
        }
    }

    fn encoded_len(&self) -> usize {
        message::encoded_len_repeated(1, &self.compare)
            + message::encoded_len_repeated(2, &self.success)
            + message::encoded_len_repeated(3, &self.failure)
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcdserverpb::request_op::Request;
    use crate::etcdserverpb::{PutRequest, compare};

    /// The bytes of `depth` transactions in each other, made from the inside.
    fn nested(depth: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for _ in 1..depth {
            // RequestOp{4: TxnRequest} as field 2.
            for field in [4_u32, 2] {
                let mut head = Vec::new();
                prost::encoding::encode_key(field, WireType::LengthDelimited, &mut head);
                prost::encoding::encode_varint(out.len() as u64, &mut head);
                out.splice(0..0, head);
            }
        }
        out
    }

    fn depth(mut txn: &TxnRequest) -> usize {
        let mut depth = 1;
        while let Some(RequestOp { request: Some(Request::RequestTxn(inner)) }) =
            txn.success.first()
        {
            (txn, depth) = (inner, depth + 1);
        }
        depth
    }

    #[test]
    fn all_fields_come_back() {
        let put = PutRequest { key: "k".into(), ..Default::default() };
        let op = |request| RequestOp { request: Some(request) };
        let compare = Compare {
            key: "k".into(),
            target_union: Some(compare::TargetUnion::Version(3)),
            ..Default::default()
        };
        let inner =
            TxnRequest { failure: vec![op(Request::RequestPut(put))], ..Default::default() };
        let txn = TxnRequest {
            compare: vec![compare.clone(), compare],
            success: vec![op(Request::RequestTxn(inner)), RequestOp::default()],
            failure: vec![RequestOp::default()],
        };
        let bytes = txn.encode_to_vec();
        assert_eq!(bytes.len(), txn.encoded_len());
        assert_eq!(TxnRequest::decode(bytes.as_slice()).unwrap(), txn);
        assert!(TxnRequest::decode(&bytes[..bytes.len() - 1]).is_err());
    }

    #[test]
    fn nesting_is_read_up_to_the_bound_and_seen_beyond_it() {
        for levels in [1, 2, 51, TXN_DEPTH_MAX] {
            let txn = TxnRequest::decode(nested(levels).as_slice()).unwrap();
            assert_eq!(depth(&txn), levels);
            assert_eq!(txn.encode_to_vec(), nested(levels));
        }
        for levels in [TXN_DEPTH_MAX + 1, 5000, 20_000] {
            let txn = TxnRequest::decode(nested(levels).as_slice()).unwrap();
            assert_eq!(depth(&txn), TXN_DEPTH_MAX + 1, "it shows that there was more");
        }
        assert_eq!(DEPTH.get(), 0);
    }

    #[test]
    fn damage_within_leaves_the_count_right() {
        let mut bytes = nested(TXN_DEPTH_MAX);
        bytes.pop();
        assert!(TxnRequest::decode(bytes.as_slice()).is_err());
        assert_eq!(DEPTH.get(), 0);
    }

    #[test]
    fn nested_groups_of_unknown_fields_end_soon() {
        let bytes = vec![0x7b; 1 << 20];
        assert!(TxnRequest::decode(bytes.as_slice()).is_err());
    }
}
