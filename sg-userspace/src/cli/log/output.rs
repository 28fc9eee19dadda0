//! Writes a capture so that a file ends with a whole block and can be read, also where the disk is
//! full.

use std::fs::File;
use std::io::{self, Write as _};

/// How many bytes are kept in memory before they are written.
const KEPT: usize = 64 << 10;

enum To {
    Stdout,
    File(File),
}

/// Where a capture is written, block by block.
pub(super) struct Output {
    to: To,
    /// The blocks that are not written yet, and where each ends.
    kept: Vec<u8>,
    ends: Vec<usize>,
    /// How many bytes are written: whole blocks.
    written: u64,
}

impl Output {
    pub(super) fn stdout() -> Output {
        Output::new(To::Stdout)
    }

    /// To a file that is empty.
    pub(super) fn file(file: File) -> Output {
        Output::new(To::File(file))
    }

    fn new(to: To) -> Output {
        Output {
            to,
            kept: Vec::new(),
            ends: Vec::new(),
            written: 0,
        }
    }

    /// Takes a block, which `block` appends. Returns how many bytes it has.
    pub(super) fn block(
        &mut self,
        block: impl FnOnce(&mut Vec<u8>) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let length = block(&mut self.kept)?;
        self.ends.push(self.kept.len());
        if self.kept.len() >= KEPT {
            self.flush()?;
        }
        Ok(length)
    }

    /// Writes what is kept.
    ///
    /// # Errors
    /// When not all of it can be written. A file then ends with the last block that is whole.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let kept = std::mem::take(&mut self.kept);
        let ends = std::mem::take(&mut self.ends);
        let (written, result) = match &mut self.to {
            To::Stdout => {
                let mut out = io::stdout().lock();
                (0, out.write_all(&kept).and_then(|()| out.flush()))
            }
            To::File(file) => write_all(file, &kept),
        };
        if result.is_err()
            && let To::File(file) = &self.to
        {
            let whole = ends.iter().rev().find(|end| **end <= written);
            // A named pipe has no end that could be cut off.
            let _ = file.set_len(self.written + whole.copied().unwrap_or(0) as u64);
        }
        self.written += kept.len() as u64;
        result
    }
}

/// Writes all of it. Returns how much was written, also if that failed.
fn write_all(file: &mut File, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while written < bytes.len() {
        match file.write(&bytes[written..]) {
            Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
            Ok(more) => written += more,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return (written, Err(e)),
        }
    }
    (written, Ok(()))
}
