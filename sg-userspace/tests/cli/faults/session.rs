//! A `run` that goes on in the background while a test acts on it.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::run::lines_of;
use crate::world::Ran;

/// The bound for every wait, generous because the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) struct Session {
    child: Child,
    lines: Receiver<String>,
    errors: Option<JoinHandle<String>>,
    said: String,
}

impl Session {
    pub(super) fn start(mut command: Command) -> Session {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("sgctl starts");
        let mut errors = child.stderr.take().expect("standard error is piped");
        Session {
            lines: lines_of(child.stdout.take().expect("standard output is piped")),
            errors: Some(std::thread::spawn(move || {
                let mut text = String::new();
                let _ = errors.read_to_string(&mut text);
                text
            })),
            child,
            said: String::new(),
        }
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the next line that contains one of these words.
    pub(super) fn wait_for(&mut self, words: &[&str]) -> Result<String, String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.said.push_str(&line);
                    self.said.push('\n');
                    if words.iter().any(|words| line.contains(words)) {
                        return Ok(line);
                    }
                }
                Err(RecvTimeoutError::Timeout) => return Err(format!("it does not say {words:?}")),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(format!("it has ended and not said {words:?}"));
                }
            }
        }
    }

    /// Sends SIGTERM and waits for the end.
    pub(super) fn end(mut self) -> Result<Ran, String> {
        // The process may have ended already, so an error is ignored.
        let _ = kill(
            Pid::from_raw(self.child.id().cast_signed()),
            Signal::SIGTERM,
        );
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait().map_err(|e| e.to_string())?.is_none() {
            if Instant::now() > deadline {
                return Err(format!("it does not end: {}", self.kill().all()));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(self.ran())
    }

    pub(super) fn kill(mut self) -> Ran {
        let _ = self.child.kill();
        self.ran()
    }

    fn ran(&mut self) -> Ran {
        let status = self.child.wait();
        let errors = self.errors.take().map(JoinHandle::join);
        for line in self.lines.iter() {
            self.said.push_str(&line);
            self.said.push('\n');
        }
        Ran {
            code: status.ok().and_then(|status| status.code()).unwrap_or(-1),
            out: std::mem::take(&mut self.said),
            err: errors.and_then(Result::ok).unwrap_or_default(),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // The child is still running only if the test has failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
