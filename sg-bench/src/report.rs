//! The table: a line for each row, figures aligned.

use crate::statistics::Record;

pub(crate) fn print(records: &[Record]) {
    let width = records
        .iter()
        .map(|record| record.name.len())
        .max()
        .unwrap_or(0);
    println!(
        "{:width$}  {:>9} {:>9} {:>9} {:>9} {:5} {:>4}  note",
        "name", "value", "min", "max", "floor", "unit", "runs"
    );
    for record in records {
        println!(
            "{:width$}  {} {} {} {} {:5} {:>4}  {}",
            record.name,
            figure(record.value),
            figure(record.min),
            figure(record.max),
            figure(record.floor),
            record.unit,
            record.runs,
            record.note
        );
    }
}

fn figure(value: Option<f64>) -> String {
    match value {
        Some(value) => format!("{value:>9.1}"),
        None => format!("{:>9}", "-"),
    }
}
