//! Debian's own opinion of a package for Debian.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result, bail};

/// What lintian would have otherwise, and why it is as it is.
const INTENDED: [(&str, &str); 6] = [
    (
        "shared-library-lacks-prerequisites",
        "the program is static, so that it runs beside any C library, and position independent",
    ),
    ("empty-field", "so it depends on no other package"),
    (
        "command-with-path-in-maintainer-script",
        "the program of this package is meant, and none that is in /usr/local",
    ),
    (
        "maintainer-script-calls-systemctl",
        "the scripts look at each instance of the unit, which Debian's helpers do not",
    ),
    (
        "initial-upload-closes-no-bugs",
        "nobody has asked Debian for it",
    ),
    ("malformed-contact", "the project has no address for mail"),
];

/// Fails where lintian has an error or a warning.
pub(super) fn check(deb: &Path) -> Result<()> {
    let tags: Vec<&str> = INTENDED.iter().map(|(tag, _)| *tag).collect();
    let output = Command::new("lintian")
        .args(["--fail-on", "error,warning", "--allow-root"])
        .args(["--suppress-tags", &tags.join(",")])
        .arg(deb)
        .output()
        .context("cannot start lintian")?;
    let said = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let complaints = String::from_utf8_lossy(&output.stderr);
        bail!("lintian says of {}:\n{said}{complaints}", deb.display());
    }
    Ok(())
}
