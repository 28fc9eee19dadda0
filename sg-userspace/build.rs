//! Builds the BPF object with the nightly toolchain and leaves it in `OUT_DIR` for embedding.

use aya_build::{Package, Toolchain, build_ebpf};

fn main() {
    println!("cargo:rerun-if-changed=../sg-common/src");
    // The inner build's progress would come out as warnings; real warnings still do.
    // SAFETY: a build script has one thread.
    unsafe { std::env::set_var("CARGO_TERM_QUIET", "true") };
    let package = Package {
        name: "sg-ebpf",
        root_dir: "../sg-ebpf",
        ..Default::default()
    };
    if let Err(error) = build_ebpf([package], Toolchain::default()) {
        panic!(
            "the BPF object did not build: {error:#}\n\
             `cargo xtask setup` installs what it needs, or says what to install by hand"
        );
    }
}
