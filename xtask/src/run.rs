//! `cargo xtask run`: builds sgctl, then becomes it, as root.
//! With an interface it enforces a policy there; with none it shows the throw-away lab.

use std::{
    env,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    build,
    root::{self, NotPermitted, Way},
    setup::{self, Needs},
    shell,
    term::{self, Colour},
};

/// The policy that is enforced when none is named.
const POLICY: &str = "builtin:tke";

/// Build sgctl and run it as root: the lab, or a policy on an interface
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Enforce on this interface instead of showing the lab
    #[arg(long, value_name = "IF")]
    iface: Option<String>,

    /// Policies (with --iface: `builtin:tke` when none is named), then options for sgctl
    #[arg(
        value_name = "ARGS",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    args: Vec<String>,
}

pub(crate) fn command(args: Args) -> Result<()> {
    let words = words(args);
    // What is missing is told before the build, which would be for nothing.
    let way = root::way();
    if way == Way::Closed {
        return Err(no_rights());
    }
    if words[0] == "lab" {
        setup::ensure(Needs::Tools)?;
    }
    let binary = build::binary(true)?;

    let mut command = as_root(&binary, &words, &way)?;
    term::say(Colour::Cyan, "$", shell::describe(&command));
    // In place of this process, so that Ctrl-C and the exit code are its own.
    let error = command.exec();
    Err(error).with_context(|| format!("cannot start {}", binary.display()))
}

/// The command line of sgctl. A policy comes before options, or there is none.
fn words(Args { iface, args }: Args) -> Vec<String> {
    let names_interface = |word: &String| word == "--iface" || word.starts_with("--iface=");
    let mut words = Vec::new();
    if iface.is_none() && !args.iter().any(names_interface) {
        words.push("lab".to_owned());
        words.extend(args);
        return words;
    }

    words.push("run".to_owned());
    if let Some(iface) = iface {
        words.extend(["--iface".to_owned(), iface]);
    }
    let names_policy = |word: &String| word == "-" || !word.starts_with('-');
    if !args.first().is_some_and(names_policy) {
        words.push(POLICY.to_owned());
    }
    words.extend(args);
    words
}

fn as_root(binary: &Path, words: &[String], way: &Way) -> Result<Command> {
    let mut command = match way {
        Way::Already => Command::new(binary),
        Way::Sudo(sudo) => {
            let mut command = Command::new(sudo);
            command.arg(binary);
            command
        }
        Way::Closed => return Err(no_rights()),
    };
    command.args(words);
    Ok(command)
}

fn no_rights() -> anyhow::Error {
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    let binary = target.join("release/sgctl");
    NotPermitted(format!(
        "loading programs into the kernel needs root, and there is no sudo\n\
         run this command as root; or run `cargo xtask build`, then {} in a shell that has\n\
         CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON and CAP_SYS_ADMIN",
        binary.display()
    ))
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::typed::typed;

    fn check(line: &str, expected: &str) {
        assert_eq!(words(typed(line)).join(" "), expected, "{line}");
    }

    #[test]
    fn without_an_interface_it_is_the_lab() {
        check("", "lab");
        check("my.yaml", "lab my.yaml");
        check("my.yaml --json", "lab my.yaml --json");
        check("--json", "lab --json");
        check("-- --help", "lab --help");
    }

    #[test]
    fn with_an_interface_it_enforces() {
        check("--iface eth0", "run --iface eth0 builtin:tke");
        check("--iface=eth0 my.yaml", "run --iface eth0 my.yaml");
        check(
            "--iface eth0 a.yaml b.yaml --set k=v",
            "run --iface eth0 a.yaml b.yaml --set k=v",
        );
        check(
            "--iface eth0 --set k=v",
            "run --iface eth0 builtin:tke --set k=v",
        );
        check("--iface eth0 -", "run --iface eth0 -");
        check(
            "--iface eth0 -- --persist",
            "run --iface eth0 builtin:tke --persist",
        );
    }

    #[test]
    fn the_interface_may_come_last() {
        check("my.yaml --iface eth0", "run my.yaml --iface eth0");
        check("my.yaml --iface=eth0", "run my.yaml --iface=eth0");
        check(
            "--persist --iface eth0",
            "run builtin:tke --persist --iface eth0",
        );
    }

    #[test]
    fn only_the_binary_runs_through_sudo() {
        let line = |way| {
            as_root(Path::new("t/sgctl"), &["lab".to_owned()], &way)
                .map(|command| shell::describe(&command))
        };
        assert_eq!(line(Way::Already).unwrap(), "t/sgctl lab");
        let sudo = Way::Sudo(PathBuf::from("/usr/bin/sudo"));
        assert_eq!(line(sudo).unwrap(), "/usr/bin/sudo t/sgctl lab");
        assert!(line(Way::Closed).unwrap_err().is::<NotPermitted>());
    }
}
