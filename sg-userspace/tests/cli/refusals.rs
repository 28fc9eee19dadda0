//! What `sgctl` refuses: each refusal has its message and exit code, and leaves the kernel
//! unchanged.

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::world::{Ran, World, file, ip, sgctl};

#[test]
fn an_interface_that_does_not_exist() {
    let world = World::new();
    let ran = world.run(&["apply", "builtin:tke", "--iface", "eth7"]);
    let ran = ran.fails(1, "there is no interface `eth7`");
    assert!(
        ran.err.contains("help: interfaces here: lo, nic"),
        "{}",
        ran.err
    );
    world
        .run(&["detach", "--iface", "eth7"])
        .fails(1, "no interface `eth7`");
    world
        .run(&["counters", "--iface", "eth7"])
        .fails(1, "no interface `eth7`");
    world.assert_untouched();
}

#[test]
fn a_namespace_that_does_not_exist() {
    let ran = super::world::run(&["--netns", "no-such-netns", "status"]);
    ran.fails(1, "no network namespace `no-such-netns`");
}

/// Proves P8: `apply` of a bad policy changes nothing.
#[test]
fn a_bad_policy() {
    let (world, good) = World::enforcing("p.yaml", "inbound: []\n");
    file(
        world.dir.path(),
        "p.yaml",
        "inbound: [{protocol: tcp, ports: 9-3}]\n",
    );
    let ran = world.run(&["apply", &good, "--iface", "nic"]);
    assert!(
        ran.code == 1 && ran.err.contains("p.yaml:1:"),
        "{}",
        ran.all()
    );
    let status = world.run(&["status", "--json"]).ok().json();
    assert_eq!(status[0]["policy"]["generation"], 1);
}

#[test]
fn no_privilege() {
    let world = World::new();
    // The build directory may be closed to other users, so they run a copy of the binary.
    let copy = world.dir.path().join("sgctl");
    // `cp` makes the copy: if this process wrote it, a child that another test forks at the same
    // moment could hold it open for writing, and executing it would fail with ETXTBSY.
    let copied = Command::new("cp")
        .arg(env!("CARGO_BIN_EXE_sgctl"))
        .arg(&copy)
        .status();
    assert!(copied.unwrap().success());
    open_to_all(&copy);
    open_to_all(world.dir.path());
    let run = |words: &[&str], netns: bool| {
        let mut command = Command::new(&copy);
        if netns {
            command.args(["--netns", &world.node]);
        }
        command.arg("--bpffs").arg(&world.bpffs).args(words);
        command.uid(65534).gid(65534);
        Ran::of(&command.output().unwrap())
    };
    run(&["apply", "builtin:tke", "--iface", "nic"], true).fails(3, "not permitted");
    run(&["apply", "builtin:tke", "--iface", "lo"], false).fails(3, "not permitted");
    run(&["run", "builtin:tke", "--iface", "lo"], false).fails(3, "not permitted");
    world.run(&["apply", "builtin:tke", "--iface", "nic"]).ok();
    for words in [&["status"], &["detach"], &["counters"]] {
        let ran = run(words, false).fails(3, "not permitted");
        assert!(ran.err.contains("help: run it as root"), "{}", ran.err);
    }
    assert!(world.has_xdp());
    assert_eq!(run(&["check", "builtin:tke"], false).code, 0);
}

fn open_to_all(path: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn another_xdp_program_on_the_interface() {
    let world = World::new();
    // An attachment of `sgctl` whose pins are in another directory, where this `sgctl` does not
    // look.
    world.apply_elsewhere("nic");
    let ran = world.run(&["apply", "builtin:tke", "--iface", "nic"]);
    let ran = ran.fails(1, "already runs the XDP program `sg_inbound`");
    // The program is attached by a link, which `ip` cannot remove. The message names a command that
    // can, with the id of that link.
    let id = ran
        .err
        .split("bpftool link detach id ")
        .nth(1)
        .and_then(|rest| rest.split('`').next())
        .and_then(|id| id.trim().parse::<u32>().ok())
        .unwrap_or_else(|| panic!("{}", ran.err));
    assert!(
        ran.err.contains("`ip link set ... xdp off` cannot remove"),
        "{}",
        ran.err
    );
    assert_eq!(world.pins(), Vec::<std::path::PathBuf>::new());
    assert!(world.has_xdp(), "the other one stays");
    let off = Command::new("ip")
        .args(["-n", &world.node, "link", "set", "dev", "nic", "xdp", "off"])
        .output()
        .unwrap();
    assert!(!off.status.success() && world.has_xdp(), "netlink cannot");
    detach_link(id);
    assert!(!world.has_xdp());
    world.run(&["apply", "builtin:tke", "--iface", "nic"]).ok();
}

/// Does what `bpftool link detach id ID` does.
fn detach_link(id: u32) {
    let fd = bpf(BPF_LINK_GET_FD_BY_ID, &[id]);
    bpf(BPF_LINK_DETACH, &[fd]);
    // SAFETY: the kernel has just returned this descriptor, and nothing else uses it.
    assert_eq!(unsafe { libc::close(fd as i32) }, 0);
}

const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_PROG_GET_FD_BY_ID: libc::c_long = 13;
const BPF_LINK_GET_FD_BY_ID: libc::c_long = 30;
const BPF_LINK_DETACH: libc::c_long = 34;

/// Calls bpf(2) with the first words of its attribute, laid out as in the kernel's linux/bpf.h.
#[track_caller]
fn bpf(command: libc::c_long, words: &[u32]) -> u32 {
    let mut attr = [0u32; 32];
    attr[..words.len()].copy_from_slice(words);
    // SAFETY: the attribute is padded with zeros and longer than any of these commands reads. What
    // it points to outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            attr.as_mut_ptr(),
            size_of_val(&attr),
        )
    };
    let error = std::io::Error::last_os_error();
    u32::try_from(result).unwrap_or_else(|_| panic!("bpf({command}): {error}"))
}

/// `ip` can remove an XDP program that is attached without a link, and the message says how.
#[test]
fn another_xdp_program_without_a_link() {
    let world = World::new();
    // The program of another interface is pinned here, so that `ip` can attach it to `nic`.
    let words = format!(
        "-n {} link add second type veth peer name third",
        world.node
    );
    ip(&words.split(' ').collect::<Vec<_>>());
    let other = world.apply_elsewhere("second");
    let elsewhere = other.display().to_string();
    let shown = Command::new("ip")
        .args(["-n", &world.node, "link", "show", "dev", "second"])
        .output()
        .unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    let id = shown.split("prog/xdp id ").nth(1).unwrap();
    let id = id.split_whitespace().next().unwrap().parse().unwrap();
    let pin = other.join("program").display().to_string();
    let path = std::ffi::CString::new(pin.clone()).unwrap();
    let address = path.as_ptr().addr() as u64;
    let program = bpf(BPF_PROG_GET_FD_BY_ID, &[id]);
    bpf(
        BPF_OBJ_PIN,
        &[address as u32, (address >> 32) as u32, program],
    );
    let nic = ["-n", &world.node, "link", "set", "dev", "nic", "xdp"];
    ip(&[&nic[..], &["pinned", &pin]].concat());
    super::world::run(&["--netns", &world.node, "--bpffs", &elsewhere, "detach"]).ok();
    assert!(world.has_xdp());
    let ran = world.run(&["apply", "builtin:tke", "--iface", "nic"]);
    let ran = ran.fails(1, "already runs the XDP program");
    assert!(
        ran.err
            .contains("or with `ip link set dev nic xdp off`, and apply again"),
        "{}",
        ran.err
    );
    ip(&[&nic[..], &["off"]].concat());
    world.run(&["apply", "builtin:tke", "--iface", "nic"]).ok();
}

#[test]
fn pins_of_another_layout_version() {
    let world = World::new();
    world.run(&["apply", "builtin:tke", "--iface", "nic"]).ok();
    let ours = world.pin_dir();
    // That version had no directories for attachments.
    let netns = ours.parent().unwrap().parent().unwrap();
    let version = netns.parent().unwrap();
    let theirs = version
        .with_file_name("v0")
        .join(netns.file_name().unwrap());
    let theirs = theirs.join(ours.file_name().unwrap());
    world.run(&["detach"]).ok();
    std::fs::create_dir_all(&theirs).unwrap();
    let commands: [&[&str]; 5] = [
        &["apply", "builtin:tke", "--iface", "nic"],
        &["status"],
        &["counters"],
        &["detach"],
        &["detach", "--iface", "nic"],
    ];
    for words in commands {
        let ran = world.run(words).fails(1, "holds pins of layout version 0");
        assert_eq!(ran.out, "", "{words:?}");
    }
    assert!(theirs.exists());
    assert!(!world.has_xdp());
}

#[test]
fn private_mounts_as_ip_netns_exec_makes_them() {
    let world = World::new();
    for words in [&["apply", "builtin:tke", "--iface", "nic"][..], &["status"]] {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &world.node]);
        command.arg(env!("CARGO_BIN_EXE_sgctl")).args(words);
        let ran = Ran::of(&command.output().unwrap());
        let ran = ran.fails(1, "has a private mount namespace");
        assert!(ran.err.contains("sgctl --netns NAME"), "{}", ran.err);
    }
    world.assert_untouched();
}

#[test]
fn a_place_that_is_no_bpf_file_system() {
    let world = World::new();
    let dir = world.dir.path().display().to_string();
    for words in [
        &["apply", "builtin:tke", "--iface", "lo"][..],
        &["status"],
        &["detach"],
    ] {
        let ran = sgctl(&["--netns", &world.node, "--bpffs", &dir])
            .args(words)
            .output();
        Ran::of(&ran.unwrap()).fails(1, "is not a BPF file system");
    }
}

#[test]
fn a_place_that_is_not_there() {
    let world = World::new();
    let dir = world.dir.path().join("none").display().to_string();
    for words in [&["apply", "builtin:tke", "--iface", "lo"][..], &["status"]] {
        let ran = sgctl(&["--netns", &world.node, "--bpffs", &dir])
            .args(words)
            .output();
        let ran = Ran::of(&ran.unwrap()).fails(1, &format!("{dir} does not exist"));
        let remedy = format!("`mkdir -p {dir} && mount -t bpf");
        assert!(ran.err.contains(&remedy), "{}", ran.err);
    }
}

/// A clsact qdisc can share its filter block with other interfaces. `apply` must not add a filter
/// there, since it would judge their packets too.
#[test]
fn a_shared_block_of_filters() {
    let world = World::new();
    let qdisc = format!(
        "netns exec {} tc qdisc add dev nic egress_block 7 clsact",
        world.node
    );
    ip(&qdisc.split(' ').collect::<Vec<_>>());
    let apply = |hook| {
        world.run(&[
            "apply",
            "builtin:tke",
            "--iface",
            "nic",
            "--egress-hook",
            hook,
        ])
    };
    let ran = apply("clsact").fails(3, "shares its egress block");
    assert!(
        ran.err.contains("apply with --egress-hook tcx"),
        "{}",
        ran.err
    );
    world.assert_untouched();
    apply("tcx").ok();
}

#[test]
fn an_interface_that_went_away_leaves_something_to_detach() {
    let world = World::new();
    world.run(&["apply", "builtin:tke", "--iface", "nic"]).ok();
    ip(&["-n", &world.node, "link", "del", "nic"]);
    let status = world.run(&["status"]);
    assert_eq!(status.code, 1, "{}", status.all());
    assert!(status.out.contains("interface gone"), "{}", status.out);
    world.run(&["detach"]).ok();
    assert_eq!(world.pins(), Vec::<std::path::PathBuf>::new());
}

/// Whichever pin is missing, every command works or reports it, and `apply` and `detach` repair it.
#[test]
fn pins_that_somebody_has_removed() {
    let world = World::new();
    let apply = ["apply", "builtin:tke", "--iface", "nic"];
    world.run(&apply).ok();
    let all_names = || -> Vec<String> {
        std::fs::read_dir(world.pin_dir())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    };
    // Names of pins end in a number of the generation, which changes with every apply; it is cut
    // off.
    let names: BTreeSet<String> = all_names()
        .iter()
        .filter(|name| *name != "state")
        .map(|name| {
            let of_generations = ["_targets_", "_program_", "_tables_"];
            let part = of_generations.iter().find(|part| name.contains(*part));
            match part.and_then(|part| name.split_once(part)) {
                Some((before, _)) => format!("{before}{}", part.unwrap_or(&"")),
                None => name.clone(),
            }
        })
        .collect();
    assert!(names.len() > 4, "{names:?}");
    for name in names {
        let named = || all_names().into_iter().find(|n| n.starts_with(&name));
        let pin = named().unwrap_or_else(|| panic!("no {name}"));
        std::fs::remove_file(world.pin_dir().join(pin)).unwrap();
        for words in [&["counters"][..], &["flows"]] {
            let ran = world.run(words);
            let is_reported = ran.code == 1 && ran.err.contains("help: ");
            assert!(
                is_reported || ran.code == 0,
                "{name}: {words:?}: {}",
                ran.all()
            );
        }
        let status = world.run(&["status"]);
        let is_reported = status.code == 1 && status.out.contains("apply again");
        assert!(is_reported, "{name}: {}", status.all());
        if name.starts_with("counters_") {
            // The programs still count in this map, and no process can open it any more: only
            // `detach` helps.
            world
                .run(&apply)
                .fails(1, &format!("{} removes", world.typed("detach --iface IF")));
            world.run(&["detach"]).ok();
        }
        world.run(&apply).ok();
        assert!(named().is_some(), "{name}");
        let status = world.run(&["status"]).ok();
        assert!(status.out.contains("enforcing"), "{name}: {}", status.out);
        for words in [&["counters"][..], &["flows"]] {
            world.run(words).ok();
        }
    }
    world.run(&["detach"]).ok();
    world.assert_untouched();
}
