//! The line that packets are measured on: a generator on one core sends into a veth pair, and a
//! kernel thread of the receiving end, on the other core, is all that runs there. What a packet
//! costs is that thread's processor time. Outbound packets are received ones that are sent on by a
//! second interface: the same thread runs its tc egress hook.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions, TcAttachType};
use aya::programs::xdp::{XdpLink, XdpMode};
use aya::programs::{LinkOrder, SchedClassifier, TestRun as _, TestRunAttrs, TestRunOptions, Xdp};
use sg_testbed::{Mount, Namespace, mounts, set_sysctl};

use crate::cores::{self, Cores};
use crate::object::{Turn, Writer};
use crate::windows::{self, Patience, Tally};

/// Frames of one batch: the generator's system call checks for signals after each.
const BATCH: u32 = 128;

/// A fresh network namespace, and the view of it under /sys, for the rest of this thread.
pub(crate) struct World {
    sys: Mount,
    _folder: tempfile::TempDir,
}

impl World {
    pub(crate) fn enter() -> Result<Self> {
        Namespace::enter_new().context("making a network namespace")?;
        mounts::make_private().context("making mounts private")?;
        let folder = tempfile::tempdir().context("a folder for /sys")?;
        Ok(World {
            sys: Mount::sysfs(folder.path()).context("mounting the namespace's /sys")?,
            _folder: folder,
        })
    }

    fn interface(&self, name: &str) -> PathBuf {
        self.sys.path().join("class/net").join(name)
    }

    fn index(&self, name: &str) -> Result<u32> {
        let path = self.interface(name).join("ifindex");
        Ok(fs::read_to_string(&path)
            .with_context(|| path.display().to_string())?
            .trim()
            .parse()?)
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
        // The thread that receives is found by its name, which has the first nine letters of the
        // interface's.
        let id = std::process::id();
        let (sender, receiver) = (format!("t{id}{letter}"), format!("r{id}{letter}"));
        let mac = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
        let address = format!("address {}", mac(crate::frames::RECEIVER_MAC));
        add_pair(&sender, &receiver, &address)?;
        // The driver then has a receive queue of its own, which a thread can serve.
        run("ethtool", &format!("-K {receiver} gro on"))?;
        for end in [&sender, &receiver] {
            ip(&format!("link set {end} up"))?;
        }
        let threaded = world.interface(&receiver).join("threaded");
        fs::write(&threaded, "1").with_context(|| {
            format!(
                "{}: the kernel has no threaded receive queues (Linux 5.12)",
                threaded.display()
            )
        })?;
        let thread = find_thread(&receiver)?;
        cores::pin(thread, cores.receiver).context("pinning the receiving thread")?;

        Ok(Rig {
            cores,
            patience: patience.clone(),
            sender_index: world.index(&sender)?,
            packets: world.interface(&receiver).join("statistics/rx_packets"),
            receiver,
            thread,
            link: None,
        })
    }

    /// Has everything that the driver's program passes leave by `exit`.
    pub(crate) fn send_on(&self, exit: &Exit, turn: &mut Turn) -> Result<()> {
        turn.program()?
            .attach(&self.receiver, TcAttachType::Ingress)
            .with_context(|| format!("sending on by {}", exit.interface))?;
        Ok(())
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

    /// A window, after a shorter one that brings code and tables into the caches.
    pub(crate) fn warm_window(
        &self,
        writer: &mut Writer,
        packets: u32,
        tally: &mut Tally,
    ) -> Result<Window> {
        self.send(writer, packets / 4)?;
        windows::measure(self.cores, &self.patience, tally, || {
            self.measure(writer, packets)
        })
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

    /// Packets received, and nanoseconds that the receiving thread has run, as soon as it sleeps.
    fn idle(&self) -> Result<(u64, u64)> {
        let mut last = None;
        loop {
            std::thread::sleep(Duration::from_millis(2));
            let packets = read_number(&self.packets)?;
            // The scheduler adds to this number when the thread goes to sleep, so that it is exact
            // then.
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

/// An interface that received packets are sent on by, with a program at its tc egress hook. What
/// that passes is dropped right behind it, before the driver sees it.
pub(crate) struct Exit {
    interface: String,
    index: u32,
    link: Option<SchedClassifierLink>,
}

impl Exit {
    pub(crate) fn new(world: &World, sink: &mut SchedClassifier) -> Result<Self> {
        let id = std::process::id();
        let (interface, other) = (format!("o{id}"), format!("q{id}"));
        add_pair(&interface, &other, "")?;
        for end in [&interface, &other] {
            ip(&format!("link set {end} up"))?;
        }
        sink.attach(&interface, TcAttachType::Egress)
            .context("attaching the end of outbound packets (tcx, Linux 6.6)")?;
        Ok(Exit {
            index: world.index(&interface)?,
            interface,
            link: None,
        })
    }

    /// For [`Turn::new`].
    pub(crate) fn index(&self) -> u32 {
        self.index
    }

    /// Puts `program` first at the hook, in place of the one that is there.
    pub(crate) fn attach(&mut self, program: &mut SchedClassifier) -> Result<()> {
        let id = match self.link.take() {
            Some(link) => program.attach_to_link(link),
            None => program.attach_with_options(
                &self.interface,
                TcAttachType::Egress,
                TcAttachOptions::TcxOrder(LinkOrder::first()),
            ),
        };
        let id = id.context("attaching to the tc egress hook")?;
        self.link = Some(program.take_link(id)?);
        Ok(())
    }
}

impl Drop for Exit {
    fn drop(&mut self) {
        let _ = ip(&format!("link del {}", self.interface));
    }
}

/// A veth pair that nothing but the benchmark's packets pass; `more` says more of the second end.
fn add_pair(one: &str, other: &str, more: &str) -> Result<()> {
    ip(&format!(
        "link add {one} numtxqueues 1 numrxqueues 1 type veth peer name {other} {more} \
         numtxqueues 1 numrxqueues 1"
    ))?;
    for end in [one, other] {
        set_sysctl(&format!("net/ipv6/conf/{end}/disable_ipv6"), "1")?;
    }
    Ok(())
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

/// A network namespace with one interface, and a BPF file system of its own.
pub(crate) struct BareNode {
    // Unmounted before its folder is removed.
    bpffs: Mount,
    _folder: tempfile::TempDir,
    _world: World,
}

impl BareNode {
    pub(crate) fn enter(interface: &str) -> Result<Self> {
        let world = World::enter()?;
        run(
            "ip",
            &format!("link add {interface} type veth peer name bench1"),
        )?;
        run("ip", &format!("link set {interface} up"))?;
        let folder = tempfile::tempdir().context("a folder for the BPF file system")?;
        Ok(BareNode {
            bpffs: Mount::bpffs(folder.path()).context("mounting a BPF file system")?,
            _folder: folder,
            _world: world,
        })
    }

    pub(crate) fn bpffs(&self) -> &Path {
        self.bpffs.path()
    }
}

/// Runs a program with the words of a line as its arguments.
pub(crate) fn run(program: &str, words: &str) -> Result<()> {
    read(program, words).map(drop)
}

/// Runs a program as [`run`] does, and returns what it printed.
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
