//! Compares the error table and the protocol's surface with what clients rely on.
//!
//! The errors and methods were listed from the protocol's description and the fields compared
//! with etcd's own descriptors, so that a slip shows. `BLESS=1` rewrites them, for review.

use std::{env, fmt::Write as _, fs, path::Path};

use keepd_api::{CodeOnWire, DESCRIPTORS, Error};
use prost::Message as _;
use prost_types::{FileDescriptorProto, FileDescriptorSet};
use tonic::Code;

fn check(name: &str, actual: &str) {
    let path = Path::new("tests/golden").join(name);
    if env::var_os("BLESS").is_some() {
        fs::write(&path, actual).expect("the golden file is writable");
    }
    let expected = fs::read_to_string(&path).expect("the golden file is there");
    for (line, (expected, actual)) in expected.lines().zip(actual.lines()).enumerate() {
        assert_eq!(expected, actual, "{name}:{}", line + 1);
    }
    assert_eq!(expected.lines().count(), actual.lines().count(), "{name}");
}

/// gRPC spells this one code with one l.
fn code_name(code: Code) -> String {
    if code == Code::Cancelled { "Canceled".to_owned() } else { format!("{code:?}") }
}

#[test]
fn the_error_table_is_the_one_clients_match_on() {
    let mut table = String::new();
    for error in Error::ALL {
        writeln!(
            table,
            "{error:?}\t{}\t{}\t{}",
            code_name(error.code(CodeOnWire::Observed)),
            code_name(error.code(CodeOnWire::Declared)),
            error.text(),
        )
        .expect("a string takes everything");
    }
    check("errors.txt", &table);
}

#[test]
fn every_error_is_found_again_by_its_text() {
    for error in Error::ALL {
        assert_eq!(Error::from_text(error.text()), Some(*error));
        assert_eq!(error.to_string(), error.text());
        assert_eq!(error.status().message(), error.text());
    }
    assert_eq!(Error::from_text("etcdserver: no such error"), None);
}

fn files() -> Vec<FileDescriptorProto> {
    FileDescriptorSet::decode(DESCRIPTORS).expect("the build script wrote it").file
}

#[test]
fn the_method_paths_are_etcds() {
    let mut table = String::new();
    for file in files() {
        for service in &file.service {
            for method in &service.method {
                let kind = match (method.client_streaming(), method.server_streaming()) {
                    (false, false) => "unary",
                    (false, true) => "server stream",
                    (true, false) => "client stream",
                    (true, true) => "bidi",
                };
                let (package, service) = (file.package(), service.name());
                writeln!(table, "/{package}.{service}/{}\t{kind}", method.name())
                    .expect("a string takes everything");
            }
        }
    }
    check("methods.txt", &table);
}

#[test]
fn field_names_and_numbers_are_etcds() {
    let mut table = String::new();
    for file in files() {
        for message in &file.message_type {
            for field in &message.field {
                writeln!(
                    table,
                    "{}.{}\t{}\t{}\t{}",
                    file.package(),
                    message.name(),
                    field.number(),
                    field.name(),
                    field.r#type().as_str_name(),
                )
                .expect("a string takes everything");
            }
        }
    }
    check("fields.txt", &table);
}
