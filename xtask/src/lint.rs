//! `cargo xtask lint`: format, clippy for the host and for the BPF target, documentation, who
//! imports whom, links between pages, and what comes from elsewhere. Runs every step even after one
//! has failed, and sums them up.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use crate::{
    dependencies::{self, Ending},
    imports, links,
    setup::{self, Needs},
    shell,
    term::{self, Colour},
    test_binaries::HOST_CRATES,
    troubleshooting,
};

/// Check format, clippy (host and BPF target), documentation, imports, links and dependencies
#[derive(clap::Args)]
#[command(after_help = "\
A step whose tool is not here is left out, and says so: licences and advisories without cargo-deny, the oldest
compiler without that toolchain.

Examples:
  cargo xtask lint
  cargo xtask lint --dependencies   # installs what takes minutes to build, and looks at dependencies only")]
pub(crate) struct Args {
    /// Install the tools that look at dependencies, also those that take minutes to build, and
    /// run only their steps
    #[arg(long)]
    dependencies: bool,
}

struct Step {
    name: &'static str,
    command: Command,
}

struct Outcome {
    name: &'static str,
    time: Duration,
    ending: Result<Ending>,
}

pub(crate) fn command(args: &Args) -> Result<()> {
    setup::ensure(Needs::Build)?;
    dependencies::ensure(args.dependencies);

    let workspace = shell::workspace()?;
    let mut outcomes = Vec::new();
    if !args.dependencies {
        let steps = steps(&workspace, &setup::toolchain());
        outcomes.extend(steps.into_iter().map(run));
        outcomes.push(outcome("imports", || {
            imports::check(&workspace).map(|()| Ending::Done)
        }));
        outcomes.push(outcome("links", || {
            links::check(&workspace).map(|()| Ending::Done)
        }));
        outcomes.push(outcome("troubleshooting", || {
            troubleshooting::check(&workspace).map(|()| Ending::Done)
        }));
    }
    outcomes.extend(look_at_dependencies(&workspace));

    let failed = outcomes.iter().filter(|step| step.ending.is_err()).count();
    for Outcome { name, time, ending } in &outcomes {
        let (colour, label, why) = match ending {
            Ok(Ending::Done) => (Colour::Green, "ok", None),
            Ok(Ending::LeftOut(why)) => (Colour::Yellow, "left out", Some(why)),
            Err(_) => (Colour::Red, "failed", None),
        };
        let why = why.map_or_else(String::new, |why| format!(": {why}"));
        let line = format!("{:>6.1} s  {name}{why}", time.as_secs_f64());
        term::say(colour, label, line);
    }
    if failed > 0 {
        bail!(
            "{failed} of {} lint steps failed, see above",
            outcomes.len()
        );
    }
    Ok(())
}

fn run(mut step: Step) -> Outcome {
    outcome(step.name, || {
        shell::run(&mut step.command).map(|()| Ending::Done)
    })
}

fn look_at_dependencies(workspace: &Path) -> [Outcome; 4] {
    let step = |name, step: fn(&Path) -> Result<Ending>| outcome(name, || step(workspace));
    [
        step("unused dependencies", dependencies::unused),
        step("licences and sources", dependencies::allowed),
        step("advisories", dependencies::advisories),
        step("oldest compiler", dependencies::oldest_compiler),
    ]
}

fn outcome(name: &'static str, step: impl FnOnce() -> Result<Ending>) -> Outcome {
    let started = Instant::now();
    let ending = step();
    if let Err(error) = &ending {
        term::error(error);
    }
    Outcome {
        name,
        time: started.elapsed(),
        ending,
    }
}

fn steps(workspace: &Path, toolchain: &str) -> Vec<Step> {
    let cargo = |args: &[&str]| {
        let mut command = shell::cargo(workspace);
        command.args(args);
        command
    };

    // Only the nightly rustfmt wraps comments, as rustfmt.toml says.
    let mut format = if setup::has_rustfmt(toolchain) {
        shell::of_toolchain(toolchain, "cargo")
    } else {
        term::say(
            Colour::Yellow,
            "note",
            format!("{toolchain} has no rustfmt: comments are not checked for their width"),
        );
        shell::cargo(workspace)
    };
    format
        .current_dir(workspace)
        .args(["fmt", "--all", "--check"]);
    let mut host = cargo(&["clippy", "--all-targets"]);
    host.args(HOST_CRATES).args(["--", "-D", "warnings"]);
    let mut bpf = shell::of_toolchain(toolchain, "cargo");
    bpf.current_dir(workspace)
        .args([
            "clippy",
            "--package",
            "sg-ebpf",
            "--package",
            "sg-bench-ebpf",
        ])
        .args(["--target", BPF_TARGET])
        .args(["-Z", "build-std=core", "--", "-D", "warnings"]);
    let mut documentation = cargo(&["doc", "--no-deps"]);
    documentation
        .args(["--package", "sg-common", "--package", "sg-policy"])
        .args(["--package", "sg-userspace"])
        .env("RUSTDOCFLAGS", "-D warnings");

    [
        ("format", format),
        ("clippy, host", host),
        ("clippy, BPF target", bpf),
        ("documentation", documentation),
    ]
    .map(|(name, command)| Step { name, command })
    .into()
}

/// BPF programs have the byte order of the machine.
const BPF_TARGET: &str = if cfg!(target_endian = "big") {
    "bpfeb-unknown-none"
} else {
    "bpfel-unknown-none"
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_errors_in_every_step() {
        let mut lines: Vec<_> = steps(Path::new("."), "nightly")
            .iter()
            .map(|step| shell::describe(&step.command))
            .collect();
        // Whose rustfmt it is depends on what is installed.
        lines[0] = lines[0].replace("rustup run nightly ", "");
        assert_eq!(
            lines,
            [
                "cargo fmt --all --check".to_owned(),
                "cargo clippy --all-targets --workspace --exclude sg-ebpf \
                 --exclude sg-bench-ebpf -- -D warnings"
                    .to_owned(),
                format!(
                    "rustup run nightly cargo clippy --package sg-ebpf \
                     --package sg-bench-ebpf --target {BPF_TARGET} \
                     -Z build-std=core -- -D warnings"
                ),
                "RUSTDOCFLAGS='-D warnings' cargo doc --no-deps \
                 --package sg-common --package sg-policy --package sg-userspace"
                    .to_owned(),
            ]
        );
    }
}
