//! What is in the directories of pins.

use std::fs;
use std::io;
use std::path::Path;

use crate::kernel::error::KernelError;

/// The names in a directory. Empty if it does not exist.
pub(super) fn names_in(dir: &Path) -> Result<Vec<String>, KernelError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(KernelError::at_pin("reading", dir, e)),
    };
    entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<_>>()
        .map_err(|e| KernelError::at_pin("reading", dir, e))
}

pub(super) fn numbers_in(dir: &Path) -> Result<Vec<u64>, KernelError> {
    Ok(names_in(dir)?
        .iter()
        .filter_map(|name| name.parse().ok())
        .collect())
}

/// The numbers of [`numbers_in`] that are indices of interfaces or numbers of attachments, in
/// order.
pub(super) fn small_numbers_in(dir: &Path) -> Result<Vec<u32>, KernelError> {
    let numbers = numbers_in(dir)?.into_iter();
    let mut numbers: Vec<u32> = numbers.filter_map(|n| u32::try_from(n).ok()).collect();
    numbers.sort_unstable();
    Ok(numbers)
}
