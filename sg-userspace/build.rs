//! Builds the BPF object with the nightly toolchain and leaves it in `OUT_DIR` for embedding.

use aya_build::{Package, Toolchain, build_ebpf};

/// Names another toolchain than `nightly`; `cargo xtask setup` honours it too.
const TOOLCHAIN_VARIABLE: &str = "SG_BPF_TOOLCHAIN";

fn main() {
    println!("cargo:rerun-if-changed=../sg-common/src");
    println!("cargo:rerun-if-env-changed={TOOLCHAIN_VARIABLE}");
    let name = std::env::var(TOOLCHAIN_VARIABLE).unwrap_or_default();
    let toolchain = match name.as_str() {
        "" => Toolchain::Nightly,
        name => Toolchain::Custom(name),
    };
    // The progress of the inner build would be printed as warnings. Real warnings still are.
    // SAFETY: a build script has one thread.
    unsafe { std::env::set_var("CARGO_TERM_QUIET", "true") };
    let package = Package {
        name: "sg-ebpf",
        root_dir: "../sg-ebpf",
        ..Default::default()
    };
    if let Err(error) = build_ebpf([package], toolchain) {
        panic!(
            "the BPF object did not build: {error:#}\n\
             `cargo xtask setup` installs what it needs, or says what to install by hand"
        );
    }
}
