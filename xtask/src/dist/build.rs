//! Builds the static binary. What comes out depends on the sources, Cargo.lock and the compilers
//! alone.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use cargo_metadata::{Artifact, Message, PackageId};

use super::{arch::Arch, wrapper};
use crate::{
    shell,
    term::{self, Colour},
};

/// In Cargo.toml: small, without symbols.
const PROFILE: &str = "dist";

/// Has the build script of sgctl take out of the BPF object what nobody reads.
const STRIP: &str = "SG_STRIP_OBJECT";

/// What the caller may have set for builds of their own.
const LEFT_OUT: [&str; 6] = [
    "RUSTFLAGS",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_TARGET_DIR",
    "CARGO_INCREMENTAL",
];

pub(super) struct Built {
    pub(super) binary: PathBuf,
    /// The crates that were compiled for the target, and not for the build itself.
    pub(super) linked: BTreeSet<PackageId>,
}

/// Builds the workspace in `source`, with everything below `target`.
pub(super) fn build(source: &Path, target: &Path, arch: Arch) -> Result<Built> {
    let mut command = cargo(source, target, arch);
    wrapper::set(&mut command, source, target)?;
    term::say(
        Colour::Cyan,
        "build",
        format!("{} in {}", arch.triple(), source.display()),
    );
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    if !output.status.success() {
        bail!(
            "sgctl does not build for {} ({}), see above",
            arch.triple(),
            output.status
        );
    }
    read(&output.stdout, &target.join(arch.triple()))
}

fn cargo(source: &Path, target: &Path, arch: Arch) -> Command {
    let mut command = shell::cargo(source);
    command
        .args(["build", "--locked", "--package", "sg-userspace"])
        .args(["--bin", "sgctl", "--profile", PROFILE])
        .args(["--target", arch.triple(), "--target-dir"])
        .arg(target)
        .arg("--message-format=json-render-diagnostics");
    for name in LEFT_OUT {
        command.env_remove(name);
    }
    command.env(STRIP, "1");
    // The linker that comes with the compiler: no other machine has to have one for this target,
    // and its version is the compiler's.
    let variable = arch.triple().to_uppercase().replace('-', "_");
    command.env(format!("CARGO_TARGET_{variable}_LINKER"), "rust-lld");
    command
}

/// What cargo tells about what it has built: the executable, and the crates below the folder of the
/// target, which are what is linked.
fn read(messages: &[u8], folder: &Path) -> Result<Built> {
    let mut built = Built {
        binary: PathBuf::new(),
        linked: BTreeSet::new(),
    };
    for message in Message::parse_stream(messages) {
        let Message::CompilerArtifact(Artifact {
            package_id,
            filenames,
            executable,
            ..
        }) = message.context("cannot read what cargo tells")?
        else {
            continue;
        };
        if filenames.iter().any(|file| file.starts_with(folder)) {
            built.linked.insert(package_id);
        }
        if let Some(path) = executable.filter(|path| path.file_name() == Some("sgctl")) {
            built.binary = path.into();
        }
    }
    if built.binary.as_os_str().is_empty() {
        bail!("cargo did not tell where it put sgctl");
    }
    Ok(built)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_build_depends_on_no_flags_of_the_caller() {
        let command = cargo(Path::new("/s"), Path::new("/t"), Arch::Aarch64);
        let shown = shell::describe(&command);
        assert_eq!(
            shown,
            "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER=rust-lld SG_STRIP_OBJECT=1 cargo build --locked \
             --package sg-userspace --bin sgctl --profile dist \
             --target aarch64-unknown-linux-musl --target-dir /t \
             --message-format=json-render-diagnostics"
        );
        let removed = command.get_envs().filter(|(_, value)| value.is_none());
        assert_eq!(removed.count(), LEFT_OUT.len());
    }

    /// A crate that the build itself runs lies in another folder, and is not in the binary.
    #[test]
    fn what_is_linked_is_what_was_built_for_the_target() {
        let artifact = |id: &str, file: &str, executable: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","package_id":"{id}","manifest_path":"/p/Cargo.toml",
                "target":{{"kind":["lib"],"crate_types":["lib"],"name":"n","src_path":"/p/m.rs"}},
                "profile":{{"opt_level":"3","debuginfo":0,"debug_assertions":false,
                "overflow_checks":false,"test":false}},"features":[],
                "filenames":["{file}"],"executable":{executable},"fresh":true}}"#
            )
            .replace('\n', " ")
        };
        let messages = [
            artifact("syn", "/t/dist/deps/libsyn.rlib", "null"),
            artifact("aya", "/t/x/dist/deps/libaya.rlib", "null"),
            artifact("sg-userspace", "/t/x/dist/sgctl", r#""/t/x/dist/sgctl""#),
        ]
        .join("\n");
        let built = read(messages.as_bytes(), Path::new("/t/x")).unwrap();
        assert_eq!(built.binary, Path::new("/t/x/dist/sgctl"));
        let linked: Vec<_> = built.linked.iter().map(|id| id.repr.as_str()).collect();
        assert_eq!(linked, ["aya", "sg-userspace"]);
        assert!(read(b"", Path::new("/t/x")).is_err());
    }
}
