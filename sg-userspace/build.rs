//! Builds the BPF object with the nightly toolchain and leaves it in `OUT_DIR` for embedding.

use std::process::Command;

use aya_build::{Package, Toolchain, build_ebpf};

/// Set where the binary is to be small: the object loses what debuggers of compilers read. The
/// lines that `bpftool prog dump` shows are elsewhere (BTF), and stay.
const STRIP_VARIABLE: &str = "SG_STRIP_OBJECT";

/// For LLVM's linker, which links then: one copy of functions that are the same, and the addresses
/// that are relocated at the start as a bitmap.
const SMALL: [&str; 3] = ["--icf=all", "-z", "pack-relative-relocs"];

/// Names another toolchain than `nightly`; `cargo xtask setup` honours it too.
const TOOLCHAIN_VARIABLE: &str = "SG_BPF_TOOLCHAIN";

fn main() {
    println!("cargo:rerun-if-changed=../sg-common/src");
    println!("cargo:rerun-if-env-changed={TOOLCHAIN_VARIABLE}");
    println!("cargo:rerun-if-env-changed={STRIP_VARIABLE}");
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
    if std::env::var_os(STRIP_VARIABLE).is_some() {
        let toolchain = if name.is_empty() { "nightly" } else { &name };
        for argument in SMALL {
            println!("cargo:rustc-link-arg-bins={argument}");
        }
        if let Err(error) = strip(toolchain) {
            panic!("the BPF object cannot be made small: {error}");
        }
    }
}

/// Takes the debug sections away, with the program that comes with the compiler.
fn strip(toolchain: &str) -> Result<(), String> {
    let variable = |name: &str| std::env::var(name).map_err(|error| format!("{name}: {error}"));
    let (out, host) = (variable("OUT_DIR")?, variable("HOST")?);
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new("rustup")
            .args(["run", toolchain, program])
            .args(arguments)
            .output()
            .map_err(|error| format!("cannot start rustup: {error}"))?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    };
    let sysroot = run("rustc", &["--print", "sysroot"])?;
    let objcopy = format!("{sysroot}/lib/rustlib/{host}/bin/rust-objcopy");
    run(&objcopy, &["--strip-debug", &format!("{out}/sg-ebpf")])?;
    Ok(())
}
