//! What a binary must be to be given to others, read from the file itself: for its processor,
//! without an interpreter or a shared library, without symbols, small, and without a path of the
//! machine that built it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use object::{
    Endianness, Object as _, elf,
    read::elf::{Dyn as _, FileHeader, ProgramHeader as _},
};

use super::arch::Arch;

/// The most bytes that the binary may have.
const MOST: usize = 8_000_000;

type Header = elf::FileHeader64<Endianness>;

/// Fails with all that is wrong. Returns what it is, in a few words.
pub(super) fn check(
    binary: &Path,
    arch: Arch,
    machine: &[(PathBuf, &'static str)],
) -> Result<String> {
    let data = fs::read(binary).with_context(|| format!("cannot read {}", binary.display()))?;
    let mut wrong =
        faults(&data, arch).with_context(|| format!("{} is no ELF file", binary.display()))?;
    for (path, _) in machine {
        let path = path.as_os_str().as_encoded_bytes();
        if data.windows(path.len()).any(|at| at == path) {
            let path = String::from_utf8_lossy(path);
            wrong.push(format!("it has the path {path} of this machine in it"));
        }
    }
    if !wrong.is_empty() {
        bail!(
            "{} cannot be given to others: {}",
            binary.display(),
            wrong.join("; ")
        );
    }
    Ok(format!("static, {:.1} MB", data.len() as f64 / 1e6))
}

fn faults(data: &[u8], arch: Arch) -> Result<Vec<String>> {
    let header = Header::parse(data)?;
    let endian = header.endian()?;
    let mut wrong = Vec::new();
    let machine = match arch {
        Arch::X86_64 => elf::EM_X86_64,
        Arch::Aarch64 => elf::EM_AARCH64,
    };
    if header.e_machine(endian) != machine {
        wrong.push(format!("it is not for {}", arch.name()));
    }
    for segment in header.program_headers(endian, data)? {
        if segment.p_type(endian) == elf::PT_INTERP {
            wrong.push("it needs an interpreter, so it is not static".to_owned());
        }
        let entries = segment.dynamic(endian, data)?.unwrap_or_default();
        if entries
            .iter()
            .any(|entry| entry.tag(endian) == elf::DT_NEEDED)
        {
            wrong.push("it needs a shared library, so it is not static".to_owned());
        }
    }
    let file = object::File::parse(data)?;
    if file.symbols().next().is_some() {
        wrong.push("it has symbols".to_owned());
    }
    if data.len() > MOST {
        wrong.push(format!("it has {} bytes, more than {MOST}", data.len()));
    }
    Ok(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// This test itself is linked with shared libraries and has symbols.
    #[test]
    fn what_is_not_static_is_refused() {
        let this = fs::read(std::env::current_exe().unwrap()).unwrap();
        let wrong = faults(&this, Arch::Aarch64).unwrap().join("; ");
        for expected in [
            "interpreter",
            "shared library",
            "symbols",
            "not for aarch64",
        ] {
            assert!(wrong.contains(expected), "{expected}: {wrong}");
        }
        assert!(faults(b"#!/bin/sh\n", Arch::X86_64).is_err());
    }

    #[test]
    fn a_path_of_the_machine_is_found() {
        let this = std::env::current_exe().unwrap();
        let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let error = check(&this, Arch::X86_64, &[(manifest.clone(), "/x")]).unwrap_err();
        let expected = format!("the path {} of this machine", manifest.display());
        assert!(error.to_string().contains(&expected), "{error}");
    }
}
