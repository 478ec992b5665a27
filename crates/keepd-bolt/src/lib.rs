//! The bbolt file: a reader, a structural check and a streaming bulk writer.
//!
//! etcd keeps its data in such files and hands them out as snapshots; keepd only exchanges them.
//! This crate knows pages, trees and buckets (`docs/formats/bbolt.md`) and nothing of etcd.
//!
//! Reading treats every byte as hostile: each page number, count and offset is checked before use,
//! keys must ascend over the whole bucket (which also ends every cycle), and no node larger than
//! [`NODE_BYTES_MAX`] is loaded. Memory is one node per tree level, whatever the file's size.
//!
//! Writing takes the items twice: [`Planner`] sees their lengths and learns the size of the file,
//! [`Writer`] sees the bytes and emits pages in file order. There is no temporary file.
//!
//! Deliberately missing: changing a file in place, nested buckets in written files, files of
//! big-endian machines.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

mod bulk;
mod check;
mod entries;
mod error;
mod node;
mod page;
mod plan;
mod reader;
mod writer;

#[cfg(test)]
mod tests;

pub use check::{CheckReport, FINDINGS_KEPT_MAX, Finding};
pub use entries::{Buckets, Entries, Entry};
pub use error::{Error, PageFault};
pub use node::NODE_BYTES_MAX;
pub use page::{KEY_BYTES_MAX, PAGE_SIZE, VALUE_BYTES_MAX};
pub use plan::{Plan, Planner};
pub use reader::{Bucket, ReadAt, Reader};
pub use writer::Writer;
