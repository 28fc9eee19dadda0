//! The program that boots guests: the one that is installed, or else Debian's, which is unpacked
//! into the target folder. It is not installed, since on some machines other packages would have to
//! go for it.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    files,
    setup::Apt,
    shell,
    term::{self, Colour},
};

const PROGRAM: &str = "qemu-system-x86_64";
const PACKAGE: &str = "qemu-system-x86";

/// Where Debian's packages have libraries, parts of the program that it loads by itself, and the
/// firmware of a guest's devices.
const LIBRARIES: [&str; 2] = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];
const MODULES: &str = "usr/lib/x86_64-linux-gnu/qemu";
const FIRMWARE: [&str; 3] = ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"];

pub(super) struct Emulator {
    program: PathBuf,
    /// Below which it is unpacked. `None` if it is installed.
    root: Option<PathBuf>,
}

/// The emulator, downloaded if it is neither installed nor unpacked.
pub(super) fn ready(cache: &Path) -> Result<Emulator> {
    if let Some(program) = shell::which(PROGRAM) {
        return Ok(Emulator::installed(program));
    }
    let root = cache.join("emulator");
    let unpacked = Emulator::below(root.clone());
    if !unpacked.program.is_file() {
        download(&root).with_context(|| {
            format!(
                "no {PROGRAM}, which boots older kernels: install it; Debian has it in {PACKAGE}"
            )
        })?;
    }
    Ok(unpacked)
}

fn download(root: &Path) -> Result<()> {
    let line = format!("{PROGRAM} is not here: downloading {PACKAGE}, about 30 MB");
    term::say(Colour::Yellow, "setup", line);
    let mut apt = Apt::default();
    let packages = apt.needed_for(PACKAGE)?;
    files::make_whole(root, |unfinished| {
        packages
            .iter()
            .try_for_each(|package| apt.unpack(package, unfinished))
    })
}

impl Emulator {
    pub(super) fn installed(program: PathBuf) -> Emulator {
        Emulator {
            program,
            root: None,
        }
    }

    fn below(root: PathBuf) -> Emulator {
        Emulator {
            program: root.join("usr/bin").join(PROGRAM),
            root: Some(root),
        }
    }

    /// Starts it, once its arguments have been added.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        if let Some(root) = &self.root {
            let own = LIBRARIES.map(|folder| root.join(folder));
            let of_others = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
            let all = own.into_iter().chain(env::split_paths(&of_others));
            // Without a path that has the separator, which cannot be said there.
            command.env("LD_LIBRARY_PATH", env::join_paths(all).unwrap_or_default());
            command.env("QEMU_MODULE_DIR", root.join(MODULES));
            for folder in FIRMWARE {
                command.arg("-L").arg(root.join(folder));
            }
        }
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unpacked_finds_its_own_parts() {
        let command = Emulator::below("/cache/emulator".into()).command();
        assert_eq!(
            command.get_program(),
            "/cache/emulator/usr/bin/qemu-system-x86_64"
        );
        let words: Vec<_> = command.get_args().collect();
        assert!(words.contains(&"/cache/emulator/usr/share/seabios".as_ref()));
        let libraries = command
            .get_envs()
            .find(|(name, _)| *name == "LD_LIBRARY_PATH");
        let libraries = libraries.unwrap().1.unwrap().to_str().unwrap();
        assert!(libraries.starts_with("/cache/emulator/usr/lib/x86_64-linux-gnu:"));
    }

    #[test]
    fn what_is_installed_is_started_as_it_is() {
        let command = Emulator::installed(PROGRAM.into()).command();
        assert_eq!((command.get_args().len(), command.get_envs().len()), (0, 0));
    }
}
