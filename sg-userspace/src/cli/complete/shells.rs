//! The scripts that ask. Those of bash and zsh are our own: bash splits words at `=` and `:`, which
//! stand in the middle of ours, and a file that zsh loads when it is first needed has to answer
//! that first time too.

use std::ffi::OsString;
use std::io::{Error, Write};
use std::path::Path;

use clap::Command;
use clap_complete::Shell;
use clap_complete::env::{Bash, Elvish, EnvCompleter, Fish, Powershell, Shells, Zsh};

/// A script sets it to the name of its shell when it asks.
pub(super) const VARIABLE: &str = "SGCTL_COMPLETE";

/// The shells that have a script.
pub(super) const SHELLS: Shells<'static> = Shells(&[
    &Own {
        shell: Bash,
        script: bash,
    },
    &Elvish,
    &Fish,
    &Powershell,
    &Own {
        shell: Zsh,
        script: zsh,
    },
]);

/// The command as the scripts call it.
const SGCTL: &str = "sgctl";

/// The script of a shell.
pub(in crate::cli) fn script(shell: Shell) -> Result<Vec<u8>, Error> {
    let name = shell.to_string();
    let completer = SHELLS
        .completer(&name)
        .ok_or_else(|| Error::other(format!("there is no script for {name}")))?;
    let mut script = Vec::new();
    completer.write_registration(VARIABLE, SGCTL, SGCTL, SGCTL, &mut script)?;
    Ok(script)
}

/// A shell whose script is our own. Its answers are those of clap.
struct Own<S> {
    shell: S,
    script: fn(&Asked<'_>, &mut dyn Write) -> Result<(), Error>,
}

/// What a script is written with: the variable that it sets, and how the command is called, found
/// and asked.
struct Asked<'a> {
    variable: &'a str,
    name: &'a str,
    bin: &'a str,
    completer: &'a str,
}

impl<S: EnvCompleter> EnvCompleter for Own<S> {
    fn name(&self) -> &'static str {
        self.shell.name()
    }

    fn is(&self, name: &str) -> bool {
        self.shell.is(name)
    }

    fn write_registration(
        &self,
        variable: &str,
        name: &str,
        bin: &str,
        completer: &str,
        out: &mut dyn Write,
    ) -> Result<(), Error> {
        let asked = Asked {
            variable,
            name,
            bin,
            completer,
        };
        (self.script)(&asked, out)
    }

    fn write_complete(
        &self,
        command: &mut Command,
        words: Vec<OsString>,
        folder: Option<&Path>,
        out: &mut dyn Write,
    ) -> Result<(), Error> {
        self.shell.write_complete(command, words, folder, out)
    }
}

/// Takes the line up to the cursor apart again: words that touch are one. What bash would keep of
/// the last word is cut off the replies.
const BASH: &str = r#"_sgctl() {
    local line=${COMP_LINE:0:COMP_POINT} words=() word blank i
    for ((i = 0; i <= COMP_CWORD; i++)); do
        blank=${line%%[![:space:]]*}
        line=${line#"$blank"}
        word=${COMP_WORDS[i]}
        ((i < COMP_CWORD)) || word=$line
        line=${line#"$word"}
        if [[ -n $blank || i -eq 0 ]]; then
            words+=("$word")
        else
            words[${#words[@]}-1]+=$word
        fi
    done
    local current=${words[${#words[@]}-1]} kept=
    if [[ $current == *"$2" ]]; then
        kept=${current%"$2"}
    fi
    mapfile -t COMPREPLY < <(VARIABLE=bash _CLAP_COMPLETE_INDEX=$((${#words[@]} - 1)) \
        sgctl -- "${words[@]}" 2> /dev/null)
    COMPREPLY=("${COMPREPLY[@]#"$kept"}")
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=/:] ]]; then
        compopt -o nospace
    fi
}
complete -o nosort -F _sgctl sgctl
"#;

fn bash(asked: &Asked<'_>, out: &mut dyn Write) -> Result<(), Error> {
    out.write_all(BASH.replace("VARIABLE", asked.variable).as_bytes())
}

fn zsh(asked: &Asked<'_>, out: &mut dyn Write) -> Result<(), Error> {
    let Asked {
        variable,
        name,
        bin,
        completer,
    } = asked;
    Zsh.write_registration(variable, name, bin, completer, out)?;
    // In a folder of `fpath` the file is the body of the function `_sgctl`.
    writeln!(
        out,
        "if [[ ${{funcstack[1]}} == _{name} ]]; then\n    _clap_dynamic_completer_{name} \"$@\"\nfi"
    )
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn every_shell_has_a_script_that_asks() {
        for shell in Shell::value_variants() {
            let script = String::from_utf8(script(*shell).unwrap()).unwrap();
            assert!(script.contains(VARIABLE), "{shell}: {script}");
            assert!(script.ends_with('\n'), "{shell}: {script}");
        }
    }
}
