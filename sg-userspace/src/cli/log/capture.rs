//! Writes packets to a capture file, or to several in turns: as events show them, with the verdict
//! of the hook, and with what decided them as a comment.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use sg_common::verdict::{Action, Direction};
use sg_userspace::observe::events::{LoggedPacket, Tally};

use super::output::Output;
use super::pcapng::{self, Packet, Statistics, Verdict};
use crate::cli::event_line::{candidate, decider};
use crate::cli::failure::Failure;
use crate::cli::files;

/// When a file is full and the next one begins.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rotation {
    pub(super) size: Option<u64>,
    pub(super) time: Option<Duration>,
    /// How many files stay.
    pub(super) files: usize,
}

impl Rotation {
    fn is_on(&self) -> bool {
        self.size.is_some() || self.time.is_some()
    }
}

/// What fails, in errors about files.
const WRITING: &str = "writing the capture";

/// A capture that is being written.
pub(super) struct Capture {
    /// `None` for standard output.
    path: Option<PathBuf>,
    /// The interfaces that each file describes from its beginning.
    names: Vec<String>,
    rotation: Rotation,
    /// How many bytes of a packet are written at most.
    snap: u32,
    out: Output,
    /// How many bytes the present file has.
    written: u64,
    /// When it was begun: by a clock that cannot be set, and in nanoseconds since 1970.
    since: Instant,
    begun: u64,
    /// The files that there are, the oldest first, and the number of the newest.
    files: VecDeque<PathBuf>,
    number: usize,
    /// The interfaces that the file describes, by name: their numbers, and how many packets of
    /// each are in it.
    interfaces: BTreeMap<String, (u32, u64)>,
    /// Packets in all files.
    pub(super) packets: u64,
    /// Whether a file is ended and the next one is not begun: it begins with the next packet.
    is_between: bool,
    /// What the statistics of earlier files have said of each interface.
    said: BTreeMap<String, Said>,
}

/// What statistics have said of the events of an interface, all files together.
#[derive(Clone, Copy, Default)]
struct Said {
    produced: u64,
    not_delivered: u64,
}

impl Capture {
    /// Begins a capture of packets of these interfaces, and of others as their packets come.
    pub(super) fn create(
        path: &str,
        snap: u32,
        rotation: Rotation,
        names: &[String],
    ) -> Result<Capture, Failure> {
        let mut capture = Capture {
            path: (path != "-").then(|| PathBuf::from(path)),
            rotation,
            snap,
            names: names.to_vec(),
            out: Output::stdout(),
            written: 0,
            since: Instant::now(),
            begun: now(),
            files: VecDeque::new(),
            number: 0,
            interfaces: BTreeMap::new(),
            packets: 0,
            is_between: false,
            said: BTreeMap::new(),
        };
        if let Some(path) = capture.path.as_ref().filter(|_| rotation.is_on()) {
            let failed = |e| files::not_written(WRITING, path, e);
            if path.file_name().is_none() {
                // `..` has none that could be numbered.
                return Err(failed(io::ErrorKind::IsADirectory.into()).into());
            }
            let earlier = earlier(path).map_err(failed)?;
            capture.number = earlier.last().map_or(0, |(number, _)| *number);
            capture.files = earlier.into_iter().map(|(_, path)| path).collect();
        }
        capture.next_file()?;
        Ok(capture)
    }

    /// Begins the next file, and removes the oldest where there are too many. The head is written
    /// at once, so that the file can be read before a packet has come.
    fn next_file(&mut self) -> Result<(), Failure> {
        self.out = match &self.path {
            None => Output::stdout(),
            Some(path) => {
                self.number += 1;
                let path = match self.rotation.is_on() {
                    true => numbered(path, self.number),
                    false => path.clone(),
                };
                // Only its owner may read it: it has parts of what others have sent.
                let mut options = OpenOptions::new();
                options.write(true).create(true).truncate(true).mode(0o600);
                let opened = options.open(&path);
                let file = opened.map_err(|e| files::not_written(WRITING, &path, e))?;
                self.files.push_back(path);
                Output::file(file)
            }
        };
        self.remove_oldest()?;
        self.interfaces.clear();
        (self.since, self.begun) = (Instant::now(), now());
        self.written = 0;
        self.put(pcapng::section)?;
        for name in self.names.clone() {
            self.describe(&name)?;
        }
        self.flush()
    }

    /// Removes as many of the oldest files as there are too many.
    fn remove_oldest(&mut self) -> Result<(), Failure> {
        if !self.rotation.is_on() {
            return Ok(());
        }
        let too_many = self.files.len().saturating_sub(self.rotation.files.max(1));
        for oldest in self.files.drain(..too_many) {
            match fs::remove_file(&oldest) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    let what = "removing the oldest capture";
                    return Err(files::not_written(what, &oldest, e).into());
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Writes a block.
    fn put(
        &mut self,
        block: impl FnOnce(&mut Vec<u8>) -> io::Result<usize>,
    ) -> Result<(), Failure> {
        let written = self.out.block(block).map_err(|e| self.failed(e))?;
        self.written += written as u64;
        Ok(())
    }

    fn failed(&self, source: io::Error) -> Failure {
        match (source.kind(), self.files.back()) {
            (io::ErrorKind::BrokenPipe, _) => Failure::BrokenPipe,
            (_, Some(path)) => files::not_written(WRITING, path, source).into(),
            (_, None) => Failure::Io {
                what: WRITING,
                source,
            },
        }
    }

    /// Describes an interface in the file. Returns its number.
    fn describe(&mut self, name: &str) -> Result<u32, Failure> {
        let number = self.interfaces.len() as u32;
        let snap = self.snap;
        self.put(|out| pcapng::interface(out, name, snap))?;
        self.interfaces.insert(name.to_owned(), (number, 0));
        Ok(number)
    }

    /// Whether the file is full: then [`Capture::rotate`] is due.
    pub(super) fn is_full(&self) -> bool {
        let has_any = self.interfaces.values().any(|(_, packets)| *packets > 0);
        let is_large = self.rotation.size.is_some_and(|size| self.written >= size);
        let is_old = self
            .rotation
            .time
            .is_some_and(|time| self.since.elapsed() >= time);
        has_any && !self.is_between && (is_large || is_old)
    }

    /// Ends the file with what `tallies` say, but for the packets that they count and that are
    /// `left` for the next files. The next one begins with the next packet.
    pub(super) fn rotate<'a>(
        &mut self,
        tallies: &[Tally],
        left: impl Iterator<Item = &'a LoggedPacket>,
    ) -> Result<(), Failure> {
        let mut by_interface: BTreeMap<&str, u64> = BTreeMap::new();
        for packet in left {
            *by_interface.entry(&packet.interface).or_default() += 1;
        }
        self.statistics(tallies, &by_interface)?;
        self.flush()?;
        self.is_between = true;
        Ok(())
    }

    /// Ends the last file.
    pub(super) fn finish(&mut self, tallies: &[Tally]) -> Result<(), Failure> {
        if !self.is_between {
            self.statistics(tallies, &BTreeMap::new())?;
        }
        self.flush()
    }

    /// Writes what is buffered, so that another program can read it at once.
    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        self.out.flush().map_err(|e| self.failed(e))
    }

    /// The files, for people.
    pub(super) fn names(&self) -> Vec<String> {
        let names = self.files.iter().map(|path| path.display().to_string());
        names.collect()
    }

    /// Writes a packet. After [`Capture::rotate`] it is the first one of the next file.
    pub(super) fn packet(&mut self, packet: &LoggedPacket) -> Result<(), Failure> {
        if std::mem::take(&mut self.is_between) {
            self.next_file()?;
        }
        let name = &packet.interface;
        let interface = match self.interfaces.get(name) {
            Some((number, _)) => *number,
            None => self.describe(name)?,
        };
        if let Some((_, packets)) = self.interfaces.get_mut(name) {
            *packets += 1;
        }
        let head = packet.head_on_the_wire();
        let bytes = &head[..head.len().min(self.snap as usize)];
        let block = Packet {
            interface,
            time: nanoseconds(packet.at),
            bytes,
            len: packet.bytes.max(bytes.len() as u32),
            comment: comment(packet),
            is_inbound: packet.direction == Direction::Inbound,
            queue: packet.queue.into(),
            verdict: verdict(packet),
        };
        self.put(|out| pcapng::packet(out, &block))?;
        self.packets += 1;
        Ok(())
    }

    /// Writes what became of the packets of each interface since the file was begun, and remembers
    /// it. `left` is how many of the counted packets of each are for the next files.
    fn statistics(&mut self, tallies: &[Tally], left: &BTreeMap<&str, u64>) -> Result<(), Failure> {
        let stop = now();
        let mut all = Vec::new();
        for (name, (number, delivered)) in &self.interfaces {
            let mut counted = Said::default();
            for tally in tallies.iter().filter(|tally| tally.interface == *name) {
                counted.produced += tally.produced;
                counted.not_delivered += tally.lost + tally.suppressed;
            }
            let left = left.get(name.as_str()).copied().unwrap_or_default();
            let before = self.said.get(name).copied().unwrap_or_default();
            // Under a flood there may be no tally, and what was said stays said.
            let now = Said {
                produced: counted.produced.saturating_sub(left).max(before.produced),
                not_delivered: counted.not_delivered.max(before.not_delivered),
            };
            self.said.insert(name.clone(), now);
            let statistics = Statistics {
                start: self.begun,
                stop,
                received: now.produced - before.produced,
                dropped: now.not_delivered - before.not_delivered,
                delivered: *delivered,
            };
            all.push((*number, statistics));
        }
        for (number, statistics) in all {
            self.put(|out| pcapng::statistics(out, number, &statistics))?;
        }
        Ok(())
    }
}

/// The present time in nanoseconds since 1970.
fn now() -> u64 {
    nanoseconds(Timestamp::now())
}

fn nanoseconds(at: Timestamp) -> u64 {
    u64::try_from(at.as_nanosecond()).unwrap_or_default()
}

/// The files with numbers that an earlier capture of the same name has left, in their order. They
/// count as this one's own, so that there are never more than were asked for.
fn earlier(path: &Path) -> io::Result<Vec<(usize, PathBuf)>> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let mut all = Vec::new();
    for entry in fs::read_dir(folder.unwrap_or(Path::new(".")))? {
        let name = entry?.file_name();
        let digits = name.to_str().and_then(|name| {
            let (_, rest) = name.rsplit_once('-')?;
            rest.split('.').next()
        });
        let number = digits.and_then(|digits| digits.parse().ok());
        let there = number.map(|number| (number, numbered(path, number)));
        all.extend(there.filter(|(_, path)| path.file_name() == Some(&name)));
    }
    all.sort();
    Ok(all)
}

/// `capture.pcapng` as `capture-00001.pcapng`.
fn numbered(path: &Path, number: usize) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let name = match path.extension() {
        Some(extension) => format!("{stem}-{number:05}.{}", extension.to_string_lossy()),
        None => format!("{stem}-{number:05}"),
    };
    path.with_file_name(name)
}

/// `drop inbound: no-match, generation 3`, and what the candidate would do if that differs.
fn comment(packet: &LoggedPacket) -> String {
    let reply = if packet.reply { ", a reply" } else { "" };
    let candidate = candidate(packet).map_or_else(String::new, |text| format!(", {text}"));
    format!(
        "{} {}: {}{reply}, generation {}{candidate}",
        packet.verdict,
        packet.direction,
        decider(packet),
        packet.generation
    )
}

/// What the program at the hook returned.
fn verdict(packet: &LoggedPacket) -> Verdict {
    // enum xdp_action in include/uapi/linux/bpf.h.
    const XDP_DROP: i64 = 1;
    const XDP_PASS: i64 = 2;
    // include/uapi/linux/pkt_cls.h.
    const TC_ACT_UNSPEC: i64 = -1;
    const TC_ACT_SHOT: i64 = 2;
    match (packet.direction, packet.verdict) {
        (Direction::Inbound, Action::Drop) => Verdict::Xdp(XDP_DROP),
        (Direction::Inbound, Action::Accept | Action::Audit) => Verdict::Xdp(XDP_PASS),
        (Direction::Outbound, Action::Drop) => Verdict::Tc(TC_ACT_SHOT),
        (Direction::Outbound, Action::Accept | Action::Audit) => Verdict::Tc(TC_ACT_UNSPEC),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::event_line::tests::syn;

    #[test]
    fn files_are_numbered_before_their_extension() {
        for (path, expected) in [
            ("/tmp/a.pcapng", "/tmp/a-00012.pcapng"),
            ("a", "a-00012"),
            ("b.c/a.x.pcapng", "b.c/a.x-00012.pcapng"),
        ] {
            assert_eq!(numbered(Path::new(path), 12), Path::new(expected));
        }
    }

    #[test]
    fn a_path_without_a_name_has_no_numbered_files() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("inner");
        fs::create_dir(&inner).unwrap();
        let path = inner.join("..");
        let rotation = Rotation {
            size: Some(1000),
            ..Rotation::default()
        };
        let created = Capture::create(path.to_str().unwrap(), 64, rotation, &[]);
        assert!(created.is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    /// What the statistics of a file say of its first interface: received, dropped, delivered.
    fn statistics_of(path: &Path) -> [u64; 3] {
        const STATISTICS: u32 = 5;
        // Behind type, length, interface and time come options of eight bytes, each with a head
        // of four: begin, end, and these.
        const RECEIVED: usize = 48;
        let bytes = fs::read(path).unwrap();
        let word = |at: usize| u32::from_le_bytes(*bytes[at..].first_chunk().unwrap());
        let mut at = 0;
        while word(at) != STATISTICS {
            at += word(at + 4) as usize;
        }
        let number = |at: usize| u64::from_le_bytes(*bytes[at..].first_chunk().unwrap());
        [0, 12, 24].map(|option| number(at + RECEIVED + option))
    }

    /// A file is full after the packet that fills it, and its statistics are of what is in it,
    /// however many packets were read and counted at once.
    #[test]
    fn a_file_is_full_between_two_packets() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.pcapng");
        let rotation = Rotation {
            size: Some(1000),
            time: None,
            files: 100,
        };
        let mut capture =
            Capture::create(path.to_str().unwrap(), 64, rotation, &["eth0".into()]).unwrap();
        let packets: Vec<LoggedPacket> = std::iter::repeat_n(syn(), 40).collect();
        let tally = |produced, lost| Tally {
            interface: "eth0".into(),
            direction: Direction::Inbound,
            reason: packets[0].reason,
            rule: None,
            produced,
            delivered: produced - lost,
            lost,
            suppressed: 0,
        };
        for (i, packet) in packets.iter().enumerate() {
            if capture.is_full() {
                capture
                    .rotate(&[tally(43, 3)], packets[i..].iter())
                    .unwrap();
            }
            capture.packet(packet).unwrap();
        }
        // One that could not be counted takes nothing back.
        capture.rotate(&[], [].iter()).unwrap();
        capture.packet(&packets[0]).unwrap();
        capture.finish(&[tally(44, 3)]).unwrap();

        let files: Vec<PathBuf> = capture.files.iter().cloned().collect();
        assert!(files.len() > 5, "{files:?}");
        for file in &files {
            let len = fs::metadata(file).unwrap().len();
            assert!(len < 1500, "{}: {len}", file.display());
        }
        let said: Vec<[u64; 3]> = files.iter().map(|file| statistics_of(file)).collect();
        for [received, dropped, delivered] in &said[..said.len() - 2] {
            assert_eq!(*received, dropped + delivered, "{said:?}");
        }
        let sum = |of: usize| said.iter().map(|file| file[of]).sum::<u64>();
        assert_eq!([sum(0), sum(1), sum(2)], [44, 3, 41], "{said:?}");
    }
}
