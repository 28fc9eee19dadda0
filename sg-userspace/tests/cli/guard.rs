//! What `apply` and `run` say before they change anything, and what they refuse: from a real SSH
//! session, through what stands between it and `sgctl`, and from elsewhere.

use std::io::Read as _;

use nix::sys::signal::Signal;

use super::run::Running;
use super::ssh::Ssh;
use super::world::{Ran, World, file, run};

const MINIMAL: &str = "apply builtin:tke-minimal --iface nic";

#[track_caller]
fn is_refused(ran: &Ran, world: &World) {
    assert_eq!(ran.code, 1, "{}", ran.all());
    let said = format!("{}{}", ran.out, ran.err);
    for words in [
        "refused, for it would lock you out",
        "your connection from 192.0.2.2 (tcp 22",
        "no inbound rule accepts it",
        "`--set admin=192.0.2.2` admits a new one, and nothing else",
    ] {
        assert!(said.contains(words), "`{words}` is not in {}", ran.all());
    }
    world.assert_untouched();
}

/// Proves C6: `tke-minimal` over SSH is refused at a first apply, with the set that admits the
/// operator, whatever stands between the SSH server and `sgctl`, with or without the environment.
#[test]
fn a_first_apply_does_not_lock_its_operator_out() {
    let world = World::new();
    let ssh = Ssh::new(&world);
    let apply = ssh.sgctl(MINIMAL);
    let netns = format!("/run/netns/{}", world.node);
    for script in [
        apply.clone(),
        format!("env -i {apply}"),
        format!("SSH_CONNECTION='198.51.100.1 1 192.0.2.1 22' {apply}"),
        format!("nsenter --net={netns} env -i {apply}"),
        format!("env -i script -qefc '{apply}' /dev/null"),
        format!("setsid --wait env -i {apply}"),
        // Its parent ends, and then only its environment knows.
        format!(
            "({apply} > {0} 2>&1; echo $? > {0}.code) & disown; until [ -e {0}.code ]; do sleep 0.1; done; cat {0}; exit $(cat {0}.code)",
            ssh.home.join("out").display()
        ),
    ] {
        is_refused(&ssh.run(&script), &world);
    }
    // With the remedy that it names.
    let ran = ssh.run(&ssh.sgctl(&format!("{MINIMAL} --set admin=192.0.2.2")));
    assert_eq!(ran.code, 0, "{}", ran.all());
    assert!(
        ran.out
            .contains("lock-out guard: your connection from 192.0.2.2"),
        "{}",
        ran.all()
    );
    assert!(ran.out.contains("goes on"), "{}", ran.all());
    assert_eq!(ssh.run("echo still here").out, "still here\n");
}

/// Proves C6: in tmux, whose server is no child of the session, the clients' connections count.
#[test]
fn the_operator_is_found_through_tmux() {
    let world = World::new();
    let ssh = Ssh::new(&world);
    let out = ssh.home.join("out");
    let shown = out.display();
    let apply = ssh.sgctl(MINIMAL);
    let inside = format!("env -i {apply} > {shown} 2>&1; echo $? > {shown}.code\n");
    let inside = file(&ssh.home, "inside", &inside);
    // The client of tmux needs a terminal.
    let tmux = format!(
        "tmux -u -f /dev/null -S {} new-session \"sh {inside}\"",
        ssh.home.join("tmux").display()
    );
    let ran = ssh.run(&format!("TERM=xterm script -qefc '{tmux}' /dev/null"));
    let code = std::fs::read_to_string(format!("{shown}.code"))
        .unwrap_or_else(|e| panic!("{e}: tmux said {}", ran.all()));
    let ran = Ran {
        code: code.trim().parse().expect("a number"),
        out: std::fs::read_to_string(&out).expect("it was written"),
        err: String::new(),
    };
    is_refused(&ran, &world);
}

/// Proves C6: a reload is refused as a first apply is; `--force` applies it, and that is shown.
#[test]
fn a_reload_does_not_lock_its_operator_out() {
    let world = World::new();
    let ssh = Ssh::new(&world);
    let write = |name: &str, text: &str| file(world.dir.path(), name, text);
    let first = write(
        "first.yaml",
        "inbound: [{protocol: tcp, ports: 22, from: any, action: accept}]\n",
    );
    let ran = ssh.run(&ssh.sgctl(&format!("apply {first} --iface nic")));
    assert_eq!(ran.code, 0, "{}", ran.all());
    let next = write(
        "next.yaml",
        "inbound: [{protocol: tcp, ports: 22, from: 192.0.2.9, action: accept}]\n",
    );
    let apply = ssh.sgctl(&format!("apply {next} --iface nic"));
    let ran = ssh.run(&format!("env -i {apply}"));
    assert_eq!(ran.code, 1, "{}", ran.all());
    for words in [
        "not applied: next to nic\n",
        "would cut 1 connection:\n",
        "tcp 192.0.2.1:22 <- 192.0.2.2:",
        "now by first inbound 1, tcp 22 from any; then no inbound rule accepts it",
    ] {
        assert!(ran.out.contains(words), "`{words}` is not in {}", ran.all());
    }
    let line = "`- {protocol: tcp, ports: 22, from: 192.0.2.2, action: accept}` as the first rule of `inbound`";
    assert!(
        ran.err
            .contains("would be cut, and a new one would be dropped"),
        "{}",
        ran.all()
    );
    assert!(ran.err.contains(line), "{}", ran.all());
    let status = world.run(&["status", "--json"]).ok().json();
    assert_eq!(status[0]["policy"]["generation"], 1);
    assert_eq!(status[0]["forced"], false);

    // What it would do is said without doing it, and that it would be refused.
    let ran = ssh.run(&format!("{apply} --dry-run --json"));
    assert_eq!(ran.code, 0, "{}", ran.all());
    let shown = ran.json();
    assert_eq!(shown["refusals"][0]["code"], "lock-out");
    assert_eq!(shown["impact"]["cut"][0]["local_port"], 22);
    assert_eq!(
        shown["impact"]["session"]["connections"][0]["crosses"],
        true
    );
    assert_eq!(
        world.run(&["status", "--json"]).json()[0]["policy"]["generation"],
        1
    );

    // A policy that lets it be, but for a flush.
    let flush = write(
        "flush.yaml",
        "established: flush\ninbound: [{protocol: tcp, ports: 22, from: 192.0.2.0/24, action: accept}]\n",
    );
    let ran = ssh.run(&ssh.sgctl(&format!("apply {flush} --iface nic")));
    assert_eq!(ran.code, 1, "{}", ran.all());
    assert!(
        ran.err
            .contains("`established: revalidate` in the policy keeps it"),
        "{}",
        ran.all()
    );

    // The members that a set has stay in it; one that would admit to more is not proposed.
    let sets = write(
        "sets.yaml",
        "address-sets: {wide: [192.0.2.7], ssh: [192.0.2.8, 192.0.2.9]}\ninbound:\n\
         - {protocol: tcp, ports: 22, from: [wide, ssh], action: accept}\n\
         - {protocol: all, from: wide, action: accept}\n",
    );
    let ran = ssh.run(&ssh.sgctl(&format!("apply {sets} --iface nic")));
    let set = "`--set ssh=192.0.2.8,192.0.2.9,192.0.2.2` admits a new one, and nothing else";
    assert!(ran.err.contains(set), "{}", ran.all());

    // Forced from elsewhere, since it ends the session that forces it.
    let ran = world
        .run(&["apply", &next, "--iface", "nic", "--force"])
        .ok();
    assert!(
        ran.out.contains("the lock-out guard was off (--force)"),
        "{}",
        ran.all()
    );
    assert_eq!(world.run(&["status", "--json"]).json()[0]["forced"], true);
    let text = world.run(&["status"]).ok().out;
    assert!(
        text.contains("nic: applied with --force, the lock-out guard was off"),
        "{text}"
    );
}

/// Proves C6: `--force` at a first apply, from the session itself, which goes on.
#[test]
fn a_forced_apply_says_what_it_risks() {
    let world = World::new();
    let ssh = Ssh::new(&world);
    let ran = ssh.run(&format!(
        "{} && echo still here",
        ssh.sgctl(&format!("{MINIMAL} --force"))
    ));
    assert_eq!(ran.code, 0, "{}", ran.all());
    for words in [
        "lock-out guard: off, although your connection from 192.0.2.2 (tcp 22",
        "would go on, but a new one would be dropped: no inbound rule accepts it",
        "the lock-out guard was off (--force)",
        "still here",
    ] {
        assert!(ran.out.contains(words), "`{words}` is not in {}", ran.all());
    }
}

/// Proves C6: `run` refuses at its start, and at a reload keeps the policy in force and says so.
#[test]
fn a_run_does_not_lock_its_operator_out() {
    let world = World::new();
    let ssh = Ssh::new(&world);
    let ran = ssh.run(&ssh.sgctl("run builtin:tke-minimal --iface nic"));
    assert_eq!(ran.code, 1, "{}", ran.all());
    assert!(
        ran.err.contains("refused, for it would lock you out"),
        "{}",
        ran.all()
    );
    world.assert_untouched();

    let policy = |port: u16| {
        format!(
            "name: p{port}\ninbound: [{{protocol: tcp, ports: {port}, from: any, action: accept}}]\n"
        )
    };
    let path = file(world.dir.path(), "policy.yaml", &policy(22));
    let script = format!(
        "exec {}",
        ssh.sgctl(&format!("run {path} --iface nic --interval 3600"))
    );
    let mut running = Running::of(&mut ssh.command(&script));
    running.says("applied p22");
    file(world.dir.path(), "policy.yaml", &policy(23));
    running.says("reload failed: generation 1 stays in force");
    assert_eq!(
        world.run(&["status", "--json"]).ok().json()[0]["policy"]["name"],
        "p22"
    );
    // A policy that keeps the operator's connection is put in force.
    file(
        world.dir.path(),
        "policy.yaml",
        &policy(22).replace("from: any", "from: 192.0.2.0/24"),
    );
    running.says("reloaded p22");
    let _ = running.child.kill();
    let mut said = String::new();
    if let Some(mut err) = running.child.stderr.take() {
        let _ = err.read_to_string(&mut said);
    }
    let _ = running.child.wait();
    assert!(said.contains("would lock you out"), "{said}");
}

/// Proves C6: without a connection of the session through this interface, the guard says that it
/// has nothing to say: on a console, in a job, and where the connection comes in elsewhere.
#[test]
fn elsewhere_the_guard_has_nothing_to_say() {
    let world = World::new();
    let said = "lock-out guard: nothing to say, no connection of this session comes in by ";
    let mut job = world.command(&["apply", "builtin:tke-minimal", "--iface", "nic"]);
    job.env_remove("SSH_CONNECTION");
    let ran = Ran::of(&job.output().expect("sgctl starts")).ok();
    assert!(ran.out.contains(&format!("{said}nic\n")), "{}", ran.all());
    assert_eq!(
        run(&[
            "--netns",
            &world.node,
            "--bpffs",
            &world.bpffs.display().to_string(),
            "detach"
        ])
        .code,
        0
    );

    let ssh = Ssh::new(&world);
    world.add_pair("other", "far");
    let ran = ssh.run(&ssh.sgctl("apply builtin:tke-minimal --iface other"));
    assert_eq!(ran.code, 0, "{}", ran.all());
    assert!(ran.out.contains(&format!("{said}other\n")), "{}", ran.all());
}

/// Proves C6: a policy that drops what its own guard names is refused by `check`, `apply` and
/// `run`, with the packet.
#[test]
fn what_the_guard_of_a_policy_names_stays_reachable() {
    let world = World::new();
    let text = "guard:\n  - {protocol: tcp, ports: 22, from: 192.0.2.0/24}\n\
                inbound:\n  - {protocol: tcp, ports: 22, from: 192.0.2.0/25, action: accept}\n";
    let path = file(world.dir.path(), "guarded.yaml", text);
    let message = "guarded.yaml:2:5: error: the guard names `tcp 22 from 192.0.2.0/24`, of which no \
                   inbound rule accepts tcp 22 from 192.0.2.";
    let checked = run(&["check", &path]);
    assert_eq!(checked.code, 1, "{}", checked.all());
    assert!(checked.out.contains(message), "{}", checked.all());
    let checked = run(&["check", &path, "--json"]).json();
    assert_eq!(
        (&checked["valid"], &checked["errors"][0]["code"]),
        (&false.into(), &"guard".into())
    );
    for command in ["apply", "run"] {
        let ran = world.run(&[command, &path, "--iface", "nic"]);
        assert_eq!(ran.code, 1, "{}", ran.all());
        assert!(ran.err.contains(message), "{}", ran.all());
        world.assert_untouched();
    }
    let json = world.run(&["apply", &path, "--iface", "nic", "--json"]);
    assert_eq!(
        (json.code, &json.json()["errors"][0]["code"]),
        (1, &"guard".into())
    );
    let dry = world
        .run(&["apply", &path, "--iface", "nic", "--dry-run"])
        .ok();
    assert!(
        dry.out.contains("would be refused: the guard names"),
        "{}",
        dry.all()
    );
    world
        .run(&["apply", &path, "--iface", "nic", "--force"])
        .ok();
    // What is accepted whole is no hindrance.
    let whole = file(
        world.dir.path(),
        "guarded.yaml",
        &text.replace("/25", "/24"),
    );
    assert_eq!(run(&["check", &whole]).code, 0);
    world.run(&["apply", &whole, "--iface", "nic"]).ok();
    // Nor does a way back lead around it.
    let generation =
        || world.run(&["status", "--json"]).ok().json()[0]["policy"]["generation"].clone();
    let before = generation();
    let refused = world.run(&["rollback", "--iface", "nic"]);
    let refused = refused.fails(1, "the guard names `tcp 22 from 192.0.2.0/24`");
    assert!(refused.err.contains("--force"), "{}", refused.err);
    assert_eq!(generation(), before);
    world.run(&["rollback", "--iface", "nic", "--force"]).ok();
    assert_ne!(generation(), before);
}

/// Proves C6 and C9: the guard of a policy whose drops pass because they are audited refuses
/// nothing, and says what would be dropped once it is enforced: with `--audit`, and with `audit` on
/// the rule.
#[test]
fn the_guard_of_an_audited_policy_says_what_enforcing_it_would_drop() {
    let world = World::new();
    let guard = "guard:\n  - {protocol: tcp, ports: 22, from: 192.0.2.0/24}\n";
    let accepts = "  - {protocol: tcp, ports: 22, from: 192.0.2.0/25, action: accept}\n";
    let none = file(
        world.dir.path(),
        "none.yaml",
        &format!("{guard}inbound:\n{accepts}"),
    );
    let message = "the guard names `tcp 22 from 192.0.2.0/24`, of which no inbound rule accepts tcp 22 \
                   from 192.0.2.";
    let once = "it passes, for that is audited, and is dropped once it is enforced";
    let applied = world
        .run(&["apply", &none, "--iface", "nic", "--audit"])
        .ok();
    let line = applied.out.lines().find(|line| line.contains(message));
    let line = line.unwrap_or_else(|| panic!("{}", applied.all()));
    assert!(
        line.starts_with("  guard: ") && line.ends_with(once),
        "{line}"
    );
    // What is enforced is refused as before, by the same words.
    let refused = world.run(&["apply", &none, "--iface", "nic"]);
    assert_eq!(refused.code, 1, "{}", refused.all());
    assert!(
        refused.err.contains(message) && !refused.err.contains(once),
        "{}",
        refused.all()
    );
    let dry = ["apply", &none, "--iface", "nic", "--dry-run", "--json"];
    for (audit, refusals, findings) in [(None, 1, 0), (Some("--audit=all"), 0, 1)] {
        let words = [&dry[..], audit.as_slice()].concat();
        let shown = world.run(&words).ok().json();
        let of_guard = |list: &serde_json::Value| {
            let list = list.as_array().expect("a list");
            list.iter().filter(|it| it["code"] == "guard").count()
        };
        assert_eq!(of_guard(&shown["refusals"]), refusals, "{shown}");
        assert_eq!(of_guard(&shown["findings"]), findings, "{shown}");
    }
    world.run(&["detach"]).ok();

    let rule = file(
        world.dir.path(),
        "rule.yaml",
        &format!(
            "{guard}inbound:\n{accepts}  - {{protocol: all, from: any, action: drop, audit: true}}\n"
        ),
    );
    let would = "of which inbound rule 2 of rule (all from any) would drop tcp 22 from 192.0.2.";
    let checked = run(&["check", &rule]);
    assert_eq!(checked.code, 0, "{}", checked.all());
    assert!(
        checked.out.contains(would) && checked.out.contains(once),
        "{}",
        checked.all()
    );
    assert_eq!(run(&["check", &rule, "--strict"]).code, 1);
    let running = Running::start(&world, &[&rule]);
    running.says("applied rule on nic");
    let line = running.line("guard: ");
    assert!(line.contains(would) && line.contains(once), "{line}");
    running.end(Signal::SIGTERM);
}

/// Proves C5: `--dry-run` says what would be done and leaves the kernel and the pins as they are.
#[test]
fn a_dry_run_changes_nothing() {
    let world = World::new();
    let dry = world
        .run(&["apply", "builtin:tke", "--iface", "nic", "--dry-run"])
        .ok();
    assert!(
        dry.out
            .starts_with("dry run: would attach tke to nic, generation 1\n"),
        "{}",
        dry.all()
    );
    assert!(
        dry.out
            .contains("  would cut no connection: at a first attachment"),
        "{}",
        dry.all()
    );
    world.assert_untouched();
    world.run(&["apply", "builtin:tke", "--iface", "nic"]).ok();
    let before = (world.pins(), world.run(&["status", "--json"]).ok().out);
    let same = world
        .run(&["apply", "builtin:tke", "--iface", "nic", "--dry-run"])
        .ok();
    assert_eq!(
        same.out.lines().next(),
        Some("dry run: tke is in force on nic already")
    );
    let other = world
        .run(&[
            "apply",
            "builtin:tke-minimal",
            "--iface",
            "nic",
            "--dry-run",
            "--json",
        ])
        .ok();
    let shown = other.json();
    assert_eq!(
        (&shown["dry_run"], &shown["replaced"], &shown["generation"]),
        (&true.into(), &true.into(), &2.into())
    );
    assert_eq!(
        (world.pins(), world.run(&["status", "--json"]).ok().out),
        before
    );
    let none = world.run(&[
        "apply",
        "builtin:tke",
        "--iface",
        "none",
        "--dry-run",
        "--json",
    ]);
    assert_eq!(
        (none.code, &none.json()["errors"][0]["code"]),
        (1, &"no-interface".into())
    );
}
