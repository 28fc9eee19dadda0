//! Programs that tests call, in the namespaces of the calling thread. What fails fails the test.

use std::process::Command;

/// Fails the test, with the remedy, where it cannot run.
#[track_caller]
pub fn require_root() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test makes network namespaces and loads BPF programs, which needs root: run it \
         through `cargo xtask test`"
    );
}

/// Runs a program to its end and returns what it has printed.
#[track_caller]
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}; `cargo xtask setup` installs it"));
    assert!(
        output.status.success(),
        "{program} {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs `ip` with these words.
#[track_caller]
pub fn ip(words: &str) -> String {
    let words: Vec<&str> = words.split_whitespace().collect();
    run("ip", &words)
}
