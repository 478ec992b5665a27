//! Values as Go programs read and write them: booleans, numbers, durations, quoted strings, URLs.
//!
//! etcd's flags, etcdctl's arguments and their error texts come from Go's `strconv` and `time`,
//! and scripts parse what etcdctl prints with them. The functions here take and refuse the same
//! texts with the same words. `tests/golden` lists them; the test reads the tables as this crate,
//! and `TestGoTextTables` in `testing/interop` reads the same tables as Go.
//!
//! Not here: what belongs to one program alone, such as pflag's lists or go-humanize's sizes.

mod duration;
mod number;
mod quote;
mod url;

pub use duration::{DurationError, GoDuration};
pub use number::{NumberError, NumberErrorKind, parse_bool, parse_int, parse_uint};
pub use quote::{quote, unquote_prefix};
pub use url::{Url, parse_url};
