//! Other programs: finds them, runs them, shows them as one would type them. The toolchain that
//! cargo chose for the task runner is not forced on those that choose their own.
//!
//! Commands are those of the standard library. A line that is shown is there to be pasted into a
//! shell; xshell, which would shorten some calls, prints neither the variables that are set for a
//! command nor quotes that a shell understands, and does not let a test look at a command.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use cargo_metadata::{Message, Metadata, MetadataCommand};

use crate::term::{self, Colour};

/// Where administration tools live when the PATH of a normal user leaves them out.
const SYSTEM_FOLDERS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// The folder of the workspace.
pub(crate) fn workspace() -> Result<PathBuf> {
    // Asked at run time first: a binary may be shared by several work trees.
    let xtask = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    let root = xtask
        .parent()
        .context("the task runner's package has no parent folder")?;
    Ok(root.to_owned())
}

/// The file of this program. Where a build has replaced it meanwhile, the new one does as well.
pub(crate) fn this_program() -> Result<PathBuf> {
    let this = env::current_exe().context("cannot find this program")?;
    Ok(replacement(this))
}

/// The path without what the kernel adds to that of a file that has no name any more.
fn replacement(path: PathBuf) -> PathBuf {
    let replaced = path.to_str().and_then(|it| it.strip_suffix(" (deleted)"));
    replaced.map(PathBuf::from).unwrap_or(path)
}

/// Cargo in the workspace, with the toolchain that `cargo xtask` was started with.
pub(crate) fn cargo(workspace: &Path) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace);
    command
}

/// Runs cargo, which builds, and returns where it put each executable, by its name: cargo knows
/// best, since the target folder has many ways to move.
pub(crate) fn cargo_executables(
    mut command: Command,
    what_fails: &str,
) -> Result<BTreeMap<String, PathBuf>> {
    term::say(Colour::Cyan, "$", describe(&command));
    let output = command
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    if !output.status.success() {
        bail!("{what_fails} ({}), see above", output.status);
    }
    Ok(executables(&output.stdout))
}

/// The executables among cargo's messages, one JSON object a line.
fn executables(messages: &[u8]) -> BTreeMap<String, PathBuf> {
    Message::parse_stream(messages)
        .filter_map(|message| match message.ok()? {
            Message::CompilerArtifact(artifact) => {
                Some((artifact.target.name, artifact.executable?.into()))
            }
            _ => None,
        })
        .collect()
}

/// What `cargo metadata` says of the workspace.
pub(crate) fn cargo_metadata(workspace: &Path, options: &[&str]) -> Result<Metadata> {
    let mut command = cargo(workspace);
    command
        .args(["metadata", "--format-version", "1"])
        .args(options);
    MetadataCommand::parse(read(&mut command)?).context("cannot read what `cargo metadata` prints")
}

/// A program of another toolchain. Rustup finds it; what cargo set for its own is taken away.
pub(crate) fn of_toolchain(toolchain: &str, program: &str) -> Command {
    let mut command = rustup();
    command.args(["run", toolchain, program]);
    command
}

pub(crate) fn rustup() -> Command {
    let mut command = Command::new("rustup");
    for name in ["RUSTUP_TOOLCHAIN", "CARGO", "RUSTC", "RUSTDOC"] {
        command.env_remove(name);
    }
    command
}

/// Finds a program on the PATH, and in the system folders that it may leave out.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(SYSTEM_FOLDERS.map(PathBuf::from));
    which::which_in(
        program,
        env::join_paths(folders).ok(),
        env::current_dir().ok()?,
    )
    .ok()
}

/// Shows the command, runs it with this terminal, and fails unless it succeeds.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    term::say(Colour::Cyan, "$", describe(command));
    let status = command
        .status()
        .with_context(|| format!("cannot start `{}`", program(command)))?;
    if !status.success() {
        bail!("`{}` failed ({status}), see above", describe(command));
    }
    Ok(())
}

/// What a command prints on standard output; its complaints become the error.
pub(crate) fn read(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start `{}`", program(command)))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        bail!("`{}` failed ({})\n{said}", describe(command), output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn program(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

/// The command as one would type it, with the variables that are set for it.
pub(crate) fn describe(command: &Command) -> String {
    let variables = command
        .get_envs()
        .filter_map(|(name, value)| Some(format!("{}={}", name.to_string_lossy(), quote(value?))));
    // Cargo names itself by its full path, which nobody types.
    let program = Path::new(command.get_program());
    let program = match program.file_name() {
        Some(name) if name == "cargo" => name,
        _ => program.as_os_str(),
    };
    variables
        .chain([quote(program)])
        .chain(command.get_args().map(quote))
        .collect::<Vec<_>>()
        .join(" ")
}

fn quote(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+./:,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_it_is_typed() {
        let mut command = Command::new("/some/where/bin/cargo");
        command
            .args(["test", "--", "two words", "", "it's"])
            .env("A", "x y")
            .env_remove("B");
        assert_eq!(
            describe(&command),
            r"A='x y' cargo test -- 'two words' '' 'it'\''s'"
        );
    }

    #[test]
    fn a_program_that_was_built_anew_is_found() {
        for shown in ["/t/xtask", "/t/xtask (deleted)"] {
            assert_eq!(replacement(shown.into()), Path::new("/t/xtask"));
        }
        assert_eq!(this_program().unwrap(), env::current_exe().unwrap());
    }

    #[test]
    fn other_toolchains_do_not_inherit_ours() {
        let command = of_toolchain("nightly", "rustc");
        assert_eq!(describe(&command), "rustup run nightly rustc");
        assert!(
            command
                .get_envs()
                .any(|(name, value)| name == "RUSTUP_TOOLCHAIN" && value.is_none())
        );
    }

    #[test]
    fn cargo_tells_where_the_binaries_are() {
        let artifact = |name: &str, executable: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","package_id":"p","manifest_path":"/p/Cargo.toml",
                "target":{{"kind":["bin"],"crate_types":["bin"],"name":"{name}","src_path":"/p/m.rs"}},
                "profile":{{"opt_level":"1","debuginfo":0,"debug_assertions":true,
                "overflow_checks":true,"test":false}},
                "features":[],"filenames":[],"executable":{executable},"fresh":true}}"#
            )
            .replace('\n', " ")
        };
        let messages = [
            artifact("sg_userspace", "null"),
            "not json".to_owned(),
            artifact("sgctl", r#""/t/sgctl""#),
            artifact("lab", r#""/t/deps/lab-1""#),
            r#"{"reason":"build-finished","success":true}"#.to_owned(),
        ]
        .join("\n");
        let found = executables(messages.as_bytes());
        assert_eq!(found.len(), 2);
        assert_eq!(found["sgctl"], Path::new("/t/sgctl"));
        assert_eq!(found["lab"], Path::new("/t/deps/lab-1"));
        assert_eq!(executables(b"").len(), 0);
    }

    #[test]
    fn a_missing_program_is_an_error_that_names_it() {
        let error = run(&mut Command::new("no-such-program-anywhere")).unwrap_err();
        assert_eq!(error.to_string(), "cannot start `no-such-program-anywhere`");
        assert_eq!(which("no-such-program-anywhere"), None);
    }

    #[test]
    fn a_failing_command_tells_what_it_said() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo broken >&2; exit 4"]);
        let error = read(&mut command).unwrap_err().to_string();
        assert!(error.ends_with("(exit status: 4)\nbroken"), "{error}");
    }
}
