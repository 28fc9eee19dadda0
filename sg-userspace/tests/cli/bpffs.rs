//! The BPF file system that `sgctl` pins to: which owners and modes `sgctl` accepts, and where pins
//! would not outlive a container. A test that uses /sys/fs/bpf mounts there in a mount namespace of
//! its own.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MsFlags, mount};
use sg_common::LAYOUT_VERSION;

use super::world::{APPLY, EXPLAIN, Ran, World};

/// A user other than root who owns none of the directories.
const NOBODY: u32 = 65534;

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().mode() & 0o7777
}

/// A BPF file system with the mode that a plain `mount -t bpf` gives it, in which every user may
/// create entries.
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
    // The test only means something if other users can create entries beside `sgctl`'s directory.
    assert!(nobody("mkdir", &[&other]));
    assert!(!nobody("flock", &["--nonblock", &root_name, "true"]));
    assert!(!nobody("mv", &[&root_name, &format!("{other}/taken")]));
    world.run(&["status"]).ok();
    world.run(&["detach"]).ok();
    assert!(!root.exists());

    // `sgctl` closes a directory that an older version left readable for all.
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
    // The directory belongs to another user, who has put something into it.
    std::fs::create_dir_all(root.join(format!("v{LAYOUT_VERSION}/1/1"))).unwrap();
    chown(&root, Some(NOBODY), None).unwrap();
    refused("belongs to user 65534", "-o mode=0700");
    chown(&root, Some(0), None).unwrap();
    for mode in [0o777, 0o770, 0o702] {
        chmod(&root, mode);
        refused("others than root can write to", "chmod 0700");
    }
    std::fs::remove_dir_all(&root).unwrap();
    // The path is a symbolic link to another directory.
    let elsewhere = world.bpffs.join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    symlink(&elsewhere, &root).unwrap();
    refused("is not a directory", "-o mode=0700");
    std::fs::remove_file(&root).unwrap();
    // Without the sticky bit other users can rename a directory that belongs to root.
    for mode in [0o777, 0o775] {
        chmod(&world.bpffs, mode);
        refused("others than root can write to", "chmod 0700");
    }
    // The owner of the file system can rename it as well.
    chmod(&world.bpffs, 0o755);
    chown(&world.bpffs, Some(NOBODY), None).unwrap();
    refused("belongs to user 65534", "-o mode=0700");
    chown(&world.bpffs, Some(0), None).unwrap();
    world.run(&APPLY).ok();
    world.run(&["detach"]).ok();
}

#[test]
fn a_read_only_file_system_is_reported_as_such() {
    let world = World::new();
    let nothing = None::<&str>;
    let remount = |flags: MsFlags| {
        let flags = MsFlags::MS_REMOUNT | flags;
        mount(Some("bpf"), &world.bpffs, Some("bpf"), flags, nothing).unwrap();
    };
    for read_only in [
        // The kernel can forbid writing for the whole file system or for this one mount of it.
        // Containers usually get the latter.
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

/// Runs a script in new namespaces, with mounts of its own. `$sgctl` in it is the command for the
/// node's namespace.
fn in_mounts(world: &World, unshare: &str, script: &str) -> Ran {
    let mut command = Command::new("unshare");
    command.args(unshare.split(' ')).args(["sh", "-c"]);
    // The machine may have a BPF file system mounted, which the test must not use.
    let first = "while umount /sys/fs/bpf 2>/dev/null; do :; done\n";
    command.arg(format!("{first}{script}"));
    let sgctl = env!("CARGO_BIN_EXE_sgctl");
    command.env("sgctl", format!("{sgctl} --netns {}", world.node));
    Ran::of(&command.output().unwrap())
}

/// The namespaces of a container: its own process ids and mounts.
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
    // A BPF file system at any other place, named with --bpffs, is accepted.
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
    // The last `$sgctl detach` runs outside the container. If the container had used a file system
    // of its own, this one would find no pins.
    let shared = "mount -t bpf -o mode=0700 bpf /sys/fs/bpf && mount --make-shared /sys/fs/bpf";
    outside(shared, &format!("{CONTAINER} --propagation slave"));
    // Without mount propagation `sgctl` takes a file system for the machine's if it is older than
    // the container.
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
