//! Opening the files commands are given, with the errors etcd's tools have for them.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;

use keepd_bolt::{ReadAt, Reader};

use crate::engine::exit::{Exit, failed};
use crate::engine::plain_os_error;

/// A file that is read at offsets.
#[derive(Debug)]
pub(super) struct Readable(File);

impl ReadAt for Readable {
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(bytes, offset)
    }
}

/// Refuses a path where there is no file.
pub(super) fn check(path: &str) -> Result<(), Exit> {
    match fs::metadata(path) {
        Ok(_) => Ok(()),
        Err(error) => Err(failed(format_args!("stat {path}: {}", plain_os_error(&error)))),
    }
}

/// Opens a bbolt file for reading.
pub(super) fn open(path: &str) -> Result<Reader<Readable>, Exit> {
    check(path)?;
    let file = File::open(path)
        .map_err(|error| failed(format_args!("open {path}: {}", plain_os_error(&error))))?;
    Reader::open(Readable(file)).map_err(failed)
}
