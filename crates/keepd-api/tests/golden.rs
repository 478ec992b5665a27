//! Compares the error table and the protocol's surface with what clients rely on.
//!
//! The errors and methods were listed from the protocol's description and the fields compared
//! with etcd's own descriptors, so that a slip shows. `BLESS=1` rewrites them, for review.

use std::fmt::Write as _;

use keepd_api::{CodeOnWire, DESCRIPTORS, Error};
use prost::Message as _;
use prost_types::{FileDescriptorProto, FileDescriptorSet};
use testkit::golden;
use tonic::Code;

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
    golden::compare("tests/golden/errors.txt", &table);
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
    golden::compare("tests/golden/methods.txt", &table);
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
    golden::compare("tests/golden/fields.txt", &table);
}
