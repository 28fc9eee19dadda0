//! The table of docs/kubernetes.md about what is on the wires, which the tests hold against what
//! they see, and a policy of that page.

use std::path::Path;

/// A row: the access, what is on N1's and N2's wire, whom the server sees.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) access: String,
    pub(super) expected: [String; 3],
}

fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/kubernetes.md");
    std::fs::read_to_string(path).expect("the page is there")
}

/// The rows of the table below the heading about the wire.
pub(super) fn rows() -> Vec<Row> {
    let page = page();
    let (_, section) = page
        .split_once("\n## What is on the wire of a node\n")
        .expect("the section is there");
    let (section, _) = section.split_once("\n## ").expect("another one follows");
    let (_, table) = section.split_once("\n| access |").expect("its table");
    let lines = table.lines().skip(2);
    lines
        .take_while(|line| line.starts_with("| "))
        .map(row)
        .collect()
}

fn row(line: &str) -> Row {
    let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
    let [access, n1, n2, sees] = cells[..] else {
        panic!("four cells are expected in {line}");
    };
    Row {
        access: access.to_owned(),
        // What is set in bold is what surprises.
        expected: [n1, n2, sees].map(|cell| cell.replace("**", "")),
    }
}

/// The policy of this name among the page's examples.
pub(super) fn policy(name: &str) -> String {
    let page = page();
    let first = format!("name: {name}\n");
    let mut examples = page.split("```yaml\n").skip(1);
    let found = examples.find(|it| it.starts_with(&first));
    let found = found.unwrap_or_else(|| panic!("the page has no policy {name}"));
    let (policy, _) = found.split_once("```").expect("an example ends");
    policy.to_owned()
}
