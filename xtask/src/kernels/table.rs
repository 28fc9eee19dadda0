//! The table of kernels: what the tests found out about each, as Markdown.
//! Rows come in the order in which the tests print them.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};

use super::{
    binaries::{Binaries, FACTS},
    protocol,
};
use crate::{
    root::{self, Way},
    shell,
    term::{self, Colour},
};

const DOCUMENT: &str = "docs/kernels.md";
const BEGIN: &str = "<!-- begin: written by `cargo xtask test --kernels --write-table` -->\n";
const END: &str = "<!-- end -->\n";

/// What was found out about one kernel.
pub(super) struct Column {
    pub(super) is_emulated: bool,
    pub(super) facts: Vec<(String, String)>,
}

/// The kernel that this machine runs, if we may ask it.
pub(super) fn host_column(binaries: &Binaries) -> Result<Option<Column>> {
    let mut command = match root::way() {
        Way::Already => Command::new(&binaries.kernel),
        Way::Sudo(sudo) => {
            let mut command = Command::new(sudo);
            command.arg(&binaries.kernel);
            command
        }
        Way::Closed => {
            let line = "without root this machine's own kernel has no column in the table";
            term::say(Colour::Yellow, "note", line);
            return Ok(None);
        }
    };
    let output = shell::read(command.args(["--exact", FACTS, "--show-output"]))?;
    let facts: Vec<_> = output.lines().filter_map(protocol::fact).collect();
    if facts.is_empty() {
        bail!("{FACTS} printed no figures");
    }
    Ok(Some(Column {
        is_emulated: false,
        facts,
    }))
}

/// Prints the table, and writes it to the documentation if that is wanted.
pub(super) fn publish(columns: &[Column], workspace: &Path, write: bool) -> Result<()> {
    let table = markdown(columns);
    println!("{table}");
    if write {
        let file = workspace.join(DOCUMENT);
        let text =
            fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let text = with_table(&text, &table)
            .with_context(|| format!("{DOCUMENT} has no place for the table"))?;
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        term::say(Colour::Green, "wrote", DOCUMENT);
    }
    Ok(())
}

fn markdown(columns: &[Column]) -> String {
    let mut keys: Vec<&str> = Vec::new();
    for (key, _) in columns.iter().flat_map(|column| &column.facts) {
        if !keys.contains(&key.as_str()) {
            keys.push(key);
        }
    }
    let values: Vec<BTreeMap<&str, &str>> = columns
        .iter()
        .map(|column| column.facts.iter().map(|(k, v)| (&**k, &**v)).collect())
        .collect();
    let mut table = String::new();
    for (n, key) in keys.iter().enumerate() {
        let _ = write!(table, "| {key} |");
        for (column, values) in columns.iter().zip(&values) {
            let value = values.get(key).unwrap_or(&"–");
            let how = match (n, column.is_emulated) {
                (0, true) => ", emulated",
                (0, false) => ", not emulated",
                _ => "",
            };
            let _ = write!(table, " {value}{how} |");
        }
        table.push('\n');
        if n == 0 {
            table += &"|---".repeat(columns.len() + 1);
            table += "|\n";
        }
    }
    table
}

fn with_table(text: &str, table: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}{table}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(is_emulated: bool, facts: &[(&str, &str)]) -> Column {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        Column {
            is_emulated,
            facts: facts.iter().map(owned).collect(),
        }
    }

    #[test]
    fn a_kernel_is_a_column_and_a_fact_a_row() {
        let columns = [
            column(
                true,
                &[("Linux", "6.1"), ("hook", "clsact"), ("virtio", "yes")],
            ),
            column(false, &[("Linux", "6.18"), ("hook", "tcx")]),
        ];
        let expected = "| Linux | 6.1, emulated | 6.18, not emulated |
|---|---|---|
| hook | clsact | tcx |
| virtio | yes | – |
";
        assert_eq!(markdown(&columns), expected);
    }

    #[test]
    fn the_table_is_replaced_and_the_rest_stays() {
        let document = |table: &str| format!("before\n{BEGIN}{table}{END}after\n");
        let new = with_table(&document("old\n"), "new\n");
        assert_eq!(new.as_deref(), Some(&*document("new\n")));
        assert_eq!(with_table("no marks", "new\n"), None);
    }
}
