//! etcdctl and etcdutl: their command line, and what every program of the binary does alike.
//!
//! The connection that etcdctl makes to a member is there for others too: [`Target`].
//!
//! Both speak to a cluster or to files through the crates that the server uses too, but know
//! neither server nor node: they would do their work beside etcd as well.

mod engine;
pub mod etcdctl;
pub mod etcdutl;
pub mod output;
pub mod shell;
pub mod start_line;
pub mod wiping;

pub use engine::log::timestamp;
pub use engine::table::draw as draw_table;
pub use etcdctl::{DialError, Dialing, Target, prefix_end};
