//! The packet path's own log, for development: records of aya-log from programs that were loaded
//! with a log level. Without one the verifier has removed all logging.

use std::sync::Mutex;

use aya_log::EbpfLogger;

use sg_common::program::Target;
use sg_common::verdict::Direction;

use super::attached::Attached;
use crate::kernel::{KernelError, targets};

/// The level at which every record of the packet path is written (`aya_log::Level::Trace`).
pub const TRACE: u8 = 5;

/// Reads the records of one generation's programs.
pub struct PacketTrace {
    generation: u32,
    reader: EbpfLogger<Lines>,
}

/// Collects records as lines.
struct Lines(&'static Mutex<Vec<String>>);

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

impl log::Log for Lines {
    fn enabled(&self, _metadata: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if let Ok(mut lines) = self.0.lock() {
            lines.push(record.args().to_string());
        }
    }

    fn flush(&self) {}
}

impl PacketTrace {
    /// Opens the log of the programs that `attached` runs. All of them write to one ring. It is
    /// found by a tail-call target, because with this log level the attached programs pass every
    /// packet on to those.
    pub fn open(attached: &Attached) -> Result<Self, KernelError> {
        let state = attached.state()?;
        let (generation, number) = (state.policy.generation, state.number());
        let target = (Direction::Inbound, Target::Slow);
        let program = targets::program_id(&attached.pins, target.0, number, target.1).ok_or(
            KernelError::MissingPin {
                what: format!(
                    "opening {}",
                    attached.pins.targets(target.0, number).display()
                ),
            },
        )?;
        let reader = EbpfLogger::init_from_id_with_logger(program, Lines(&LINES))
            .map_err(|e| KernelError::bpf("opening the packet path's log", e))?;
        Ok(PacketTrace { generation, reader })
    }

    /// The generation whose log this is. Another generation has another ring.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The lines since the last call.
    pub fn drain(&mut self) -> Vec<String> {
        self.reader.flush();
        LINES
            .lock()
            .map(|mut lines| std::mem::take(&mut *lines))
            .unwrap_or_default()
    }
}
