//! The rows as a table: on the terminal, and in the document about performance.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::statistics::Record;

const COLUMNS: usize = 8;
const HEADER: [&str; COLUMNS] = [
    "name", "value", "unit", "aim", "min", "max", "floor", "nftables",
];

/// The two tables: what packets cost live, and everything else.
fn tables(records: &[Record]) -> impl Iterator<Item = (&'static str, Vec<&Record>)> {
    let (live, other): (Vec<_>, Vec<_>) = records
        .iter()
        .filter(|record| !record.is_detail)
        .partition(|record| record.name.starts_with("live/"));
    [
        ("Packets over a veth pair", live),
        ("Code, loading, memory", other),
    ]
    .into_iter()
    .filter(|(_, rows)| !rows.is_empty())
}

/// Prints the tables; with colours only where somebody sees them.
pub(crate) fn print(records: &[Record]) {
    for (index, (_, table)) in tables(records).enumerate() {
        if index > 0 {
            println!();
        }
        print_table(&table, records);
    }
}

fn print_table(table: &[&Record], records: &[Record]) {
    let paint = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let coloured = |code: &str, text: String| match paint {
        true => format!("\x1b[{code}m{text}\x1b[0m"),
        false => text,
    };
    let rows: Vec<[String; COLUMNS]> = table.iter().map(|record| cells(record, records)).collect();
    let mut widths = HEADER.map(str::len);
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |row: &[String; COLUMNS]| {
        let mut text = String::new();
        for (index, (cell, width)) in row.iter().zip(widths).enumerate() {
            // Names and units read from the left, figures from the right.
            let _ = match index {
                0 | 2 => write!(text, "{cell:<width$}  "),
                _ => write!(text, "{cell:>width$}  "),
            };
        }
        text
    };
    println!("{}note", coloured("1", line(&HEADER.map(str::to_owned))));
    for (record, row) in table.iter().zip(&rows) {
        let code = match record.value {
            Some(_) => "0",
            None => "33",
        };
        println!(
            "{}{}",
            coloured(code, line(row)),
            coloured("2", record.note.clone())
        );
    }
}

fn cells(record: &Record, all: &[Record]) -> [String; COLUMNS] {
    let figure = |value| figure(value, &record.unit);
    [
        record.name.clone(),
        figure(record.value),
        record.unit.clone(),
        match record.aim {
            Some(aim) => format!("≤ {aim}"),
            None => String::new(),
        },
        figure(record.min),
        figure(record.max),
        figure(record.floor),
        compared(record, all).map_or_else(String::new, |ratio| format!("×{ratio:.1}")),
    ]
}

/// As many digits as mean something.
fn figure(value: Option<f64>, unit: &str) -> String {
    match (value, unit) {
        (None, _) => String::new(),
        (Some(value), "s") => format!("{value:.3}"),
        (Some(value), "insns" | "bytes") => format!("{value:.0}"),
        (Some(value), _) => format!("{value:.1}"),
    }
}

/// How many times as much of the receiving core nftables took for the same, floor and all.
fn compared(record: &Record, all: &[Record]) -> Option<f64> {
    let of_nftables = record.name.replacen("live/", "live/nft/", 1);
    let other = all
        .iter()
        .find(|other| other.name == of_nftables && other.name != record.name)?;
    let whole = |record: &Record| Some(record.value? + record.floor?);
    Some(whole(other)? / whole(record)?)
}

const BEGIN: &str = "<!-- rows: begin -->";
const END: &str = "<!-- rows: end -->";

/// Puts the rows between the document's two marks.
pub(crate) fn write_doc(path: &Path, command: &str, records: &[Record]) -> Result<()> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let parts = text.split_once(BEGIN).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(END)?;
        Some((before, after))
    });
    let (before, after) = parts.with_context(|| {
        format!(
            "{} has no line `{BEGIN}` and behind it `{END}`: put them where the rows belong",
            path.display()
        )
    })?;
    let rows = document(command, records);
    let text = format!("{before}{BEGIN}\n{rows}{END}{after}");
    std::fs::write(path, text).with_context(|| path.display().to_string())
}

/// Where it was measured, and the rows as a table in Markdown.
fn document(command: &str, records: &[Record]) -> String {
    let mut text = format!("Made by `{command}` on {}.\n", machine());
    for (title, table) in tables(records) {
        let _ = write!(
            text,
            "\n### {title}\n\n| {} | note |\n|---|--:|---|--:|--:|--:|--:|--:|---|\n",
            HEADER.join(" | ")
        );
        for record in table {
            let [name, rest @ ..] = cells(record, records);
            let _ = writeln!(
                text,
                "| `{name}` | {} | {} |",
                rest.join(" | "),
                record.note
            );
        }
    }
    text
}

/// Processor, cores and kernel.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let processors = read("/proc/cpuinfo");
    let model = processors
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("an unknown processor", |rest| {
        rest.trim_start_matches([' ', '\t', ':'])
    });
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let release = read("/proc/sys/kernel/osrelease");
    format!("{model}, {cores} cores, Linux {}", release.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> [Record; 2] {
        [
            Record::of("live/tke/drop", "ns", &[10.0], Some(80.0)),
            Record::of("live/nft/tke/drop", "ns", &[370.0], Some(80.0)).noted("best form"),
        ]
    }

    #[test]
    fn rows_are_compared_with_nftables_floor_and_all() {
        let rows = rows();
        assert_eq!(compared(&rows[0], &rows), Some(5.0));
        assert_eq!(compared(&rows[1], &rows), None);
    }

    #[test]
    fn the_document_is_rewritten_between_its_marks_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("doc.md");
        std::fs::write(&path, format!("# a\n{BEGIN}\nold\n{END}\nb\n")).unwrap();
        write_doc(&path, "cargo xtask bench", &rows()).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with(&format!("# a\n{BEGIN}\nMade by `cargo xtask bench` on ")),
            "{text}"
        );
        assert!(
            text.contains(
                "| `live/tke/drop` | 10.0 | ns | ≤ 10 | 10.0 | 10.0 | 80.0 | ×5.0 |  |\n"
            ),
            "{text}"
        );
        assert!(
            text.ends_with(&format!("| best form |\n{END}\nb\n")),
            "{text}"
        );

        std::fs::write(&path, "no marks").unwrap();
        let error = write_doc(&path, "", &[]).unwrap_err().to_string();
        assert!(error.contains("has no line"), "{error}");
    }
}
