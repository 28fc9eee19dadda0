//! The programs of a cluster: etcd and kubectl as Debian has them, and those of Kubernetes that
//! Debian does not give out built, from its source package of `kubernetes`. Nothing of it is
//! installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    files,
    setup::Apt,
    shell,
    term::{self, Colour},
};

/// Debian's packages of what is only unpacked, and the path of each program there.
const UNPACKED: [(&str, &str); 2] = [
    ("etcd-server", "usr/bin/etcd"),
    ("kubernetes-client", "usr/bin/kubectl"),
];

/// What is built.
const BUILT: [&str; 3] = ["kube-apiserver", "kube-proxy", "kube-controller-manager"];

/// What it is built from.
const SOURCE: &str = "kubernetes";

/// The version that this recipe, and the Go below, are for.
const VERSION: &str = "1.20";

/// The Go that Debian had beside it. A later one does not build this version.
const GO: [&str; 2] = ["golang-1.19-go", "golang-1.19-src"];
const GO_ROOT: &str = "usr/lib/go-1.19";

/// The names of what the tests start.
fn programs() -> impl Iterator<Item = &'static str> {
    let unpacked = UNPACKED
        .iter()
        .filter_map(|(_, path)| path.rsplit('/').next());
    unpacked.chain(BUILT)
}

/// The folder of the programs, which are built if they are not there.
pub(super) fn ready(cache: &Path) -> Result<PathBuf> {
    let ready = cache.join("bin");
    if programs().all(|name| ready.join(name).is_file()) {
        return Ok(ready);
    }
    // Whoever interrupts this finds no half a build next time.
    let unfinished = cache.join("unfinished");
    files::remove_folder(&unfinished)?;
    let bin = unfinished.join("bin");
    files::make_folder(&bin)?;
    let mut apt = Apt::default();
    term::say(
        Colour::Yellow,
        "setup",
        "downloading Debian's etcd, kubectl, Go and the source of kubernetes, about 130 MB",
    );
    for (package, path) in UNPACKED {
        let root = unfinished.join(package);
        unpack(&mut apt, package, &root)?;
        copy(&root.join(path), &bin)?;
    }
    let go = unfinished.join("go");
    for package in GO {
        unpack(&mut apt, package, &go)?;
    }
    let source = unpack_source(&mut apt, &unfinished)?;
    term::say(
        Colour::Yellow,
        "setup",
        format!(
            "building {}, once: about five minutes and 3 GB of disk",
            BUILT.join(", ")
        ),
    );
    for command in &mut build(&source, &go.join(GO_ROOT), &unfinished) {
        shell::run(command)?;
    }
    for name in BUILT {
        copy(&source.join("_output/bin").join(name), &bin)?;
    }
    files::remove_folder(&ready)?;
    fs::rename(&bin, &ready).with_context(|| format!("cannot rename {}", bin.display()))?;
    files::remove_folder(&unfinished)?;
    let names: Vec<&str> = programs().collect();
    let line = format!("{} are in {}", names.join(" "), ready.display());
    term::say(Colour::Green, "built", line);
    Ok(ready)
}

fn copy(program: &Path, folder: &Path) -> Result<()> {
    let name = program.file_name().context("a program has a name")?;
    fs::copy(program, folder.join(name))
        .with_context(|| format!("cannot copy {} to {}", program.display(), folder.display()))?;
    Ok(())
}

fn unpack(apt: &mut Apt, package: &str, root: &Path) -> Result<()> {
    apt.unpack(package, root).with_context(|| {
        format!("{package} is needed to run a cluster; Debian 12 has it, and other releases others")
    })
}

/// Unpacks the source, with Debian's patches, where a build without Go modules looks for it.
fn unpack_source(apt: &mut Apt, unfinished: &Path) -> Result<PathBuf> {
    let folder = unfinished.join("source.package");
    files::make_folder(&folder)?;
    let description = apt.download_source(SOURCE, &folder)?;
    let name = description
        .file_name()
        .unwrap_or_default()
        .to_string_lossy();
    if !is_wanted(&name) {
        bail!("Debian offers {name}, and this builds {VERSION} only, which Debian 12 has");
    }
    let source = unfinished.join("path/src/k8s.io/kubernetes");
    files::make_folder(&unfinished.join("path/src/k8s.io"))?;
    // Apt has compared the files with its signed lists.
    let mut unpack = Command::new("dpkg-source");
    unpack.args(["--no-check", "--extract"]);
    shell::run(unpack.arg(&description).arg(&source))?;
    Ok(source)
}

/// Whether a source package's description is of the version that is built: Debian's number may
/// say which one it really is.
fn is_wanted(description: &str) -> bool {
    let version = description.strip_prefix("kubernetes_").unwrap_or_default();
    let version = version.rsplit_once("really").map_or(version, |(_, it)| it);
    version.starts_with(&format!("{VERSION}."))
}

fn build(source: &Path, go: &Path, unfinished: &Path) -> [Command; 2] {
    let what = BUILT.map(|name| format!("cmd/{name}")).join(" ");
    let what = format!("WHAT={what}");
    let goals: [&[&str]; 2] = [
        // Generates code that the second would otherwise not find.
        &["generated_files"],
        &["all", &what],
    ];
    goals.map(|goals| {
        let mut make = Command::new("make");
        make.args(goals)
            .current_dir(source)
            .env("PATH", path_with(&go.join("bin")))
            .env("GOROOT", go)
            .env("GOPATH", unfinished.join("path"))
            .env("HOME", unfinished.join("home"))
            .env("GO111MODULE", "off")
            .env("CGO_ENABLED", "0")
            // Nothing of any cloud: their libraries are the largest.
            .env("GOFLAGS", "-tags=providerless")
            // What is not in the source package is not fetched from elsewhere.
            .env("GOPROXY", "off");
        make
    })
}

/// The PATH with a folder before the others.
fn path_with(first: &Path) -> std::ffi::OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).collect::<Vec<_>>();
    let folders = [first.to_owned()].into_iter().chain(folders);
    std::env::join_paths(folders).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_version_is_built() {
        assert!(is_wanted("kubernetes_1.20.5+really1.20.2-1.1+deb12u1.dsc"));
        assert!(is_wanted("kubernetes_1.20.5-1.dsc"));
        assert!(!is_wanted("kubernetes_1.32.3+ds-2.dsc"));
        assert!(!is_wanted("kubernetes_1.33.0+really1.32.3-1.dsc"));
        assert!(!is_wanted("kubernetes_1.200.1-1.dsc"));
    }

    #[test]
    fn what_is_there_is_not_built_again() {
        let folder = std::env::temp_dir().join(format!("xtask-programs-{}", std::process::id()));
        let bin = folder.join("bin");
        fs::create_dir_all(&bin).unwrap();
        for name in programs() {
            fs::write(bin.join(name), "").unwrap();
        }
        let found = ready(&folder);
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(found.unwrap(), bin);
    }
}
