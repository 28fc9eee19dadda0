//! The DaemonSet's container as a container runtime would run it: with the arguments, probes,
//! mounts and capabilities of the manifest, and nothing else; and the volume of its policy.
//!
//! `SG_IMAGE_ROOT` names an unpacked image to run instead of this build (`cargo xtask image
//! --check`).

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use sg_testbed::wait_for;

use super::kubernetes::words;
use super::run::Running;
use super::world::{Ran, file};

/// What a container runtime does before it starts the process of a pod: mounts of its own, a root
/// that cannot be written, a process namespace. `$1` is the root, `$2` the BPF file system, `$3`
/// the volume of the policy.
const PREPARE: &str = r#"
set -e
root=$1 bpf=$2 volume=$3
shift 3
mount --bind "$root" "$root"
# Without an image: the libraries and the binary of this build.
if [ -n "$SG_TEST_BINARY" ]; then
    for at in lib lib64 usr/lib; do mount --bind "/$at" "$root/$at"; done
    mount --bind "$SG_TEST_BINARY" "$root/usr/bin/sgctl"
fi
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount --bind "$bpf" "$root/sys/fs/bpf"
mount --bind "$volume" "$root/etc/sgctl"
mount -o remount,bind,ro "$root/etc/sgctl"
mount -o remount,bind,ro "$root"
"#;

/// Ends in the process of the pod, with the capabilities of the manifest and no others.
const ENTER: &str = r#"
exec setpriv --bounding-set="-all,$SG_TEST_CAPS,+sys_chroot,+setpcap" --inh-caps=-all \
    capsh --chroot="$root" --drop=cap_sys_chroot,cap_setpcap --no-new-privs --shell=/usr/bin/sgctl -- "$@"
"#;

/// Where it runs.
pub(super) struct Place<'a> {
    /// The name of the node's network namespace.
    pub(super) netns: &'a str,
    /// The node's BPF file system.
    pub(super) bpffs: &'a Path,
    /// A folder for the container's root, if it is not an image's.
    pub(super) root: PathBuf,
}

pub(super) struct Container {
    manifest: Value,
    root: PathBuf,
    pub(super) running: Running,
    /// The process of `run`.
    pub(super) process: String,
}

impl Container {
    /// Starts it with the manifest's arguments, with these in the place of variables and times.
    pub(super) fn start(
        place: &Place,
        manifest: &Value,
        volume: &Path,
        values: &[(&str, &str)],
    ) -> Container {
        let image = std::env::var_os("SG_IMAGE_ROOT");
        let root = match &image {
            Some(root) => PathBuf::from(root),
            None => place.root.clone(),
        };
        if image.is_none() {
            for at in [
                "lib",
                "lib64",
                "usr/lib",
                "usr/bin",
                "proc",
                "sys",
                "etc/sgctl",
            ] {
                std::fs::create_dir_all(root.join(at)).expect("the folder is writable");
            }
            std::fs::write(root.join("usr/bin/sgctl"), "").expect("the folder is writable");
        }
        let args = words(&manifest["args"]).into_iter().map(|word| {
            let replaced = |word: String, (name, value): &(&str, &str)| word.replace(name, value);
            values.iter().fold(word, replaced)
        });
        // Shared, as systemd mounts it on a node: a container's mount of it sees later mounts too.
        let bpffs = place.bpffs.display().to_string();
        sg_testbed::run("mount", &["--make-shared", &bpffs]);
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", place.netns))
            .args([
                "unshare",
                "--mount",
                "--propagation",
                "slave",
                "--pid",
                "--fork",
                "--kill-child=KILL",
            ])
            .args(["sh", "-c", &format!("{PREPARE}{ENTER}"), "sh"])
            .args([&root, place.bpffs, volume])
            .args(args)
            .env("SG_TEST_CAPS", capabilities(manifest));
        if image.is_none() {
            command.env("SG_TEST_BINARY", env!("CARGO_BIN_EXE_sgctl"));
        }
        let running = Running::of(&mut command);
        let parent = running.child.id();
        let mut process = String::new();
        wait_for("the container's process", Duration::from_secs(60), || {
            let found = child_of(parent).filter(|(_, name)| name == "sgctl");
            process = found.map(|(id, _)| id).unwrap_or_default();
            !process.is_empty()
        });
        Container {
            manifest: manifest.clone(),
            root,
            running,
            process,
        }
    }

    /// Runs the command of a probe as the kubelet does, in the same container.
    pub(super) fn probe(&self, name: &str) -> Ran {
        let command = words(&self.manifest[name]["exec"]["command"]);
        let script = format!("set -e\nroot=$1\nshift\n{ENTER}");
        let ran = Command::new("nsenter")
            .args(["--target", &self.process, "--mount", "--pid", "--net"])
            .args(["sh", "-c", &script, "sh"])
            .arg(&self.root)
            .args(&command[1..])
            .env("SG_TEST_CAPS", capabilities(&self.manifest))
            .output();
        Ran::of(&ran.expect("the tests need util-linux"))
    }

    /// Ends it as a kubelet does, and returns the exit code.
    pub(super) fn terminate(mut self) -> Option<i32> {
        let process = self.process.parse().expect("a number");
        kill(Pid::from_raw(process), Signal::SIGTERM).expect("it runs");
        self.running.child.wait().expect("it ends").code()
    }
}

/// The process that another one has started, and its name.
fn child_of(parent: u32) -> Option<(String, String)> {
    let all = std::fs::read_dir("/proc").expect("it is mounted").flatten();
    all.into_iter().find_map(|entry| {
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        // `4711 (sgctl) S 4710 …`: the name may have spaces and parentheses.
        let (head, rest) = stat.rsplit_once(')')?;
        let (id, name) = head.split_once(" (")?;
        let its: u32 = rest.split_whitespace().nth(1)?.parse().ok()?;
        (its == parent).then(|| (id.to_owned(), name.to_owned()))
    })
}

/// For setpriv: `+bpf,+perfmon,+net_admin`.
fn capabilities(manifest: &Value) -> String {
    let added = words(&manifest["securityContext"]["capabilities"]["add"]);
    let added = added.iter().map(|name| format!("+{}", name.to_lowercase()));
    added.collect::<Vec<_>>().join(",")
}

/// The volume of a ConfigMap, as the kubelet makes and changes it.
pub(super) struct Volume {
    pub(super) at: PathBuf,
    number: u32,
}

impl Volume {
    pub(super) fn new(at: PathBuf, policy: &str) -> Volume {
        std::fs::create_dir(&at).expect("the folder is writable");
        // As on a node; in the container it is mounted read-only.
        let open = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(&at, open).expect("it is root's");
        let mut volume = Volume { at, number: 0 };
        volume.set(policy);
        symlink("..data/policy.yaml", volume.at.join("policy.yaml"))
            .expect("the folder is writable");
        volume
    }

    pub(super) fn set(&mut self, policy: &str) {
        self.number += 1;
        let name = format!("..{}", self.number);
        std::fs::create_dir(self.at.join(&name)).expect("the folder is writable");
        file(&self.at.join(&name), "policy.yaml", policy);
        symlink(&name, self.at.join("..data_tmp")).expect("the folder is writable");
        std::fs::rename(self.at.join("..data_tmp"), self.at.join("..data")).expect("it is there");
        // The kubelet removes what was there before.
        let before = self.at.join(format!("..{}", self.number - 1));
        let _ = std::fs::remove_dir_all(before);
    }
}
