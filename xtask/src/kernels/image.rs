//! A Debian kernel, downloaded and unpacked into the target folder, never installed.
//! One that is there is used again.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    files,
    setup::Apt,
    term::{self, Colour},
};

pub(super) struct Image {
    /// As it was asked for, `6.1`.
    pub(super) version: String,
    /// As the kernel calls itself.
    pub(super) release: String,
    pub(super) vmlinuz: PathBuf,
    /// The folder of its modules.
    pub(super) modules: PathBuf,
}

/// The unpacked kernel of this version, downloaded if it is not there.
pub(super) fn ready(version: &str, cache: &Path) -> Result<Image> {
    let folder = cache.join(version);
    if let Some(image) = find(version, &folder) {
        return Ok(image);
    }
    download(version, &folder).with_context(|| {
        format!(
            "no kernel {version}: unpack one by hand with `dpkg -x PACKAGE.deb {}`, where PACKAGE \
             is Debian's linux-image-{version}…-cloud-amd64-unsigned",
            folder.display()
        )
    })?;
    find(version, &folder)
        .with_context(|| format!("there is no kernel with modules in {}", folder.display()))
}

fn find(version: &str, folder: &Path) -> Option<Image> {
    let files = fs::read_dir(folder.join("boot")).ok()?;
    let mut releases: Vec<String> = files
        .filter_map(|file| {
            let name = file.ok()?.file_name().into_string().ok()?;
            Some(name.strip_prefix("vmlinuz-")?.to_owned())
        })
        .collect();
    releases.sort_by_key(|release| numbers(release));
    let release = releases.pop()?;
    // Debian has moved them under /usr.
    let modules = ["lib/modules", "usr/lib/modules"]
        .map(|parent| folder.join(parent).join(&release))
        .into_iter()
        .find(|modules| modules.is_dir())?;
    Some(Image {
        version: version.to_owned(),
        vmlinuz: folder.join(format!("boot/vmlinuz-{release}")),
        release,
        modules,
    })
}

fn download(version: &str, folder: &Path) -> Result<()> {
    let mut apt = Apt::default();
    let mut packages = apt.search(&pattern(version))?;
    packages.sort_by_key(|package| numbers(package));
    let Some(package) = packages.pop() else {
        bail!("apt offers no package that matches {}", pattern(version));
    };
    term::say(
        Colour::Yellow,
        "setup",
        format!("downloading {package}, about 30 MB"),
    );
    files::make_whole(folder, |unfinished| apt.unpack(&package, unfinished))
}

/// Unsigned, since the signed package of the same name is another one; both hold the same kernel.
fn pattern(version: &str) -> String {
    let version = version.replace('.', r"\.");
    format!(r"^linux-image-{version}\.[0-9][^ ]*-cloud-amd64-unsigned$")
}

/// The numbers in a name, by which later versions come last.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_of_a_version_comes_last() {
        let mut names = [
            "linux-image-6.1.0-56-cloud-amd64-unsigned",
            "linux-image-6.1.0-9-cloud-amd64-unsigned",
            "linux-image-6.1.0-100-cloud-amd64-unsigned",
        ];
        names.sort_by_key(|name| numbers(name));
        assert_eq!(names[2], "linux-image-6.1.0-100-cloud-amd64-unsigned");
        let (old, new) = ("6.12.99+deb12-cloud", "6.12.117+deb12-cloud");
        assert!(numbers(old) < numbers(new));
    }

    #[test]
    fn one_version_is_not_taken_for_another() {
        assert_eq!(
            pattern("6.1"),
            r"^linux-image-6\.1\.[0-9][^ ]*-cloud-amd64-unsigned$"
        );
    }

    #[test]
    fn a_kernel_without_its_modules_is_not_used() {
        let folder = std::env::temp_dir().join(format!("xtask-image-{}", std::process::id()));
        let boot = folder.join("boot");
        fs::create_dir_all(&boot).unwrap();
        fs::write(boot.join("vmlinuz-6.1.0-9-cloud"), "").unwrap();
        let without = find("6.1", &folder).is_some();
        let modules = folder.join("lib/modules/6.1.0-9-cloud");
        fs::create_dir_all(&modules).unwrap();
        let image = find("6.1", &folder);
        fs::remove_dir_all(&folder).unwrap();
        assert!(!without);
        let image = image.unwrap();
        assert_eq!(
            (image.release.as_str(), image.modules),
            ("6.1.0-9-cloud", modules)
        );
    }
}
