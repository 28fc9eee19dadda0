//! Writes a capture so that a file ends with a whole block and can be read, also where the disk is
//! full.

use std::fs::File;
use std::io::{self, Write as _};

/// So much is kept before it is written.
const KEPT: usize = 64 << 10;

enum To {
    Stdout,
    File(File),
}

pub(super) struct Output {
    to: To,
    /// What is not written yet, and where its blocks end.
    kept: Vec<u8>,
    ends: Vec<usize>,
    /// How much is written.
    whole: u64,
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
            whole: 0,
        }
    }

    /// Takes a block. Returns how long it is.
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

    /// Hands on what is kept.
    ///
    /// # Errors
    /// A file then ends with the last block that is whole.
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
            // A pipe has no end that could be cut off.
            let _ = file.set_len(self.whole + whole.copied().unwrap_or(0) as u64);
        }
        self.whole += kept.len() as u64;
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
