//! The packages for Debian and for RPM, of the tree in `target/dist/root`. What goes where is in
//! the metadata of sg-userspace's Cargo.toml, the scripts that run on a node are below `deploy`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::{arch::Arch, root};
use crate::{dependencies, shell};

/// That of the workspace.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Where the metadata is.
const PACKAGE: &str = "sg-userspace";

/// The packages of one version.
pub(crate) struct Made {
    pub(crate) deb: PathBuf,
    pub(crate) rpm: PathBuf,
}

/// Makes both of the tree as it is, which has to be there, into `folder`.
pub(crate) fn make(workspace: &Path, arch: Arch, version: &str, folder: &Path) -> Result<Made> {
    dependencies::ensure_packagers()?;
    let made = Made {
        deb: folder.join(format!("sgctl_{version}-1_{}.deb", arch.debian())),
        rpm: folder.join(format!("sgctl-{version}-1.{}.rpm", arch.name())),
    };
    let epoch = time_of_commit(workspace, "%ct")?;
    let changelog = root::folder(workspace).join("changelog.Debian");
    fs::write(
        &changelog,
        changes(version, &time_of_commit(workspace, "%cD")?),
    )
    .with_context(|| format!("cannot write {}", changelog.display()))?;
    shell::run(&mut deb(workspace, arch, version, &epoch, &made.deb))?;
    shell::run(&mut rpm(workspace, arch, version, &epoch, &made.rpm))?;
    look_at(&made.deb)?;
    Ok(made)
}

/// The changes as Debian has them: of the package. Those of the program are in another file.
fn changes(version: &str, date: &str) -> String {
    format!(
        "sgctl ({version}-1) unstable; urgency=medium\n\n  * What has changed in sgctl is in \
         /usr/share/doc/sgctl/changelog.gz.\n\n -- The sgctl authors <sgctl@sgctl.invalid>  {date}\n"
    )
}

/// The time of the commit, which the files in a package bear.
fn time_of_commit(workspace: &Path, format: &str) -> Result<String> {
    let mut git = Command::new("git");
    git.args(["log", "-1", &format!("--format={format}")])
        .current_dir(workspace);
    Ok(shell::read(&mut git)?.trim().to_owned())
}

fn deb(workspace: &Path, arch: Arch, version: &str, epoch: &str, out: &Path) -> Command {
    let mut command = shell::cargo(workspace);
    command
        .args([
            "deb",
            "--quiet",
            "--package",
            PACKAGE,
            "--no-build",
            "--no-strip",
        ])
        .args(["--target", arch.triple()])
        .args(["--deb-version", &format!("{version}-1"), "--output"])
        .arg(out)
        .env("SOURCE_DATE_EPOCH", epoch);
    command
}

fn rpm(workspace: &Path, arch: Arch, version: &str, epoch: &str, out: &Path) -> Command {
    let mut command = shell::cargo(workspace);
    command
        .args(["generate-rpm", "--package", PACKAGE])
        .args(["--target", arch.triple(), "--payload-compress", "gzip"])
        .args(["--set-metadata", &format!("version = \"{version}\"")])
        .args(["--source-date", epoch, "--output"])
        .arg(out);
    command
}

/// What a package must not be: with files that others may write, that others own, or that need a
/// library.
fn look_at(deb: &Path) -> Result<()> {
    let mut contents = Command::new("dpkg-deb");
    contents.arg("--contents").arg(deb);
    let listed = shell::read(&mut contents)?;
    let wrong: Vec<&str> = listed.lines().filter(|line| !is_right(line)).collect();
    if !wrong.is_empty() {
        bail!("files of the package that are wrong:\n{}", wrong.join("\n"));
    }
    let mut field = Command::new("dpkg-deb");
    field.arg("--field").arg(deb).arg("Depends");
    let depends = shell::read(&mut field)?;
    if !depends.trim().is_empty() {
        bail!("the package depends on {depends}, and the binary is static");
    }
    Ok(())
}

/// A line such as `-rw-r--r-- root/root 1234 2026-01-02 03:04 ./etc/…`.
fn is_right(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let (mode, owner) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let path = words.nth(3).unwrap_or("");
    let expected: &[&str] = match path {
        path if path.ends_with('/') => &["drwxr-xr-x"],
        "./usr/bin/sgctl" => &["-rwxr-xr-x"],
        _ => &["-rw-r--r--"],
    };
    ["root/root", "0/0"].contains(&owner) && expected.contains(&mode)
}

/// The files in a Debian package, as they are below `/`, without folders.
pub(crate) fn files_of_deb(deb: &Path) -> Result<Vec<String>> {
    let mut contents = Command::new("dpkg-deb");
    contents.arg("--contents").arg(deb);
    let listed = shell::read(&mut contents)?;
    let mut files: Vec<String> = listed
        .lines()
        .filter_map(|line| line.split_whitespace().nth(5))
        .filter(|path| !path.ends_with('/'))
        .map(|path| path.trim_start_matches('.').to_owned())
        .collect();
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_others_may_write_are_wrong() {
        let line = |mode: &str, owner: &str, path: &str| {
            is_right(&format!("{mode} {owner}  12 2026-01-02 03:04 {path}"))
        };
        assert!(line("-rw-r--r--", "root/root", "./etc/sgctl/example.yaml"));
        assert!(line("-rwxr-xr-x", "root/root", "./usr/bin/sgctl"));
        assert!(line("drwxr-xr-x", "root/root", "./usr/bin/"));
        assert!(!line("-rw-rw-r--", "root/root", "./etc/sgctl/example.yaml"));
        assert!(!line("-rwsr-xr-x", "root/root", "./usr/bin/sgctl"));
        assert!(!line("-rw-r--r--", "me/me", "./etc/sgctl/example.yaml"));
        assert!(!line("drwxrwxrwx", "root/root", "./etc/sgctl/"));
    }

    /// Any POSIX shell of a node may run the scripts.
    #[test]
    fn scripts_are_read_by_a_plain_shell() {
        let workspace = shell::workspace().unwrap();
        for name in [
            "debian/postinst",
            "debian/prerm",
            "debian/postrm",
            "rpm/post.sh",
            "rpm/preun.sh",
            "rpm/postun.sh",
        ] {
            let mut sh = Command::new("sh");
            sh.arg("-n").arg(workspace.join("deploy").join(name));
            shell::read(&mut sh).unwrap();
        }
    }
}
