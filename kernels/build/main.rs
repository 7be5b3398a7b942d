//! Reads manifest.yaml and writes, into the build folder, the Rust launch table and the C++ header of every kernel.
//!
//! Both come from one place, so a kernel whose parameters drift compiles neither here nor on a device.

mod header;
mod manifest;
mod table;

use std::path::PathBuf;
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-changed=manifest.yaml");
    println!("cargo:rerun-if-changed=hip");
    println!("cargo:rerun-if-changed=build");
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets OUT_DIR"));
    let text = fs::read_to_string("manifest.yaml").expect("the manifest is beside build/");
    let entries = manifest::read(&text).unwrap_or_else(|e| panic!("manifest.yaml: {e}"));
    fs::write(out.join("table.rs"), table::write(&entries)).expect("the build folder is writable");
    fs::write(out.join("kernels.h"), header::write(&entries)).expect("the build folder is writable");
}
