//! Generates the protocol's types, clients and servers from `proto/`, without protoc.
//!
//! Bytes fields become `bytes::Bytes`, so that keys and values are shared and never copied. The
//! descriptors are kept beside the code, for whatever reads messages by field name. `TxnRequest` is
//! written by hand: see `src/txn_request.rs`.

use std::{env, error::Error, fs, path::PathBuf};

const FILES: [&str; 4] = [
    "etcd/api/etcdserverpb/rpc.proto",
    "etcd/v3lockpb/v3lock.proto",
    "etcd/v3electionpb/v3election.proto",
    "grpc/health/v1/health.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_source_info(true).include_imports(true).open_files(FILES)?;
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    fs::write(out_dir.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure()
        .bytes(".")
        .extern_path(".etcdserverpb.TxnRequest", "crate::txn_request::TxnRequest")
        .emit_rerun_if_changed(false)
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
