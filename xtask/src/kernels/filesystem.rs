//! The guest's root: busybox, the tests, the programs that they call, the libraries of all of
//! them, and the kernel modules. Nothing of it is written to a disk of the guest.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::{archive::Archive, binaries::Binaries, modules::Module, protocol::Suite};
use crate::{setup, shell};

const INIT: &str = include_str!("init.sh");

/// Twice as many as the guest has processors: most tests wait for most of their time.
const THREADS: &str = "--test-threads=4";

/// Folders below `sg-userspace/tests` whose files tests read.
const READ_BY_TESTS: [&str; 2] = ["cases", "kernel/layouts"];

pub(super) fn write(
    file: &Path,
    modules: &[Module],
    binaries: &Binaries,
    suites: &[Suite],
) -> Result<()> {
    let mut archive = Archive::default();
    archive.file("/init", INIT.as_bytes())?;
    archive.file("/suites", script(suites).as_bytes())?;

    let mut libraries = BTreeSet::new();
    for (name, path) in programs()? {
        archive.file(&format!("/bin/{name}"), &content(&path)?)?;
        libraries.extend(libraries_of(&path)?);
    }
    let scratch = file.with_extension("stripped");
    for (path, inside) in [
        (&binaries.kernel, Path::new("/tests/kernel")),
        (&binaries.lab, Path::new("/tests/lab")),
        (&binaries.sgctl, &binaries.sgctl),
    ] {
        archive.file(&inside.to_string_lossy(), &stripped(path, &scratch)?)?;
        libraries.extend(libraries_of(path)?);
    }
    for library in &libraries {
        archive.file(&library.to_string_lossy(), &content(library)?)?;
    }

    // The tests look for them where they were built.
    let tests = shell::workspace()?.join("sg-userspace/tests");
    for folder in READ_BY_TESTS.map(|folder| tests.join(folder)) {
        let entries =
            fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
        for entry in entries {
            let path = entry?.path();
            archive.file(&path.to_string_lossy(), &content(&path)?)?;
        }
    }

    let order: Vec<&str> = modules.iter().map(|module| &*module.name).collect();
    archive.file("/modules/order", (order.join("\n") + "\n").as_bytes())?;
    for module in modules {
        archive.file(&format!("/modules/{}.ko", module.name), &module.bytes)?;
    }
    fs::write(file, archive.finish()?).with_context(|| format!("cannot write {}", file.display()))
}

/// A call of the function `suite` of the guest's first process for each suite.
fn script(suites: &[Suite]) -> String {
    let mut script = String::new();
    for suite in suites {
        script += &format!("suite {} /tests/{} {THREADS}", suite.name, suite.binary);
        script += " --show-output --exact";
        if suite.are_ignored {
            script += " --ignored";
        }
        for test in &suite.tests {
            script += &format!(" '{test}'");
        }
        script.push('\n');
    }
    script
}

/// Busybox, a shell that prefers real programs to busybox's own, and what the tests call.
fn programs() -> Result<Vec<(String, PathBuf)>> {
    ["busybox", "sh"]
        .into_iter()
        .chain(setup::test_programs())
        .map(|name| {
            let path = shell::which(name).with_context(|| format!("{name} is not on the PATH"))?;
            Ok((name.to_owned(), path))
        })
        .collect()
}

fn content(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Without the debug information, which is most of a test binary.
fn stripped(path: &Path, scratch: &Path) -> Result<Vec<u8>> {
    let strip = Command::new("strip")
        .arg("--strip-debug")
        .arg("-o")
        .args([scratch, path])
        .output();
    if !strip.is_ok_and(|output| output.status.success()) {
        return content(path);
    }
    let bytes = content(scratch);
    let _ = fs::remove_file(scratch);
    bytes
}

/// What the dynamic linker would load for a program.
fn libraries_of(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd")
        .arg(program)
        .env("LC_ALL", "C")
        .output()
        .context("cannot start ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("not a dynamic executable") {
        return Ok(Vec::new());
    }
    if !output.status.success() || text.contains("not found") {
        bail!("ldd {}: {text}{said}", program.display());
    }
    Ok(libraries(&text))
}

/// `name => path (address)` for a library, `path (address)` for the dynamic linker itself.
fn libraries(ldd: &str) -> Vec<PathBuf> {
    ldd.lines()
        .filter_map(|line| {
            line.split_whitespace()
                .find(|word| word.starts_with('/'))
                .map(PathBuf::from)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_ldd() {
        let ldd = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                   \tlibmnl.so.0 => /lib/x86_64-linux-gnu/libmnl.so.0 (0x00007f1)\n\
                   \t/lib64/ld-linux-x86-64.so.2 (0x00007f2)\n";
        assert_eq!(
            libraries(ldd),
            [
                "/lib/x86_64-linux-gnu/libmnl.so.0",
                "/lib64/ld-linux-x86-64.so.2"
            ]
            .map(PathBuf::from)
        );
        assert_eq!(
            libraries("\tstatically linked\n"),
            [""; 0].map(PathBuf::from)
        );
    }

    #[test]
    fn each_test_is_asked_for_by_name() {
        let suite = |name, are_ignored| Suite {
            name,
            binary: "kernel",
            tests: ["a::b", "c"].map(str::to_owned).into(),
            are_ignored,
        };
        assert_eq!(
            script(&[suite("one", false), suite("two", true)]),
            "suite one /tests/kernel --test-threads=4 --show-output --exact 'a::b' 'c'\n\
             suite two /tests/kernel --test-threads=4 --show-output --exact --ignored 'a::b' 'c'\n"
        );
    }
}
