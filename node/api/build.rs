//! Compiles the .proto files without protoc. Feature `grpc` adds client and server stubs to the messages.

use std::error::Error;
use std::path::Path;
use std::{env, fs};

use prost::Message as _;

const PROTOS: [&str; 7] = [
    "mvccpb/kv.proto",
    "authpb/auth.proto",
    "etcdserverpb/rpc.proto",
    "v3lockpb/v3lock.proto",
    "v3electionpb/v3election.proto",
    "grpc/health/v1/health.proto",
    "quorate/peer/v1/peer.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(PROTOS, ["proto"])?;
    describe(&files)?;
    let mut config = prost_build::Config::new();
    // Values travel as shared buffers; maps keep their order so that equal messages encode equally.
    config.bytes(["."]).btree_map(["."]);
    if env::var_os("CARGO_FEATURE_GRPC").is_some() {
        tonic_prost_build::configure().compile_fds_with_config(files, config)?;
    } else {
        config.compile_fds(files)?;
    }
    Ok(())
}

/// Writes what clients may know of the API, for reflection and JSON: all packages but the peers'.
fn describe(files: &prost_types::FileDescriptorSet) -> Result<(), Box<dyn Error>> {
    let mut public = files.clone();
    public.file.retain(|file| !file.package().starts_with("quorate."));
    public.file.iter_mut().for_each(|file| file.source_code_info = None);
    let path = Path::new(&env::var("OUT_DIR")?).join("descriptors.bin");
    Ok(fs::write(path, public.encode_to_vec())?)
}
