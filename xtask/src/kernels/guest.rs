//! Boots one guest and hands over, line by line, what it writes to its second serial port.
//! The first serial port is the kernel's console, which goes to a file.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{emulator::Emulator, image::Image};

/// Several times what it takes on two processors that others use as well.
const TO_BOOT: Duration = Duration::from_secs(60);
const TO_END: Duration = Duration::from_secs(1800);

/// Pairs of network interfaces, each joined by a cable of its own. The tests know them by these
/// addresses: the last two digits are the pair and the end.
const PAIRS: usize = 3;
const ADDRESS: &str = "52:54:00:5e:";

/// Lines of each log that an error quotes.
const LAST_LINES: usize = 12;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Accelerator {
    Kvm,
    None,
}

impl Accelerator {
    /// KVM where this machine's processor lets it work; the device alone does not tell.
    pub(super) fn best() -> Self {
        let is_open = || {
            let kvm = OpenOptions::new().read(true).write(true).open("/dev/kvm");
            kvm.is_ok()
        };
        let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        if virtualizes(&cpus) && is_open() {
            Accelerator::Kvm
        } else {
            Accelerator::None
        }
    }
}

fn virtualizes(cpus: &str) -> bool {
    cpus.lines()
        .filter(|line| line.starts_with("flags"))
        .flat_map(str::split_whitespace)
        .any(|flag| flag == "vmx" || flag == "svm")
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Accelerator::Kvm => "with KVM",
            Accelerator::None => "emulated",
        })
    }
}

/// How a guest came to its end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Ended {
    ByItself,
    OutOfTime(Duration),
}

pub(super) struct Guest<'a> {
    pub(super) emulator: &'a Emulator,
    pub(super) image: &'a Image,
    pub(super) initramfs: &'a Path,
    /// Where the kernel's messages go.
    pub(super) console: &'a Path,
    /// Where the emulator's own messages go.
    pub(super) complaints: &'a Path,
}

/// Ends the emulator with us, however we end.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Guest<'_> {
    pub(super) fn run(
        &self,
        accelerator: Accelerator,
        mut each: impl FnMut(&str),
    ) -> Result<Ended> {
        let _ = fs::remove_file(self.console);
        let complaints = File::create(self.complaints)
            .with_context(|| format!("cannot write {}", self.complaints.display()))?;
        let mut command = self.command(accelerator);
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(complaints)
            .spawn()
            .context("cannot start the emulator")?;
        let mut running = Running(child);
        let port = running
            .0
            .stdout
            .take()
            .context("the emulator has no output")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(port).split(b'\n').map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });

        let started = Instant::now();
        let mut limit = TO_BOOT;
        loop {
            let left = limit.saturating_sub(started.elapsed());
            match lines.recv_timeout(left) {
                Ok(line) => {
                    // The first line says that it has booted.
                    limit = TO_END;
                    each(String::from_utf8_lossy(&line).trim_end());
                }
                Err(RecvTimeoutError::Timeout) => return Ok(Ended::OutOfTime(limit)),
                Err(RecvTimeoutError::Disconnected) => return Ok(Ended::ByItself),
            }
        }
    }

    fn command(&self, accelerator: Accelerator) -> Command {
        let mut command = self.emulator.command();
        match accelerator {
            Accelerator::Kvm => command.args(["-accel", "kvm", "-cpu", "host"]),
            Accelerator::None => command.args(["-accel", "tcg,thread=single"]),
        };
        command
            .args(["-m", "2G", "-smp", "2", "-no-reboot"])
            .args(["-display", "none", "-monitor", "none", "-nic", "none"])
            .arg("-serial")
            .arg(format!("file:{}", self.console.display()))
            .args(["-serial", "stdio"])
            .arg("-kernel")
            .arg(&self.image.vmlinuz)
            .arg("-initrd")
            .arg(self.initramfs)
            .args(["-append", "console=ttyS0 loglevel=5 panic=-1"]);
        for pair in 0..PAIRS {
            for end in 0..2 {
                let id = format!("nic{pair}{end}");
                command
                    .arg("-netdev")
                    .arg(format!("hubport,id={id},hubid={pair}"))
                    .arg("-device")
                    .arg(format!(
                        "virtio-net-pci,netdev={id},mac={ADDRESS}{pair:02x}:{end:02x}"
                    ));
            }
        }
        command
    }

    /// The last lines of what the kernel and the emulator said, for an error.
    pub(super) fn last_words(&self) -> String {
        let files = [self.console, self.complaints].map(|file| {
            let text = fs::read(file).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<_> = text.lines().map(str::trim_end).collect();
            let first = lines.len().saturating_sub(LAST_LINES);
            format!(
                "{} ends with:\n{}",
                file.display(),
                lines[first..].join("\n")
            )
        });
        files.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_says_whether_it_virtualizes() {
        assert!(virtualizes("model : x\nflags\t\t: fpu svm sse\n"));
        assert!(virtualizes("flags : vmx\n"));
        assert!(!virtualizes("flags : fpu svm_lock\nbugs : vmx\n"));
        assert!(!virtualizes(""));
    }

    #[test]
    fn each_pair_of_interfaces_has_a_cable_of_its_own() {
        let image = Image {
            version: "6.1".to_owned(),
            release: "6.1.0".to_owned(),
            vmlinuz: "v".into(),
            modules: "m".into(),
        };
        let guest = Guest {
            emulator: &Emulator::installed("e".into()),
            image: &image,
            initramfs: Path::new("i"),
            console: Path::new("c"),
            complaints: Path::new("e"),
        };
        let line = crate::shell::describe(&guest.command(Accelerator::None));
        for (cable, address) in [
            ("id=nic00,hubid=0", "netdev=nic00,mac=52:54:00:5e:00:00"),
            ("id=nic11,hubid=1", "netdev=nic11,mac=52:54:00:5e:01:01"),
        ] {
            assert!(line.contains(cable) && line.contains(address), "{line}");
        }
    }
}
