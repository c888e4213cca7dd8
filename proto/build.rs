//! Compiles `proto/tally/v1/*.proto` without protoc: protox parses, prost and
//! tonic generate. The descriptor set is kept for server reflection.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

const FILES: [&str; 4] = [
    "tally/v1/common.proto",
    "tally/v1/ledger.proto",
    "tally/v1/audit.proto",
    "tally/v1/metering.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?).join("tally.v1.bin");
    fs::write(out, descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
