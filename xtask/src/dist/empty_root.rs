//! Runs the binary where there is nothing but it: a folder that is the root of a process. On this
//! machine's own processor it also enforces a policy on an interface there, in namespaces that end
//! with the command. The same is done in the root of another distribution.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};

use super::arch::Arch;
use crate::{
    files,
    root::{self, Way},
    shell,
    term::{self, Colour},
};

/// Prints what is seen at each step. `$1` is the root; besides the binary and a policy it has what
/// the kernel offers below /sys, as every container has, with a BPF file system.
const SCRIPT: &str = r#"
set -eu
root=$1
mount --make-rprivate /
mount -t sysfs sysfs "$root/sys"
mount -t bpf bpf "$root/sys/fs/bpf"
ip link add nic type veth peer name other
ip link set nic up
ip link set other up
sgctl() { chroot "$root" /sgctl "$@"; }
sgctl --version
sgctl check /policy.yaml
sgctl apply /policy.yaml --iface nic
sgctl status
ip -details link show nic | grep -q prog/xdp || { echo 'no XDP program on the interface'; exit 1; }
sgctl counters --iface nic > /dev/null
sgctl detach
if ip -details link show nic | grep -q prog/xdp; then echo 'detach has left a program'; exit 1; fi
left=$(ls "$root/sys/fs/bpf")
case "$left" in *sgctl*) echo "detach has left $left"; exit 1;; esac
"#;

/// A policy that accepts what keeps a node reachable and drops the rest.
const POLICY: &str = "\
inbound:
  - {protocol: tcp, ports: 22, from: any, action: accept}
outbound:
  - {protocol: all, to: any, action: accept}
";

/// What `status` says of an interface that runs its policy.
const ENFORCING: &str = "enforcing";

pub(super) fn run(binary: &Path, arch: Arch) -> Result<()> {
    let folder = binary.with_file_name("empty-root");
    files::remove_folder(&folder)?;
    let made = fill(&folder, binary).with_context(|| format!("cannot fill {}", folder.display()));
    let ran = made.and_then(|()| match arch.is_foreign() {
        true => emulate(&folder, arch),
        false => enforce(&folder),
    });
    // The file system for pins was mounted in a namespace that has ended.
    let removed = files::remove_folder(&folder);
    ran.context("the binary does not run where there is nothing but it")?;
    removed
}

/// Enforces a policy with the binary in a root that has other files too.
pub(crate) fn enforce_in(root: &Path, binary: &Path) -> Result<()> {
    fill(root, binary).with_context(|| format!("cannot fill {}", root.display()))?;
    enforce(root)
}

fn fill(folder: &Path, binary: &Path) -> Result<()> {
    fs::create_dir_all(folder.join("sys/fs/bpf"))?;
    fs::copy(binary, folder.join("sgctl"))?;
    fs::write(folder.join("policy.yaml"), POLICY)?;
    Ok(())
}

fn enforce(folder: &Path) -> Result<()> {
    let unshare = ["unshare", "--mount", "--net", "sh", "-c", SCRIPT, "sh"];
    let mut command = match root::way() {
        Way::Already => Command::new(unshare[0]),
        Way::Sudo(sudo) => {
            let mut command = Command::new(sudo);
            command.arg(unshare[0]);
            command
        }
        Way::Closed => {
            term::say(
                Colour::Yellow,
                "note",
                "without root the binary is not tried on an interface",
            );
            return version_and_check(&mut || Command::new(folder.join("sgctl")), folder);
        }
    };
    command.args(&unshare[1..]).arg(folder);
    let said = shell::read(&mut command)?;
    if !said.contains(ENFORCING) {
        bail!("`status` does not say that the interface is enforced:\n{said}");
    }
    Ok(())
}

fn emulate(folder: &Path, arch: Arch) -> Result<()> {
    let emulator = shell::which(arch.emulator())
        .with_context(|| format!("{} is not on the PATH", arch.emulator()))?;
    let mut sgctl = || {
        let mut command = Command::new(&emulator);
        command.arg(folder.join("sgctl"));
        command
    };
    version_and_check(&mut sgctl, folder)
}

fn version_and_check(sgctl: &mut dyn FnMut() -> Command, folder: &Path) -> Result<()> {
    let version = shell::read(sgctl().arg("--version"))?;
    if version.trim() != format!("sgctl {}", env!("CARGO_PKG_VERSION")) {
        bail!("`sgctl --version` says {version}");
    }
    let checked = shell::read(sgctl().arg("check").arg(folder.join("policy.yaml")))?;
    if !checked.contains("valid") {
        bail!("`sgctl check` does not say that the policy is valid:\n{checked}");
    }
    Ok(())
}
