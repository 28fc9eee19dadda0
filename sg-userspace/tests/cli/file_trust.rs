//! Files that others may write are not put in force (P11): by `apply`, as a candidate, and by `run`
//! at each reload.

use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;

use nix::sys::signal::Signal;

use super::run::{Running, in_force, policy};
use super::world::{Ran, World, file, run};

/// A user whom nobody has made root.
const NOBODY: u32 = 65534;

/// What every refusal says.
const EXPECTED: &str = "expected a file that nobody else can change";

fn chmod(path: impl AsRef<Path>, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("root may");
}

/// Applies a policy as somebody does whom `sudo` names.
fn apply_by_sudo(world: &World, path: &str, uid: u32) -> Ran {
    let mut command = world.command(&["apply", path, "--iface", "nic"]);
    Ran::of(
        &command
            .env("SUDO_UID", uid.to_string())
            .output()
            .expect("sgctl starts"),
    )
}

/// Proves P11.
#[test]
fn a_file_that_others_may_write_is_not_put_in_force() {
    let world = World::new();
    let dir = world.dir.path();
    file(dir, "office.txt", "192.0.2.7\n");
    let text = "name: a\naddress-sets: {office: {file: office.txt}}\n\
                inbound: [{protocol: all, from: office, action: accept}]\n";
    let path = file(dir, "p.yaml", text);
    let set = dir.join("office.txt");
    let apply = ["apply", &path, "--iface", "nic"];
    let refused = |place: &str, why: &str| {
        for words in [&apply[..], &["run", &path, "--iface", "nic"]] {
            let ran = world.run(words).fails(1, why);
            assert!(ran.err.starts_with(place), "{}", ran.err);
            assert!(ran.err.contains(EXPECTED), "{}", ran.err);
            assert!(ran.err.contains("help: read it first, "), "{}", ran.err);
            world.assert_untouched();
        }
        // What changes nothing reads it.
        run(&["check", &path]).ok();
        run(&["diff", &path, &path]).ok();
    };

    chmod(&path, 0o666);
    refused(
        &format!("{path}: "),
        "the policy file can be written by everybody (mode 0666)",
    );
    chmod(&path, 0o644);
    chown(&path, Some(NOBODY), None).expect("root may");
    refused(&format!("{path}: "), "the policy file belongs to the user");
    // Whoever became root by sudo may use files of their own, and of nobody else.
    apply_by_sudo(&world, &path, 1234).fails(1, "belongs to the user");
    apply_by_sudo(&world, &path, NOBODY).ok();
    assert_eq!(in_force(&world), ("a".to_owned(), 1));
    world.run(&["detach"]).ok();
    chown(&path, Some(0), None).expect("root may");

    // Of a set file the error names the line that names it.
    chmod(&set, 0o646);
    refused(
        &format!("{path}:2:"),
        "can be written by everybody (mode 0646)",
    );
    let json = world.run(&["apply", &path, "--iface", "nic", "--json"]);
    assert_eq!(json.code, 1, "{}", json.all());
    let report = json.json();
    assert_eq!(report["errors"][0]["code"], "untrusted-file", "{report:#}");
    assert_eq!(report["errors"][0]["location"]["line"], 2, "{report:#}");
    chmod(&set, 0o644);

    // A folder in which others may replace it.
    chmod(dir, 0o777);
    refused(&format!("{path}: "), "can be replaced: the directory");
    world.run(&[&apply[..], &["--trust-files"]].concat()).ok();
    assert_eq!(in_force(&world), ("a".to_owned(), 1));
    // A candidate decides nothing, but is there to be promoted.
    let candidate = ["apply", "--candidate", &path, "--iface", "nic"];
    world
        .run(&candidate)
        .fails(1, "can be replaced: the directory");
    chmod(dir, 0o1777);
    world.run(&apply).ok();
}

/// Proves P11: what was put in force stays, and the file is read again when it is mended.
#[test]
fn a_reload_looks_at_who_may_write_the_file() {
    let world = World::new();
    let path = file(world.dir.path(), "p.yaml", &policy(1));
    let running = Running::start(&world, &[&path]);
    running.says("applied p1");
    let replace = |text: &str, mode| {
        let new = file(world.dir.path(), "p.new", text);
        chmod(&new, mode);
        std::fs::rename(new, &path).expect("it is there");
    };
    replace(&policy(2), 0o622);
    running.says("reload failed: generation 1 stays in force");
    assert_eq!(in_force(&world), ("p1".to_owned(), 1));
    chmod(&path, 0o644);
    running.says("reloaded p2 on nic, generation 2");
    let (code, err) = running.end(Signal::SIGTERM);
    assert_eq!(code, Some(0));
    assert!(
        err.contains("can be written by everybody (mode 0622)"),
        "{err}"
    );
}

/// Proves P11: the folder of a ConfigMap is open to all, and mounted read-only.
#[test]
fn a_folder_that_is_mounted_read_only_is_closed() {
    let world = World::new();
    let volume = world.dir.path().join("volume");
    std::fs::create_dir(&volume).expect("a folder");
    let path = file(&volume, "p.yaml", &policy(1));
    chmod(&volume, 0o777);
    let apply = ["apply", &path, "--iface", "nic"];
    world.run(&apply).fails(1, "can be replaced: the directory");
    world.assert_untouched();
    // In a mount namespace of its own, as a container has it.
    let binary = env!("CARGO_BIN_EXE_sgctl");
    let script = format!(
        "mount --bind {0} {0} && mount -o remount,bind,ro {0} && \
         exec {binary} --netns {1} --bpffs {2} apply {path} --iface nic",
        volume.display(),
        world.node,
        world.bpffs.display(),
    );
    let ran = std::process::Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", &script])
        .output();
    let ran = Ran::of(&ran.expect("the tests need util-linux"));
    assert_eq!(ran.code, 0, "{}", ran.all());
    assert_eq!(in_force(&world), ("p1".to_owned(), 1));
}
