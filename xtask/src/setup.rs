//! `cargo xtask setup`: finds what the eBPF build and the tests need, and installs what is
//! missing. What it cannot install it says how to install by hand, all of it at once.

mod apt;
mod crates;
mod linker;
mod sources;
mod step;
mod toolchain;
mod tools;

pub(crate) use apt::Apt;
pub(crate) use crates::{ensure_book, ensure_fuzz};
pub(crate) use step::Needs;
pub(crate) use toolchain::{ensure_target, has_rustfmt, name as toolchain};
pub(crate) use tools::test_programs;

use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::shell;
use crate::term::{self, Colour};
use crate::toolchains;
use step::{Found, Missing};

/// Find or install what the build and the tests need
#[derive(clap::Args)]
pub(crate) struct Args {}

pub(crate) fn command(_: &Args) -> Result<()> {
    ensure(Needs::Tools)
}

pub(crate) fn ensure(needs: Needs) -> Result<()> {
    let started = Instant::now();
    let mut apt = Apt::default();
    let mut steps = Vec::new();

    match toolchain::step() {
        Ok((found, rustc)) => {
            let stable = toolchain::of_the_host();
            if let Some(line) = toolchains::differences(stable.as_ref(), &rustc) {
                term::say(Colour::Yellow, "note", line);
            }
            steps.push(Ok(found));
            steps.push(linker::step(&mut apt, &rustc.1));
        }
        // Which LLVM the linker must have is known only with a compiler.
        Err(missing) => steps.push(Err(missing)),
    }
    if needs != Needs::Build {
        steps.push(tools::step(&mut apt, needs));
    }
    report(steps, started)
}

/// Installs the filter that the benchmarks compare with, if it is not here. Without it its rows
/// are left out.
pub(crate) fn ensure_peer() {
    const PROGRAM: &str = "xdp-filter";
    if shell::which(PROGRAM).is_some() {
        return;
    }
    let line = format!("{PROGRAM} is not here: it is measured beside ours");
    term::say(Colour::Yellow, "setup", line);
    if let Err(error) = Apt::default().install(&["xdp-tools".to_owned()]) {
        let line = format!("its rows will be left out: {error:#}");
        term::say(Colour::Yellow, "note", line);
    }
}

/// Installs what runs binaries of another processor.
pub(crate) fn ensure_emulator(program: &str) -> Result<()> {
    if shell::which(program).is_some() {
        return Ok(());
    }
    let line = format!("{program} is not here: it runs binaries of another processor");
    term::say(Colour::Yellow, "setup", line);
    Apt::default()
        .install(&["qemu-user".to_owned()])
        .with_context(|| format!("install {program}, which Debian has in its package qemu-user"))
}

/// One line when all is there; otherwise one block for each missing thing.
fn report(steps: Vec<Result<Found, Missing>>, started: Instant) -> Result<()> {
    let mut found = Vec::new();
    let mut missing = 0;
    for step in steps {
        match step {
            Ok(step) => found.push(step),
            Err(step) => {
                missing += 1;
                step.print();
            }
        }
    }
    if missing > 0 {
        bail!("the set-up is not complete: do the above, then run `cargo xtask setup` again");
    }

    let label = if found.iter().any(|step| step.installed) {
        "set up"
    } else {
        "ready"
    };
    let texts: Vec<_> = found.into_iter().map(|step| step.text).collect();
    let seconds = started.elapsed().as_secs_f64();
    term::say(
        Colour::Green,
        label,
        format!("{} ({seconds:.1} s)", texts.join(", ")),
    );
    Ok(())
}
