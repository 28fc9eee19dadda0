//! The BPF file system that `sgctl` pins to: whom it believes, and how long it lasts. Where its
//! usual place is meant, a test mounts there in a mount namespace of its own.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MsFlags, mount};

use super::world::{APPLY, EXPLAIN, Ran, World};

/// A user that owns nothing here.
const NOBODY: u32 = 65534;

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().mode() & 0o7777
}

/// As a plain `mount -t bpf` makes it: every user may create entries.
fn open_to_all() -> World {
    let world = World::new();
    chmod(&world.bpffs, 0o1777);
    chmod(world.dir.path(), 0o755);
    world
}

#[test]
fn in_a_file_system_that_all_can_write_to_our_directory_is_ours_alone() {
    let world = open_to_all();
    let root = world.bpffs.join("sgctl");
    world.run(&APPLY).ok();
    for dir in world.pins().iter().filter(|path| path.is_dir()) {
        assert_eq!(mode(dir), 0o700, "{}", dir.display());
    }
    let nobody = |program: &str, words: &[&str]| {
        let mut command = Command::new(program);
        command.args(words).uid(NOBODY).gid(NOBODY);
        command.output().unwrap().status.success()
    };
    let (root_name, other) = (root.display().to_string(), world.bpffs.join("other"));
    let other = other.display().to_string();
    // What the test itself stands on: others can create entries beside ours.
    assert!(nobody("mkdir", &[&other]));
    assert!(!nobody("flock", &["--nonblock", &root_name, "true"]));
    assert!(!nobody("mv", &[&root_name, &format!("{other}/taken")]));
    world.run(&["status"]).ok();
    world.run(&["detach"]).ok();
    assert!(!root.exists());

    // One that an earlier sgctl left open to be looked into is closed.
    std::fs::create_dir(&root).unwrap();
    chmod(&root, 0o755);
    assert!(nobody("flock", &["--nonblock", &root_name, "true"]));
    world.run(&APPLY).ok();
    assert_eq!(mode(&root), 0o700);
    assert!(!nobody("flock", &["--nonblock", &root_name, "true"]));
    world.run(&["detach"]).ok();
}

#[test]
fn what_others_could_have_put_there_is_not_believed() {
    let world = open_to_all();
    let root = world.bpffs.join("sgctl");
    let refused = |words: &str, remedy: &str| {
        for command in [
            &APPLY[..],
            &["status"],
            &["counters"],
            &["flows"],
            &["detach"],
        ] {
            let ran = world.run(command).fails(1, words);
            assert!(ran.err.contains(remedy), "{}", ran.err);
            assert_eq!(ran.out, "", "{command:?}");
        }
        assert!(!world.has_xdp(), "{words}");
    };
    // Another's directory with something in it.
    std::fs::create_dir_all(root.join("v8/1/1")).unwrap();
    chown(&root, Some(NOBODY), None).unwrap();
    refused("belongs to user 65534", "-o mode=0700");
    chown(&root, Some(0), None).unwrap();
    for mode in [0o777, 0o770, 0o702] {
        chmod(&root, mode);
        refused("others than root can write to", "chmod 0700");
    }
    std::fs::remove_dir_all(&root).unwrap();
    // A name that leads elsewhere.
    let elsewhere = world.bpffs.join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    symlink(&elsewhere, &root).unwrap();
    refused("is not a directory", "-o mode=0700");
    std::fs::remove_file(&root).unwrap();
    // Without the sticky bit others can move away what is root's.
    for mode in [0o777, 0o775] {
        chmod(&world.bpffs, mode);
        refused("others than root can write to", "chmod 0700");
    }
    // So can the owner of the whole.
    chmod(&world.bpffs, 0o755);
    chown(&world.bpffs, Some(NOBODY), None).unwrap();
    refused("belongs to user 65534", "-o mode=0700");
    chown(&world.bpffs, Some(0), None).unwrap();
    world.run(&APPLY).ok();
    world.run(&["detach"]).ok();
}

#[test]
fn a_read_only_one_is_said_to_be_read_only() {
    let world = World::new();
    let nothing = None::<&str>;
    let remount = |flags: MsFlags| {
        let flags = MsFlags::MS_REMOUNT | flags;
        mount(Some("bpf"), &world.bpffs, Some("bpf"), flags, nothing).unwrap();
    };
    for read_only in [
        // The whole file system, and this mount of it alone, as containers are given one.
        MsFlags::MS_RDONLY,
        MsFlags::MS_RDONLY | MsFlags::MS_BIND,
    ] {
        remount(read_only);
        world.run(&APPLY).fails(1, "is mounted read-only");
        world.run(&["status"]).ok();
        remount(read_only & MsFlags::MS_BIND);
        world.run(&APPLY).ok();
        remount(read_only);
        for command in [&APPLY[..], &["detach"], &["detach", "--iface", "nic"]] {
            let ran = world.run(command).fails(1, "is mounted read-only");
            assert!(ran.err.contains("remount,rw"), "{}", ran.err);
        }
        assert!(world.has_xdp());
        let status = world.run(&["status"]).ok();
        assert!(status.out.contains("enforcing"), "{}", status.out);
        for command in [
            &["counters"][..],
            &["flows"],
            &["flows", "--json"],
            &EXPLAIN,
        ] {
            world.run(command).ok();
        }
        remount(read_only & MsFlags::MS_BIND);
        world.run(&["detach"]).ok();
        world.assert_untouched();
    }
}

/// Runs a script in mount namespaces of its own, with `$sgctl` and the policy's words at hand.
fn in_mounts(world: &World, unshare: &str, script: &str) -> Ran {
    let mut command = Command::new("unshare");
    command.args(unshare.split(' ')).args(["sh", "-c"]);
    // A machine may have one mounted; here is none.
    let first = "while umount /sys/fs/bpf 2>/dev/null; do :; done\n";
    command.arg(format!("{first}{script}"));
    let sgctl = env!("CARGO_BIN_EXE_sgctl");
    command.env("sgctl", format!("{sgctl} --netns {}", world.node));
    Ran::of(&command.output().unwrap())
}

/// What a container has: process ids and mounts of its own.
const CONTAINER: &str = "--pid --mount --fork --mount-proc";

#[test]
fn in_a_container_nothing_is_pinned_that_ends_with_it() {
    let world = World::new();
    let words = "this container has process ids of its own";
    for command in [
        "apply builtin:tke --iface nic",
        "run builtin:tke --iface nic",
        "status",
    ] {
        let none = in_mounts(&world, CONTAINER, &format!("$sgctl {command}"));
        let none = none.fails(1, words);
        assert!(
            none.err.contains("without a BPF file system"),
            "{}",
            none.err
        );
        assert!(
            none.err.contains("/sys/fs/bpf:/sys/fs/bpf:rslave"),
            "{}",
            none.err
        );
        let own = format!("mount -t bpf bpf /sys/fs/bpf && $sgctl {command}");
        let own = in_mounts(&world, CONTAINER, &own).fails(1, words);
        assert!(own.err.contains("of its own at /sys/fs/bpf"), "{}", own.err);
    }
    assert!(!world.has_xdp());
    // On purpose, elsewhere.
    let elsewhere = "mount -t bpf -o mode=0700 bpf /mnt && \
                     $sgctl --bpffs /mnt apply builtin:tke --iface nic && \
                     $sgctl --bpffs /mnt status && $sgctl --bpffs /mnt detach";
    in_mounts(&world, CONTAINER, elsewhere).ok();
    assert!(!world.has_xdp());
}

#[test]
fn a_container_may_pin_to_the_file_system_of_the_machine() {
    let world = World::new();
    let use_it = "$sgctl apply builtin:tke --iface nic && $sgctl status && \
                  $sgctl apply builtin:tke-minimal --iface nic && $sgctl detach && \
                  $sgctl apply builtin:tke --iface nic";
    let outside = |mount: &str, container: &str| {
        let script = format!("{mount}\nunshare {container} sh -c '{use_it}' && $sgctl detach");
        let ran = in_mounts(&world, "--mount", &script);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{}", ran.all());
        assert!(!world.has_xdp());
    };
    // `$sgctl detach` at the end has the machine's processes in sight and is no container, so
    // that the file system must be another than its own: it has pins.
    let shared = "mount -t bpf -o mode=0700 bpf /sys/fs/bpf && mount --make-shared /sys/fs/bpf";
    outside(shared, &format!("{CONTAINER} --propagation slave"));
    // Without propagation, by its age.
    let older = "mount -t bpf -o mode=0700 bpf /sys/fs/bpf && sleep 2.1";
    outside(older, CONTAINER);
}

#[test]
fn what_ends_with_private_mounts_is_refused_at_the_usual_place() {
    let world = World::new();
    let words = "has a private mount namespace with a BPF file system of its own";
    for command in ["apply builtin:tke --iface nic", "status"] {
        let script = format!("mount -t bpf bpf /sys/fs/bpf && $sgctl {command}");
        let ran = in_mounts(&world, "--mount", &script).fails(1, words);
        assert!(ran.err.contains("--bpffs DIR"), "{}", ran.err);
    }
    assert_eq!(world.pins(), Vec::<PathBuf>::new());
    assert!(!world.has_xdp());
}
