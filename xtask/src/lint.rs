//! `cargo xtask lint`: format, clippy for the host and for the BPF target, documentation, and who imports whom.
//! Runs every step even after one has failed, and sums them up.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use crate::{
    imports,
    setup::{self, Needs},
    shell,
    term::{self, Colour},
};

/// Check format, clippy (host and BPF target), documentation and imports
#[derive(clap::Args)]
pub(crate) struct Args {}

struct Step {
    name: &'static str,
    command: Command,
}

struct Outcome {
    name: &'static str,
    time: Duration,
    error: Option<anyhow::Error>,
}

pub(crate) fn command(_: &Args) -> Result<()> {
    setup::ensure(Needs::Build)?;

    let workspace = shell::workspace()?;
    let steps = steps(&workspace, &setup::toolchain());
    let mut outcomes: Vec<_> = steps.into_iter().map(run).collect();
    outcomes.push(look_at_imports(&workspace));

    let failed = outcomes.iter().filter(|step| step.error.is_some()).count();
    for Outcome { name, time, error } in &outcomes {
        let (colour, label) = match error {
            None => (Colour::Green, "ok"),
            Some(_) => (Colour::Red, "failed"),
        };
        let line = format!("{:>6.1} s  {name}", time.as_secs_f64());
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
    outcome(step.name, || shell::run(&mut step.command))
}

fn look_at_imports(workspace: &Path) -> Outcome {
    outcome("imports", || imports::check(workspace))
}

fn outcome(name: &'static str, step: impl FnOnce() -> Result<()>) -> Outcome {
    let started = Instant::now();
    let error = step().err();
    if let Some(error) = &error {
        term::error(error);
    }
    Outcome {
        name,
        time: started.elapsed(),
        error,
    }
}

fn steps(workspace: &Path, toolchain: &str) -> Vec<Step> {
    let cargo = |args: &[&str]| {
        let mut command = shell::cargo(workspace);
        command.args(args);
        command
    };

    let format = cargo(&["fmt", "--all", "--check"]);
    let mut host = cargo(&["clippy", "--workspace", "--all-targets"]);
    host.args(["--exclude", "sg-ebpf", "--exclude", "sg-bench-ebpf"])
        .args(["--", "-D", "warnings"]);
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
        let lines: Vec<_> = steps(Path::new("."), "nightly")
            .iter()
            .map(|step| shell::describe(&step.command))
            .collect();
        assert_eq!(
            lines,
            [
                "cargo fmt --all --check".to_owned(),
                "cargo clippy --workspace --all-targets --exclude sg-ebpf \
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
