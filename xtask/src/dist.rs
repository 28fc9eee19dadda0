//! `cargo xtask dist`: what is given to others. A static binary with the list of what is in it and
//! the licences of that, manual pages, completions, packages and checksums, below `target/dist`.
//! One file for each part; this one puts them together.

mod arch;
mod build;
mod crates;
mod elf;
mod empty_root;
mod licences;
mod packages;
mod pages;
mod reproduce;
mod roff;
mod root;
mod sbom;
mod sums;
mod wrapper;

pub(crate) use arch::Arch;
pub(crate) use empty_root::enforce_in;
pub(crate) use packages::{Made, VERSION, files_of_deb, make as make_packages};
pub(crate) use root::{NAME as TREE, folder};
pub(crate) use sums::write as write_sums;
pub(crate) use wrapper::wrap_if_asked;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::{
    files,
    setup::{self, Needs},
    shell,
    term::{self, Colour},
};

/// Build what is given to others: static binary, list of contents, licences, packages
#[derive(clap::Args)]
#[command(after_help = "\
Everything is below target/dist: ARCH/sgctl with its list of contents (CycloneDX) and licences, the tree
that packages install, the packages, and SHA256SUMS. A binary is refused that is not static, that is
too large, that has a path of this machine in it, or that does not run in an empty root.

Examples:
  cargo xtask dist
  cargo xtask dist --target aarch64       # built here, and tried in an emulator
  cargo xtask dist --packages
  cargo xtask dist --check-reproducible   # builds again in another folder, and compares")]
pub(crate) struct Args {
    /// For this processor; may be repeated
    #[arg(long, value_enum, value_name = "ARCH", default_values_t = [Arch::X86_64])]
    target: Vec<Arch>,

    /// Make a .deb and a .rpm too
    #[arg(long)]
    packages: bool,

    /// Build a copy of the sources in another folder too, and fail unless the binaries are equal
    #[arg(long)]
    check_reproducible: bool,
}

pub(crate) fn command(args: &Args) -> Result<()> {
    let workspace = shell::workspace()?;
    for arch in &args.target {
        let binary = make(&workspace, *arch)?;
        if args.check_reproducible {
            reproduce::check(&workspace, *arch, &binary)?;
        }
        if args.packages {
            packages::make(&workspace, *arch, packages::VERSION, &folder(&workspace))?;
        }
    }
    let listed = sums::write(&folder(&workspace))?;
    term::say(
        Colour::Green,
        "written",
        format!("{listed} files are listed in target/dist/SHA256SUMS"),
    );
    Ok(())
}

/// Builds the static binary, or finds that it is up to date, and returns its path.
pub(crate) fn static_binary(arch: Arch) -> Result<PathBuf> {
    let workspace = shell::workspace()?;
    let binary = make(&workspace, arch)?;
    sums::write(&folder(&workspace))?;
    Ok(binary)
}

/// The binary with what belongs to it, and the tree that packages install, of the sources in
/// `workspace`, which may be those of another commit.
pub(crate) fn make(workspace: &Path, arch: Arch) -> Result<PathBuf> {
    setup::ensure(Needs::Dist)?;
    setup::ensure_target(arch.triple())?;
    if arch.is_foreign() {
        setup::ensure_emulator(arch.emulator())?;
    }
    let folder = folder(workspace).join(arch.name());
    files::make_folder(&folder)?;

    let built = build::build(workspace, &workspace.join("target/dist-build"), arch)?;
    let told = elf::check(&built.binary, arch, &wrapper::machine_paths(workspace)?)?;
    let binary = folder.join(root::BINARY);
    fs::copy(&built.binary, &binary)
        .with_context(|| format!("cannot write {}", binary.display()))?;

    let linked = crates::linked(workspace, arch, &built)?;
    licences::write(&linked, workspace, &folder.join("LICENCES.txt"))?;
    sbom::write(&linked, workspace, &binary, &folder.join("sgctl.cdx.json"))?;
    empty_root::run(&binary, arch)?;
    root::make(workspace, arch, &binary, &folder)?;
    term::say(
        Colour::Green,
        "built",
        format!(
            "{}: {told}, {} crates",
            binary.strip_prefix(workspace).unwrap_or(&binary).display(),
            linked.packages.len()
        ),
    );
    Ok(binary)
}
