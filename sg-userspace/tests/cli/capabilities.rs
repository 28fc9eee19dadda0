//! `sgctl` as root that lacks one capability at a time. A command that changes something does its
//! work or names the missing capability and no other; reading needs none.

use std::process::Command;

use super::world::{APPLY, EXPLAIN, Ran, World, file, ip};

const REPLACE: [&str; 4] = ["apply", "builtin:tke-minimal", "--iface", "nic"];

const READING: [&[&str]; 3] = [&["counters", "--iface", "nic"], &["flows"], &EXPLAIN];

/// Runs `sgctl` in the node's namespace without some capabilities. `nsenter` enters the namespace
/// first, since that takes a capability too.
fn without(world: &World, dropped: &str, words: &[&str]) -> Ran {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{}", world.node));
    command.args(["setpriv", "--bounding-set", dropped, "--inh-caps", dropped]);
    command
        .arg(env!("CARGO_BIN_EXE_sgctl"))
        .arg("--bpffs")
        .arg(&world.bpffs);
    let output = command.args(words).output();
    Ran::of(&output.expect("the tests need util-linux"))
}

fn names(text: &str) -> Vec<&str> {
    let all = ["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN", "CAP_SYS_ADMIN"];
    all.into_iter().filter(|name| text.contains(name)).collect()
}

#[test]
fn what_is_missing_is_named_and_nothing_is_touched() {
    let world = World::new();
    for (dropped, name) in [
        ("-bpf,-sys_admin", "CAP_BPF"),
        ("-perfmon,-sys_admin", "CAP_PERFMON"),
        ("-net_admin,-sys_admin", "CAP_NET_ADMIN"),
        ("-net_admin", "CAP_NET_ADMIN"),
    ] {
        for command in ["apply", "run"] {
            let words = [command, "builtin:tke", "--iface", "nic"];
            let ran = without(&world, dropped, &words).fails(3, "not permitted");
            assert_eq!(names(&ran.err), [name], "{dropped}: {}", ran.err);
        }
        world.assert_untouched();
    }
    let words = [&["--netns", world.node.as_str()][..], &APPLY].concat();
    let ran = without(&world, "-sys_admin", &words).fails(3, "not permitted");
    assert_eq!(names(&ran.err), ["CAP_SYS_ADMIN"], "{}", ran.err);
}

/// Even with every capability, seccomp or a security module may refuse a call, or the kernel may be
/// short of memory. The message says which of the two it is, and names no capability.
#[test]
fn a_refusal_of_the_kernel_is_distinguished_from_a_missing_capability() {
    let world = World::new();
    for command in ["apply", "run"] {
        for (error, says, remedy) in [
            ("EPERM", "not permitted", "seccomp"),
            ("ENOMEM", "Cannot allocate memory", "short of memory"),
        ] {
            let mut strace = Command::new("strace");
            let inject = format!("--inject=bpf:error={error}");
            strace.args(["-f", "-qq", "-o", "/dev/null", &inject]);
            let sgctl = world.command(&[command, "builtin:tke", "--iface", "nic"]);
            let ran = strace.arg(sgctl.get_program()).args(sgctl.get_args());
            let ran = Ran::of(&ran.output().expect("the tests need strace"));
            let ran = ran.fails(3, says);
            assert!(names(&ran.err).is_empty(), "{}", ran.err);
            assert!(ran.err.contains(remedy), "{command} {error}: {}", ran.err);
            world.assert_untouched();
        }
    }
}

/// Looking up a BPF object by its id takes CAP_SYS_ADMIN, so the programs and maps have to be found
/// by their pins.
#[test]
fn enforcing_and_replacing_need_no_cap_sys_admin() {
    let world = World::new();
    let policies = [APPLY, REPLACE, APPLY];
    for hook in ["tcx", "clsact"] {
        for words in policies {
            let words = [&words[..], &["--egress-hook", hook]].concat();
            without(&world, "-sys_admin", &words).ok();
            let status = without(&world, "-sys_admin", &["status"]).ok();
            assert!(status.out.contains("enforcing"), "{hook}: {}", status.out);
        }
        without(&world, "-sys_admin", &["detach"]).ok();
        world.assert_untouched();
    }
}

#[test]
fn reading_needs_no_capability() {
    let world = World::new();
    let policy = "name: p\ninbound: [{protocol: tcp, ports: 22, from: any, action: accept}]\n\
                  outbound: [{protocol: udp, to: any, action: accept}]\n";
    let policy = file(world.dir.path(), "p.yaml", policy);
    for hook in ["tcx", "clsact"] {
        let apply = ["apply", &policy, "--iface", "nic", "--egress-hook", hook];
        world.run(&apply).ok();
        // One datagram, so that there is a flow to list.
        ip(&[
            "netns",
            "exec",
            &world.node,
            "sh",
            "-c",
            "echo x | nc -u -w1 -q0 192.0.2.2 9",
        ]);
        for words in READING {
            // A packet that comes in between, such as neighbour discovery, may add a row.
            let have_same = (0..20).any(|_| {
                let everything = world.run(words).ok();
                let nothing = without(&world, "-all", words).ok();
                nothing.out.lines().count() == everything.out.lines().count()
            });
            assert!(have_same, "{words:?}");
        }
        // `status` asks the kernel which other programs are attached to the interface, and the
        // kernel answers that only with CAP_NET_ADMIN.
        let status = without(&world, "-all,+net_admin", &["status"]).ok();
        assert!(status.out.contains("enforcing"), "{hook}: {}", status.out);
        if hook == "tcx" {
            let status = without(&world, "-all", &["status"]);
            assert_eq!(status.code, 1, "{}", status.all());
            assert!(status.out.contains("unverified"), "{}", status.out);
            assert_eq!(names(&status.out), ["CAP_NET_ADMIN"], "{}", status.out);
        }
        let flows = without(&world, "-all", &["flows", "--json"]).ok().json();
        assert_eq!(flows.as_array().map(Vec::len), Some(1), "{flows}");
        // Without the capability `sgctl` cannot know whether the interface enforces, so it must not
        // say so.
        assert_eq!(flows[0]["health"], "unverified", "{hook}: {flows}");
        world.run(&["detach"]).ok();
    }
}
