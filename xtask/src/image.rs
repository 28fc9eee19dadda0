//! `cargo xtask image`: an OCI image with nothing but the static binary, made without a container
//! engine.
//!
//! The result is a tar of an image layout, which containerd, podman and skopeo read. It depends on
//! nothing but the binary, the version and the time of the commit: two builds of one commit are
//! equal. `--check` unpacks it and runs a pod of `deploy/kubernetes` from it.

mod layout;

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::{
    dist, files,
    root::Way,
    setup::{self, Needs},
    shell,
    term::{self, Colour},
    test_binaries::{HOST_CRATES, run_as_root, way_to_root},
};
use layout::{File, Image};

/// The test that runs a pod, of `sg-userspace --test cli`.
const TEST: &str = "pod::a_pod_enforces_follows_its_config_map_and_leaves_enforcement";

/// Where that test finds the root of an image.
const ROOT: &str = "SG_IMAGE_ROOT";

/// All packages of the workspace have it.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Make an OCI image of the static binary, without a container engine
#[derive(clap::Args)]
pub(crate) struct Args {
    /// For this machine
    #[arg(long, value_enum, default_value_t = dist::Arch::X86_64)]
    target: dist::Arch,

    /// Unpack it and run a pod of deploy/kubernetes from it in namespaces; needs root
    #[arg(long)]
    check: bool,
}

pub(crate) fn command(args: &Args) -> Result<()> {
    // What is missing is told before the build, which would be for nothing.
    let way = match args.check {
        true => Some(way_to_run(args.target)?),
        false => None,
    };
    let workspace = shell::workspace()?;
    let binary = dist::static_binary(args.target)?;
    let image = image(&workspace, &binary, args.target)?;
    let suffix = match args.target {
        dist::Arch::X86_64 => "",
        dist::Arch::Aarch64 => "-arm64",
    };
    let path = dist::folder(&workspace).join(format!("sgctl-{VERSION}{suffix}.oci.tar"));
    let bytes = image.archive()?;
    files::write(&path, &bytes)?;
    dist::write_sums(&dist::folder(&workspace))?;
    term::say(
        Colour::Green,
        "image",
        format_args!(
            "{} ({} KiB), {}",
            path.display(),
            bytes.len() >> 10,
            image.name
        ),
    );
    match way {
        Some(way) => check(&workspace, &path, &way),
        None => Ok(()),
    }
}

/// How a pod from an image for this processor gets the rights of root.
fn way_to_run(arch: dist::Arch) -> Result<Way> {
    if arch.is_foreign() {
        bail!(
            "this machine cannot run a pod from an image for {}\n\
             leave out --check: the binary in it is tried in an emulator all the same",
            arch.name()
        );
    }
    way_to_root()
}

/// The image of a binary.
fn image(workspace: &Path, binary: &Path, arch: dist::Arch) -> Result<Image> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("reading {}", path.display()));
    let mut files = vec![File {
        path: "usr/bin/sgctl".to_owned(),
        mode: 0o755,
        content: read(binary)?,
    }];
    // What `dist` leaves beside the binary: what is in it, and its licences.
    for name in ["LICENCES.txt", "sgctl.cdx.json"] {
        files.push(File {
            path: format!("usr/share/doc/sgctl/{name}"),
            mode: 0o644,
            content: read(&binary.with_file_name(name))?,
        });
    }
    Ok(Image {
        name: format!("localhost/sgctl:{VERSION}"),
        version: VERSION.to_owned(),
        architecture: arch.debian(),
        // Where the ConfigMap, /proc and /sys are mounted: the root is read-only.
        folders: ["dev", "etc/sgctl", "proc", "sys", "tmp"]
            .map(str::to_owned)
            .to_vec(),
        files,
        time: commit_time(workspace),
    })
}

/// When the commit was made that is built, in seconds since 1970; 0 outside of git.
fn commit_time(workspace: &Path) -> u64 {
    let mut git = Command::new("git");
    git.current_dir(workspace)
        .args(["log", "-1", "--format=%ct"]);
    let time = shell::read(&mut git).ok();
    time.and_then(|time| time.trim().parse().ok()).unwrap_or(0)
}

/// Unpacks the image and runs a pod from it.
fn check(workspace: &Path, archive: &Path, way: &Way) -> Result<()> {
    setup::ensure(Needs::Tools)?;
    let unpacked = workspace.join("target/image");
    files::remove_folder(&unpacked)?;
    layout::unpack(archive, &unpacked)?;
    if Path::new("/usr/bin/skopeo").exists() {
        let image = format!("oci-archive:{}", archive.display());
        shell::run(Command::new("skopeo").args(["inspect", &image]))?;
    }
    let mut command = shell::cargo(workspace);
    command
        .arg("test")
        .args(HOST_CRATES)
        .args(["--test", "cli", "--", "--exact", TEST])
        .env(ROOT, &unpacked);
    run_as_root(&mut command, way)?;
    shell::run(&mut command)
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;
    use crate::test_binaries::source_of;

    #[test]
    fn an_image_for_another_processor_is_not_run() {
        for arch in dist::Arch::value_variants() {
            let refused = way_to_run(*arch).is_err_and(|error| {
                let said = error.to_string();
                said.contains(arch.name()) && said.contains("leave out --check")
            });
            assert_eq!(refused, arch.is_foreign(), "{}", arch.name());
        }
    }

    #[test]
    fn the_pod_is_a_test_that_there_is() {
        source_of("cli", TEST);
        // What its container runs is chosen there.
        let reader = "sg-userspace/tests/cli/container.rs";
        let text = fs::read_to_string(shell::workspace().unwrap().join(reader)).unwrap();
        assert!(text.contains(ROOT), "{reader} does not read {ROOT}");
    }
}
