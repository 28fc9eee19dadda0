//! The files and commands of a page.
//!
//! - A block that begins with ```` ```yaml NAME ```` or ```` ```sh NAME ```` is a file of that name
//!   in the working directory.
//! - In a block that begins with ```` ```console ````, a line that begins with `# ` or `$ ` is run
//!   on the node, and one that begins with `client$ ` on a host at the other end of the node's
//!   `eth0`. What follows, up to the next command, is what it prints. A line `…` there stands for
//!   any lines.
//! - A line `<!-- test: NAME -->` is something else that the test does there.

/// What begins a command, and whether it is the client's.
const PROMPTS: [(&str, bool); 3] = [("# ", false), ("$ ", false), ("client$ ", true)];

/// What begins a line that only the test reads.
const NOTE: &str = "<!-- test: ";

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// As the page has it, with the prompt.
    pub(crate) line: String,
    pub(crate) is_clients: bool,
    pub(crate) command: String,
    /// The lines of the page that it prints: from, and to.
    pub(crate) shown: (usize, usize),
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Part {
    File {
        name: String,
        text: String,
    },
    Step(Step),
    /// Something else that the test does there.
    Note(String),
}

/// The files and commands of a page, in its order.
pub(crate) fn parts(page: &str) -> Vec<Part> {
    let lines: Vec<&str> = page.lines().collect();
    let mut parts = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let note = lines[at].strip_prefix(NOTE);
        if let Some(note) = note.and_then(|rest| rest.strip_suffix(" -->")) {
            parts.push(Part::Note(note.to_owned()));
        }
        let Some(info) = lines[at].strip_prefix("```") else {
            at += 1;
            continue;
        };
        let from = at + 1;
        let length = lines[from..].iter().position(|line| *line == "```");
        let to = from + length.unwrap_or_else(|| panic!("line {from}: the block does not end"));
        match info.split_once(' ') {
            Some(("yaml" | "sh", name)) => parts.push(Part::File {
                name: name.to_owned(),
                text: lines[from..to].join("\n") + "\n",
            }),
            None if info == "console" => parts.extend(steps(&lines, from, to).map(Part::Step)),
            _ => {}
        }
        at = to + 1;
    }
    parts
}

/// The commands of one block.
fn steps<'a>(lines: &'a [&str], from: usize, to: usize) -> impl Iterator<Item = Step> + 'a {
    let prompt = |line: &str| {
        let mut prompts = PROMPTS.iter();
        prompts.find_map(|(prompt, is_clients)| {
            Some((line.strip_prefix(prompt)?.to_owned(), *is_clients))
        })
    };
    let begins: Vec<usize> = (from..to)
        .filter(|at| prompt(lines[*at]).is_some())
        .collect();
    assert_eq!(
        begins.first(),
        Some(&from),
        "line {from}: a block begins with a command"
    );
    let ends: Vec<usize> = begins.iter().copied().skip(1).chain([to]).collect();
    begins.into_iter().zip(ends).filter_map(move |(at, end)| {
        let (first, is_clients) = prompt(lines[at])?;
        // A command goes on behind a line that ends with a backslash.
        let last = (at..end).find(|line| !lines[*line].ends_with('\\'));
        let last = last.unwrap_or(end - 1);
        let rest = lines[at + 1..=last].iter().map(|line| (*line).to_owned());
        let command: Vec<String> = [first].into_iter().chain(rest).collect();
        Some(Step {
            line: lines[at..=last].join("\n"),
            is_clients,
            command: command.join("\n"),
            shown: (last + 1, end),
        })
    })
}

#[test]
fn a_page_is_read_in_its_order() {
    let page = "text\n<!-- test: look -->\n```yaml web.yaml\nname: web\n```\n```text\n# no command\n```\n\
                ```console\n# sgctl a\none\n\ntwo\nclient$ b \\\n  c\n```\n";
    let step = |line: &str, is_clients, command: &str, shown| {
        Part::Step(Step {
            line: line.to_owned(),
            is_clients,
            command: command.to_owned(),
            shown,
        })
    };
    assert_eq!(
        parts(page),
        [
            Part::Note("look".to_owned()),
            Part::File {
                name: "web.yaml".to_owned(),
                text: "name: web\n".to_owned(),
            },
            step("# sgctl a", false, "sgctl a", (10, 13)),
            step("client$ b \\\n  c", true, "b \\\n  c", (15, 15)),
        ]
    );
}
