//! The rows as a table: on the terminal, and in the document about performance.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::feel;
use crate::statistics::{Aim, Record};

/// Rows of the same kind, as text.
struct Table {
    title: &'static str,
    header: Vec<String>,
    rows: Vec<Row>,
}

struct Row {
    /// The name first.
    cells: Vec<String>,
    note: String,
    is_left_out: bool,
}

/// Columns that hold words, and read from the left; all others hold figures.
const WORDS: [&str; 2] = ["name", "unit"];

/// What packets cost live, what connections feel, and everything else.
fn tables(records: &[Record]) -> Vec<Table> {
    let begins = |record: &Record, prefix| record.name.starts_with(prefix);
    let rows = |is_one: &dyn Fn(&Record) -> bool| -> Vec<Row> {
        let rows = records.iter().filter(|r| !r.is_detail && is_one(r));
        rows.map(|record| row(record, records)).collect()
    };
    let titles = |titles: &[&str]| titles.iter().map(|&title| title.to_owned()).collect();
    let header: Vec<String> = titles(&[
        "name", "value", "unit", "aim", "min", "max", "floor", "nftables",
    ]);
    let mut compared: Vec<String> = titles(&["name", feel::BASE, "unit"]);
    compared.extend(feel::compared().map(str::to_owned));
    let tables = [
        Table {
            title: "Packets over a veth pair",
            header: header.clone(),
            rows: rows(&|record| begins(record, "live/")),
        },
        Table {
            title: "What a connection feels",
            header: compared,
            rows: feel_rows(records),
        },
        Table {
            title: "Code, loading, memory",
            header,
            rows: rows(&|record| !begins(record, "live/") && !begins(record, feel::PREFIX)),
        },
        programs(records),
    ];
    let mut tables = Vec::from(tables);
    tables.retain(|table| !table.rows.is_empty());
    tables
}

fn row(record: &Record, all: &[Record]) -> Row {
    let figure = |value| figure(value, &record.unit);
    Row {
        cells: vec![
            record.name.clone(),
            figure(record.value),
            record.unit.clone(),
            aim(record),
            figure(record.min),
            figure(record.max),
            figure(record.floor),
            compared(record, all).map_or_else(String::new, |ratio| format!("×{ratio:.1}")),
        ],
        note: record.note.clone(),
        is_left_out: record.value.is_none(),
    }
}

fn aim(record: &Record) -> String {
    let text = match record.aim {
        None => return String::new(),
        Some(Aim::AtMost(bound)) => format!("≤ {}", figure(Some(bound), &record.unit)),
        Some(Aim::AtLeast(bound)) => format!("≥ {}", figure(Some(bound), &record.unit)),
    };
    match record.misses() {
        true => format!("{text} {MISSED}"),
        false => text,
    }
}

const MISSED: &str = "(missed)";

/// Instructions that the verifier explored: a row for each policy, a column for each program.
fn programs(records: &[Record]) -> Table {
    let mut names: Vec<&str> = Vec::new();
    let mut rows: Vec<(&str, Vec<(&str, &Record)>)> = Vec::new();
    for record in records {
        let Some((row, program)) = record.name.split_once("/verified/") else {
            continue;
        };
        if !names.contains(&program) {
            names.push(program);
        }
        match rows.last_mut() {
            Some((last, cells)) if *last == row => cells.push((program, record)),
            _ => rows.push((row, vec![(program, record)])),
        }
    }
    let cells = |(name, cells): (&str, Vec<(&str, &Record)>)| {
        let mut texts = vec![name.to_owned()];
        texts.extend(names.iter().map(|wanted| {
            let cell = cells.iter().find(|(program, _)| program == wanted);
            cell.map_or_else(String::new, |(_, record)| {
                figure(record.value, &record.unit)
            })
        }));
        Row {
            cells: texts,
            note: String::new(),
            is_left_out: false,
        }
    };
    Table {
        title: "Verified instructions",
        rows: rows.into_iter().map(cells).collect(),
        header: std::iter::once("name")
            .chain(names.iter().copied())
            .map(str::to_owned)
            .collect(),
    }
}

/// One row for each load: what the empty programs allow, and beside it the others' shares of it
/// with their least and greatest.
fn feel_rows(records: &[Record]) -> Vec<Row> {
    let of = |name: &str| records.iter().find(|record| record.name == name);
    let bases = records.iter().filter_map(|record| {
        let load = record.name.strip_suffix(feel::BASE)?.strip_suffix('/')?;
        load.starts_with(feel::PREFIX).then_some((load, record))
    });
    bases
        .map(|(load, base)| {
            let mut cells = vec![
                load.to_owned(),
                figure(base.value, &base.unit),
                base.unit.clone(),
            ];
            cells.extend(feel::compared().map(|contender| {
                let share = of(&format!("{load}/{contender}"));
                share.map(share_cell).unwrap_or_default()
            }));
            Row {
                cells,
                note: base.note.clone(),
                is_left_out: false,
            }
        })
        .collect()
}

fn share_cell(record: &Record) -> String {
    let [value, min, max] =
        [record.value, record.min, record.max].map(|value| figure(value, &record.unit));
    match record.misses() {
        true => format!("{value} ({min}–{max}) {MISSED}"),
        false => format!("{value} ({min}–{max})"),
    }
}

/// Prints the tables; with colours only where somebody sees them.
pub(crate) fn print(records: &[Record]) {
    for (index, table) in tables(records).iter().enumerate() {
        if index > 0 {
            println!();
        }
        print_table(table);
    }
}

fn print_table(table: &Table) {
    let paint = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let coloured = |code: &str, text: String| match paint {
        true => format!("\x1b[{code}m{text}\x1b[0m"),
        false => text,
    };
    let mut widths: Vec<usize> = table.header.iter().map(|title| title.len()).collect();
    for row in &table.rows {
        for (width, cell) in widths.iter_mut().zip(&row.cells) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for ((cell, title), &width) in cells.zip(&table.header).zip(&widths) {
            let _ = match WORDS.contains(&title.as_str()) {
                true => write!(text, "{cell:<width$}  "),
                false => write!(text, "{cell:>width$}  "),
            };
        }
        text
    };
    let header = line(&mut table.header.iter().map(String::as_str));
    println!("{}note", coloured("1", header));
    for row in &table.rows {
        let code = if row.is_left_out { "33" } else { "0" };
        let cells = line(&mut row.cells.iter().map(String::as_str));
        println!(
            "{}{}",
            coloured(code, cells),
            coloured("2", row.note.clone())
        );
    }
}

/// Rounds to the digits that mean something.
fn figure(value: Option<f64>, unit: &str) -> String {
    match (value, unit) {
        (None, _) => String::new(),
        (Some(value), "s") => format!("{value:.3}"),
        (Some(value), feel::RATIO | "Gbit/s") => format!("{value:.2}"),
        (Some(value), unit) if unit.ends_with("s/s") => format!("{value:.0}"),
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
    for table in tables(records) {
        let _ = write!(text, "\n### {}\n\n|", table.title);
        for title in &table.header {
            let _ = write!(text, " {title} |");
        }
        text.push_str(" note |\n|");
        for title in &table.header {
            text.push_str(if WORDS.contains(&title.as_str()) {
                "---|"
            } else {
                "--:|"
            });
        }
        text.push_str("---|\n");
        for row in &table.rows {
            let _ = write!(text, "| `{}` |", row.cells[0]);
            for cell in &row.cells[1..] {
                let _ = write!(text, " {cell} |");
            }
            let _ = writeln!(text, " {} |", row.note);
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

    fn rows() -> [Record; 6] {
        let share = |name, values: &[f64]| Record::of(name, feel::RATIO, values, None);
        let mut rows = [
            Record::of("live/tke/drop", "ns", &[10.0], Some(80.0)),
            Record::of("live/nft/tke/drop", "ns", &[370.0], Some(80.0)).noted("best form"),
            Record::of("feel/rr/wire/empty", "us", &[9.04], None).noted("beside it"),
            share("feel/rr/wire/tke", &[0.97, 0.98, 1.01]),
            share("feel/rr/wire/state", &[0.9, 0.94, 1.0]),
            Record {
                is_detail: true,
                ..share("feel/rr/wire/state/of-nothing", &[0.8])
            },
        ];
        crate::aims::set(&mut rows);
        rows
    }

    #[test]
    fn rows_are_compared_with_nftables_floor_and_all() {
        let rows = rows();
        assert_eq!(compared(&rows[0], &rows), Some(5.0));
        assert_eq!(compared(&rows[1], &rows), None);
    }

    #[test]
    fn programs_are_columns_and_policies_rows() {
        let insns = |name, count| Record::of(name, "insns", &[count], None);
        let table = programs(&[
            insns("code/tke/drop/verified/sg_inbound", 3000.0),
            insns("code/tke/drop/verified/sg_outbound", 3100.0),
            insns("code/tke/drop/jitted/sg_outbound", 9.0),
            insns("code/ipsum/verified/sg_outbound", 3200.0),
        ]);
        assert_eq!(table.header, ["name", "sg_inbound", "sg_outbound"]);
        let rows: Vec<&[String]> = table.rows.iter().map(|row| &row.cells[..]).collect();
        assert_eq!(rows[0], ["code/tke/drop", "3000", "3100"]);
        assert_eq!(rows[1], ["code/ipsum", "", "3200"]);
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
            text.contains("| `live/tke/drop` | 10.0 | ns |  | 10.0 | 10.0 | 80.0 | ×5.0 |  |\n"),
            "{text}"
        );
        assert!(
            text.contains(
                "| name | empty | unit | nothing | tke | state | nft | note |\n\
                 |---|--:|---|--:|--:|--:|--:|---|\n\
                 | `feel/rr/wire` | 9.0 | us |  | 0.98 (0.97–1.01) \
                 | 0.94 (0.90–1.00) (missed) |  | beside it |\n"
            ),
            "{text}"
        );
        assert!(
            text.ends_with(&format!("| beside it |\n{END}\nb\n")),
            "{text}"
        );

        std::fs::write(&path, "no marks").unwrap();
        let error = write_doc(&path, "", &[]).unwrap_err().to_string();
        assert!(error.contains("has no line"), "{error}");
    }
}
