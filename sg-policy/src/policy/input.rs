//! What the command line says: which policies to load, and which sets to replace.

use std::convert::Infallible;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use thiserror::Error;

use super::errors::At;
use super::set_name::is_set_name;
use super::source::Source;

/// Where a policy comes from: `-`, `builtin:NAME`, or a path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PolicyInput {
    /// The file of this path.
    File(PathBuf),
    /// What is read from standard input.
    Stdin,
    /// The [builtin](super::builtin()) of this name.
    Builtin(String),
}

impl From<&str> for PolicyInput {
    fn from(word: &str) -> PolicyInput {
        match (word, word.strip_prefix("builtin:")) {
            ("-", _) => PolicyInput::Stdin,
            (_, Some(name)) => PolicyInput::Builtin(name.to_owned()),
            (path, None) => PolicyInput::File(PathBuf::from(path)),
        }
    }
}

impl FromStr for PolicyInput {
    type Err = Infallible;

    fn from_str(word: &str) -> Result<PolicyInput, Infallible> {
        Ok(PolicyInput::from(word))
    }
}

/// The name that errors and findings use.
impl fmt::Display for PolicyInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PolicyInput::File(path) => write!(f, "{}", path.display()),
            PolicyInput::Stdin => f.write_str("<stdin>"),
            PolicyInput::Builtin(name) => write!(f, "builtin:{name}"),
        }
    }
}

/// `--set NAME=VALUE[,VALUE...]`: replaces the contents of a named set. No value is the empty set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetOverride {
    /// The name of the set.
    pub name: String,
    /// Its literals as they were written; they are checked when the policy is loaded.
    pub values: Vec<String>,
}

/// An argument of `--set` that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SetOverrideError {
    /// The argument has no `=`.
    #[error("`{0}` has no `=`; write NAME=VALUE[,VALUE...], or NAME= for the empty set")]
    NoEquals(String),
    /// What stands before the `=` cannot be the name of a set.
    #[error(
        "`{0}` cannot name a set; a name is a lower-case letter, then letters, digits, `-` and `_`"
    )]
    BadName(String),
    /// There is nothing between two commas, or behind the last one.
    #[error(
        "`{0}` has an empty value; write one literal between commas, or NAME= for the empty set"
    )]
    EmptyValue(String),
}

impl FromStr for SetOverride {
    type Err = SetOverrideError;

    fn from_str(argument: &str) -> Result<SetOverride, SetOverrideError> {
        let (name, values) = argument
            .split_once('=')
            .ok_or_else(|| SetOverrideError::NoEquals(argument.to_owned()))?;
        let name = name.trim();
        if !is_set_name(name) {
            return Err(SetOverrideError::BadName(name.to_owned()));
        }
        let values: Vec<String> = match values.trim() {
            "" => Vec::new(),
            values => values.split(',').map(|v| v.trim().to_owned()).collect(),
        };
        if values.iter().any(String::is_empty) {
            return Err(SetOverrideError::EmptyValue(argument.to_owned()));
        }
        Ok(SetOverride {
            name: name.to_owned(),
            values,
        })
    }
}

impl SetOverride {
    /// The argument as a text that errors can point into.
    pub(crate) fn source(&self) -> Source {
        let text = format!("{}={}", self.name, self.values.join(","));
        Source::of_text("--set", &text)
    }

    /// The place of each value in [`SetOverride::source`].
    pub(crate) fn places(&self) -> impl Iterator<Item = At> {
        let mut start = self.name.len() + 1;
        let mut column = self.name.chars().count() + 2;
        self.values.iter().map(move |value| {
            let at = At {
                line: 1,
                column: column as u32,
                start: start as u32,
                end: (start + value.len()) as u32,
            };
            start += value.len() + 1;
            column += value.chars().count() + 1;
            at
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves P6.
    #[test]
    fn a_set_argument_is_a_name_and_its_values() {
        let of = |text: &str| text.parse::<SetOverride>();
        let set = of("admin=192.0.2.1, 10.0.0.0/8").unwrap();
        assert_eq!(set.name, "admin");
        assert_eq!(set.values, ["192.0.2.1", "10.0.0.0/8"]);
        let columns: Vec<u32> = set.places().map(|at| at.column).collect();
        assert_eq!(columns, [7, 17]);
        assert!(of("admin=").unwrap().values.is_empty());
        assert!(matches!(of("admin"), Err(SetOverrideError::NoEquals(_))));
        assert!(matches!(of("Admin=1"), Err(SetOverrideError::BadName(_))));
        assert!(matches!(of("a=1,,2"), Err(SetOverrideError::EmptyValue(_))));
    }

    #[test]
    fn words_become_inputs() {
        assert_eq!(PolicyInput::from("-"), PolicyInput::Stdin);
        assert_eq!(
            PolicyInput::from("builtin:tke"),
            PolicyInput::Builtin("tke".into())
        );
        assert_eq!(PolicyInput::from("a/b.yaml").to_string(), "a/b.yaml");
    }
}
