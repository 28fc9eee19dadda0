//! `cargo xtask test --kubernetes`: the programs of a cluster, which are built once and kept below
//! `target`, and the tests of `sg-userspace/tests/cli/cluster` with them.

mod programs;

use std::{path::Path, process::Command, time::Instant};

use anyhow::Result;

use crate::{
    files,
    setup::{self, Needs},
    shell,
    term::{self, Colour},
    test_binaries::{HOST_CRATES, PROFILE, run_as_root, way_to_root},
};

/// Tells the tests where the programs are.
const PROGRAMS: &str = "SG_KUBERNETES";

pub(crate) fn command(options: &[String]) -> Result<()> {
    let started = Instant::now();
    let way = way_to_root()?;
    setup::ensure(Needs::Kubernetes)?;
    let workspace = shell::workspace()?;
    let folder = workspace.join("target/kubernetes");
    files::make_folder(&folder)?;
    let programs = programs::ready(&folder)?;

    let mut command = tests(&workspace, &programs, options);
    run_as_root(&mut command, &way)?;
    shell::run(&mut command)?;
    let seconds = started.elapsed().as_secs_f64();
    let line = format!(
        "a cluster's services under every policy, the manifests and a rollout ({seconds:.0} s)"
    );
    term::say(Colour::Green, "passed", line);
    Ok(())
}

/// The tests one after the other: each has a cluster of its own.
fn tests(workspace: &Path, programs: &Path, options: &[String]) -> Command {
    let mut command = shell::cargo(workspace);
    command
        .arg("test")
        .args(HOST_CRATES)
        .args(["--test", "cli"]);
    command.args(["--profile", PROFILE, "--", "cluster::"]);
    command.args(["--include-ignored", "--nocapture", "--test-threads=1"]);
    command.args(options).env(PROGRAMS, programs);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tests_are_told_where_the_programs_are() {
        let options = ["--exact".to_owned()];
        let command = super::tests(Path::new("."), Path::new("/t/bin"), &options);
        assert_eq!(
            shell::describe(&command),
            "SG_KUBERNETES=/t/bin cargo test --workspace --exclude sg-ebpf --exclude sg-bench-ebpf --test cli --profile test -- \
             cluster:: --include-ignored --nocapture --test-threads=1 --exact"
        );
    }
}
