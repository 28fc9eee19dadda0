//! The line that packets are measured on: a generator on one core sends into a veth pair, and a
//! kernel thread of the receiving end, on the other core, is all that runs there. What a packet
//! costs is that thread's processor time.

use std::cell::Cell;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use aya::programs::tc::TcAttachType;
use aya::programs::xdp::{XdpLink, XdpMode};
use aya::programs::{SchedClassifier, TestRun as _, TestRunAttrs, TestRunOptions, Xdp};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::cores::{self, Cores};
use crate::object::Writer;
use crate::statistics::median;

/// Frames that the generator's system call sends between two looks at signals.
const BATCH: u32 = 128;

/// Cache lines that take longer come from another complex of cores, in nanoseconds.
const FAR: f64 = 90.0;

/// A fresh network namespace, and the view of it under /sys, for the rest of this thread.
pub(crate) struct World {
    sys: tempfile::TempDir,
}

impl World {
    pub(crate) fn enter() -> Result<Self> {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
            .context("making a network namespace")?;
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
            .context("making mounts private")?;
        let sys = tempfile::tempdir().context("a folder for /sys")?;
        mount(
            Some("sysfs"),
            sys.path(),
            Some("sysfs"),
            MsFlags::empty(),
            none,
        )
        .context("mounting the namespace's /sys")?;
        Ok(World { sys })
    }

    fn interface(&self, name: &str) -> PathBuf {
        self.sys.path().join("class/net").join(name)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.sys.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

/// How many more far windows are thrown away before all are kept: there are machines whose cores
/// are never near, and a run has to end there too. Shared by all rigs of a run.
#[derive(Clone)]
pub(crate) struct Patience(Rc<Cell<u32>>);

impl Patience {
    pub(crate) fn new(windows: u32) -> Self {
        Patience(Rc::new(Cell::new(windows)))
    }

    /// False when it is at an end.
    fn take(&self) -> bool {
        let left = self.0.get();
        self.0.set(left.saturating_sub(1));
        left > 0
    }
}

/// A veth pair with a receiving thread.
pub(crate) struct Rig {
    cores: Cores,
    patience: Patience,
    receiver: String,
    sender_index: u32,
    packets: PathBuf,
    thread: i32,
    link: Option<XdpLink>,
}

/// Windows that were measured, and those that were thrown away.
#[derive(Clone, Default)]
pub(crate) struct Tally {
    /// Nanoseconds that a cache line took from core to core, beside the windows that count.
    pub(crate) distances: Vec<f64>,
    pub(crate) far: u32,
    /// Measured while the cores were far apart, because they would not come closer.
    pub(crate) kept_far: u32,
}

impl Tally {
    pub(crate) fn describe(&self) -> String {
        let near = format!("cores {:.0} ns apart", median(&self.distances));
        match (self.far, self.kept_far) {
            (0, 0) => near,
            (far, 0) => format!("{near}, {far} far windows thrown away"),
            (far, kept) => format!("{near}, {far} far windows thrown away, {kept} kept"),
        }
    }
}

/// What one window measured.
#[derive(Clone, Copy)]
pub(crate) struct Window {
    /// Processor time of the receiving thread for each packet.
    pub(crate) nanoseconds: f64,
    /// Packets a second that were received.
    pub(crate) rate: f64,
}

impl Rig {
    pub(crate) fn new(
        world: &World,
        cores: Cores,
        patience: &Patience,
        letter: &str,
    ) -> Result<Self> {
        // The thread is found by the name of the interface, of which it shows nine letters.
        let id = std::process::id();
        let (sender, receiver) = (format!("t{id}{letter}"), format!("r{id}{letter}"));
        let mac = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
        let words = format!(
            "link add {sender} numtxqueues 1 numrxqueues 1 type veth peer name {receiver} \
             address {} numtxqueues 1 numrxqueues 1",
            mac(crate::frames::RECEIVER_MAC)
        );
        ip(&words)?;
        for end in [&sender, &receiver] {
            let path = format!("/proc/sys/net/ipv6/conf/{end}/disable_ipv6");
            fs::write(&path, "1").with_context(|| path)?;
        }
        // The driver then has a receive queue of its own, which a thread can serve.
        run("ethtool", &format!("-K {receiver} gro on"))?;
        ip(&format!("link set {sender} up"))?;
        ip(&format!("link set {receiver} up"))?;
        let threaded = world.interface(&receiver).join("threaded");
        fs::write(&threaded, "1").with_context(|| {
            format!(
                "{}: the kernel has no threaded receive queues (Linux 5.12)",
                threaded.display()
            )
        })?;
        let thread = find_thread(&receiver)?;
        cores::pin(thread, cores.receiver).context("pinning the receiving thread")?;

        let index = fs::read_to_string(world.interface(&sender).join("ifindex"))?;
        Ok(Rig {
            cores,
            patience: patience.clone(),
            sender_index: index.trim().parse()?,
            packets: world.interface(&receiver).join("statistics/rx_packets"),
            receiver,
            thread,
            link: None,
        })
    }

    /// The index of the interface to send by.
    pub(crate) fn sender(&self) -> u32 {
        self.sender_index
    }

    pub(crate) fn receiver(&self) -> &str {
        &self.receiver
    }

    /// Drops whatever a program of the driver lets pass, before the network stack sees it.
    pub(crate) fn end_in(&self, sink: &mut SchedClassifier) -> Result<()> {
        sink.attach(&self.receiver, TcAttachType::Ingress)
            .context("attaching the sink (tcx, Linux 6.6)")?;
        Ok(())
    }

    /// Puts `program` on the receiving end, in place of the one that is there.
    pub(crate) fn attach(&mut self, program: &mut Xdp) -> Result<()> {
        let id = match self.link.take() {
            Some(link) => program.attach_to_link(link),
            None => program.attach(&self.receiver, XdpMode::Driver),
        };
        let id = id.context("attaching to the receiving end")?;
        self.link = Some(program.take_link(id)?);
        Ok(())
    }

    /// A window, after another one in which code and tables become as warm as they get.
    pub(crate) fn warm_window(
        &self,
        writer: &mut Writer,
        packets: u32,
        tally: &mut Tally,
    ) -> Result<Window> {
        self.send(writer, packets / 4)?;
        self.window(writer, packets, tally)
    }

    /// Sends that many packets, and says what they cost the receiver. Far windows are measured
    /// again, a few times.
    fn window(&self, writer: &mut Writer, packets: u32, tally: &mut Tally) -> Result<Window> {
        const ATTEMPTS: u32 = 24;
        for attempt in 1.. {
            let before = cores::distance(self.cores)?;
            if before > FAR && attempt < ATTEMPTS && self.patience.take() {
                tally.far += 1;
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
            let window = self.measure(writer, packets)?;
            let distance = before.max(cores::distance(self.cores)?);
            let is_far = distance > FAR;
            if is_far && attempt < ATTEMPTS && self.patience.take() {
                tally.far += 1;
                continue;
            }
            tally.kept_far += u32::from(is_far);
            tally.distances.push(distance);
            return Ok(window);
        }
        bail!("no window was measured")
    }

    /// Sends without measuring.
    pub(crate) fn send(&self, writer: &mut Writer, packets: u32) -> Result<()> {
        cores::pin(0, self.cores.sender)?;
        let frame = writer.frame.clone();
        let options = TestRunOptions {
            data_in: Some(&frame),
            repeat: packets,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
            ..TestRunOptions::new()
        };
        writer
            .generator()?
            .test_run(options)
            .context("running the generator")?;
        Ok(())
    }

    fn measure(&self, writer: &mut Writer, packets: u32) -> Result<Window> {
        let (count, time) = self.idle()?;
        let started = std::time::Instant::now();
        self.send(writer, packets)?;
        let seconds = started.elapsed().as_secs_f64();
        let (count_after, time_after) = self.idle()?;
        let received = (count_after - count) as f64;
        if received < f64::from(packets) / 1000.0 {
            bail!(
                "of {packets} packets sent, {received} arrived at {}",
                self.receiver
            );
        }
        Ok(Window {
            nanoseconds: (time_after - time) as f64 / received,
            rate: received / seconds,
        })
    }

    /// Packets received, and nanoseconds that the thread has run, once it has nothing left to do.
    fn idle(&self) -> Result<(u64, u64)> {
        let mut last = None;
        loop {
            std::thread::sleep(Duration::from_millis(2));
            let packets = read_number(&self.packets)?;
            // Exact while the thread sleeps: the scheduler adds a run up when it ends.
            let path = PathBuf::from(format!("/proc/{}/schedstat", self.thread));
            let now = (packets, read_number(&path)?);
            if last == Some(now) {
                return Ok(now);
            }
            last = Some(now);
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = ip(&format!("link del {}", self.receiver));
    }
}

/// The first number of a file.
fn read_number(path: &std::path::Path) -> Result<u64> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let word = text.split_whitespace().next();
    word.and_then(|word| word.parse().ok())
        .with_context(|| format!("{} holds no number", path.display()))
}

/// The kernel thread that serves the receive queue of `interface`.
fn find_thread(interface: &str) -> Result<i32> {
    let begins = format!("napi/{interface}-");
    // The kernel cuts names off at fifteen letters.
    let begins = &begins[..begins.len().min(15)];
    for entry in fs::read_dir("/proc")?.filter_map(Result::ok) {
        let Some(id) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let comm = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if comm.starts_with(begins) {
            return Ok(id);
        }
    }
    bail!("no kernel thread serves {interface}: is /proc that of the machine?")
}

fn ip(words: &str) -> Result<()> {
    run("ip", words)
}

/// Runs a program with the words of a line.
pub(crate) fn run(program: &str, words: &str) -> Result<()> {
    read(program, words).map(drop)
}

/// The same, and what it printed.
pub(crate) fn read(program: &str, words: &str) -> Result<String> {
    let output = Command::new(program)
        .args(words.split_whitespace())
        .output()
        .with_context(|| format!("cannot start {program}; `cargo xtask setup` installs it"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        bail!("`{program} {words}` failed ({})\n{said}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
