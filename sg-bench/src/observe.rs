//! Rows about those who look on, as whole processes: what a scrape of ten thousand rules takes, and
//! how much of a core the events of a flood take.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sg_testbed::Mount;

use crate::apply::Node;
use crate::cores::{Cores, apart};
use crate::live::calibrate;
use crate::missing::Missing;
use crate::object::Writer;
use crate::policies;
use crate::progress::Progress;
use crate::rig::{self, Rig, World};
use crate::settings::Settings;
use crate::statistics::Record;
use crate::windows::Patience;

pub(crate) const SCRAPE: &str = "observe/scrape_10k";

/// A command that prints the events of a flood.
struct Stream {
    name: &'static str,
    /// The policy that it puts in force itself. `None` if it is `tke`, and there already.
    policy: Option<&'static str>,
    words: &'static [&'static str],
}

/// What no rule matches is logged.
const LOGGING: &str = "name: logging\nlog-no-match: inbound\n\
                       inbound: [{protocol: tcp, ports: 22, from: any, action: accept}]\n";

const STREAMS: &[Stream] = &[
    Stream {
        name: "observe/log",
        policy: None,
        words: &["log", "--follow"],
    },
    Stream {
        name: "observe/log_json",
        policy: None,
        words: &["log", "--follow", "--json"],
    },
    Stream {
        name: "observe/run",
        policy: Some(LOGGING),
        words: &["run"],
    },
];

pub(crate) fn is_stream(name: &str) -> bool {
    STREAMS.iter().any(|stream| stream.name == name)
}

pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    std::iter::once(SCRAPE).chain(STREAMS.iter().map(|stream| stream.name))
}

/// How long something may take to begin.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn run(settings: &Settings, progress: &Progress) -> Result<Vec<Record>> {
    let wanted: Vec<&str> = names().filter(|name| settings.wants(name)).collect();
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let Some(sgctl) = &settings.sgctl else {
        let left_out = |name: &&str| Record::left_out(name, Missing::Sgctl);
        return Ok(wanted.iter().map(left_out).collect());
    };
    // Before this thread is pinned to one core: afterwards that would be the only one found.
    let cores = Cores::find()?;
    let world = World::enter()?;
    let pins = tempfile::tempdir().context("a folder for the BPF file system")?;
    let bpffs = Mount::bpffs(pins.path()).context("mounting a BPF file system")?;
    let folder = tempfile::tempdir().context("a folder for policies")?;
    let node = Node {
        sgctl,
        bpffs: bpffs.path(),
        more: Path::new(""),
    };
    let mut records = Vec::new();
    if wanted.contains(&SCRAPE) {
        progress.say(SCRAPE.to_owned());
        records.push(scrape(&node, folder.path(), settings)?);
    }
    let streams = STREAMS
        .iter()
        .filter(|stream| wanted.contains(&stream.name));
    for stream in streams {
        progress.say(stream.name.to_owned());
        // Sending pins the thread to the sender's core, and a process that it starts afterwards
        // would be bound to that core too.
        let record = apart(|| {
            let rig = Rig::new(&world, cores, &Patience::new(settings.patience), "o")?;
            follow(stream, &node, &rig, folder.path(), settings)
        });
        records.push(record.context(stream.name)?);
    }
    progress.clear();
    Ok(records)
}

/// A command in the background, which is asked to end when this goes.
struct Process(Child);

impl Process {
    fn start(node: &Node<'_>, words: &[&str]) -> Result<(Process, ChildStdout)> {
        let mut child = Command::new(node.sgctl)
            .arg("--bpffs")
            .arg(node.bpffs)
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", node.sgctl.display()))?;
        let out = child.stdout.take().context("its output")?;
        Ok((Process(child), out))
    }

    /// Nanoseconds for which its threads have run, in the kernel too.
    fn time(&self) -> Result<u64> {
        let folder = format!("/proc/{}/task", self.0.id());
        let mut sum = 0;
        for task in fs::read_dir(&folder).context(folder)?.flatten() {
            // One may have ended.
            let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            let ran = text.split_whitespace().next();
            sum += ran.and_then(|ran| ran.parse::<u64>().ok()).unwrap_or(0);
        }
        Ok(sum)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

const PORT: u16 = 9750;

const REQUEST: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: node\r\n\
                         Accept: application/openmetrics-text; version=1.0.0\r\n\r\n";

/// One scrape, head and all.
fn get() -> io::Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, PORT))?;
    stream.write_all(REQUEST)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// What a scrape over HTTP takes where `run` serves metrics.
fn scrape(node: &Node<'_>, folder: &Path, settings: &Settings) -> Result<Record> {
    const RULES: u32 = 10_000;
    rig::run("ip", "link set lo up")?;
    rig::run("ip", "link add bench0 type veth peer name bench1")?;
    rig::run("ip", "link set bench0 up")?;
    let mut text = "name: many\ninbound:\n".to_owned();
    for number in 0..RULES {
        let network = Ipv4Addr::from(0x0a00_0000 + (number << 8));
        let port = 1 + number % 60_000;
        let _ = writeln!(
            text,
            "  - {{protocol: tcp, ports: {port}, from: {network}/24, action: accept}}"
        );
    }
    let policy = folder.join("many.yaml");
    fs::write(&policy, text).context("writing a policy")?;
    let (policy, address) = (policy.display().to_string(), format!("127.0.0.1:{PORT}"));
    let words = ["run", &policy, "--iface", "bench0", "--metrics", &address];
    let (process, out) = Process::start(node, &[&words[..], &["--interval", "3600"]].concat())?;
    let reader = std::thread::spawn(move || io::copy(&mut { out }, &mut io::sink()));
    let series = |answer: &str| answer.matches("\nsgctl_rule_packets_total{").count();
    let deadline = Instant::now() + PATIENCE;
    // It listens before the policy is in force.
    while get().map_or(0, |answer| series(&answer)) < RULES as usize {
        if Instant::now() > deadline {
            bail!("{address} does not answer with the series of {RULES} rules");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let (mut milliseconds, mut len) = (Vec::new(), 0);
    for _ in 0..3 * settings.rounds {
        // Who asks again within a tenth of a second gets the same answer.
        std::thread::sleep(Duration::from_millis(150));
        let began = Instant::now();
        let answer = get().with_context(|| format!("asking {address}"))?;
        milliseconds.push(began.elapsed().as_secs_f64() * 1e3);
        len = answer.len();
        if series(&answer) < RULES as usize {
            bail!("there are {} series of {RULES} rules", series(&answer));
        }
    }
    drop(process);
    let _ = reader.join();
    rig::run("ip", "link del bench0")?;
    let row = Record::of(SCRAPE, "ms", &milliseconds, None);
    Ok(row.noted(format!(
        "GET of {RULES} rules from `sgctl run --metrics`, connection and all: {:.1} MB",
        len as f64 / 1e6
    )))
}

/// How much of a core a command takes that prints the events of a flood.
fn follow(
    stream: &Stream,
    node: &Node<'_>,
    rig: &Rig,
    folder: &Path,
    settings: &Settings,
) -> Result<Record> {
    let iface = ["--iface", rig.receiver()];
    let policy = folder.join("logging.yaml").display().to_string();
    let own = [&policy[..]];
    let words = match stream.policy {
        None => {
            node.sgctl(&[&["apply", "builtin:tke"], &iface[..]].concat())?;
            [stream.words, &iface].concat()
        }
        Some(text) => {
            fs::write(&policy, text).context("writing a policy")?;
            [stream.words, &own[..], &iface].concat()
        }
    };
    const SEED: u64 = 0x5eed;
    let traffic = policies::tke_drop()?.traffic;
    let mut writer = Writer::new(&traffic, rig.sender(), SEED)?;
    let (process, out) = Process::start(node, &words)?;
    let lines = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&lines);
    let reader = std::thread::spawn(move || {
        for _ in BufReader::new(out).lines().map_while(Result::ok) {
            count.fetch_add(1, SeqCst);
        }
    });
    // Until it watches.
    let deadline = Instant::now() + PATIENCE;
    while lines.load(SeqCst) < 100 {
        if Instant::now() > deadline {
            bail!("no event came");
        }
        rig.send(&mut writer, 10_000)?;
        std::thread::sleep(Duration::from_millis(50));
    }
    let packets = calibrate(rig, &mut writer, settings.window)?;
    let (mut shares, mut sent, mut seconds) = (Vec::new(), 0.0, 0.0);
    let before = lines.load(SeqCst);
    for _ in 0..settings.rounds {
        let (began, ran) = (Instant::now(), process.time()?);
        // As long as it takes for the counts to be read too, which is done once a second.
        for _ in 0..6 {
            rig.send(&mut writer, packets)?;
        }
        let took = began.elapsed().as_secs_f64();
        let ran = (process.time()? - ran) as f64 / 1e9;
        shares.push(100.0 * ran / took);
        sent += 6.0 * f64::from(packets);
        seconds += took;
    }
    let shown = lines.load(SeqCst) - before;
    if shown == 0 {
        bail!("it showed nothing of the flood");
    }
    drop(process);
    let _ = reader.join();
    if stream.policy.is_none() {
        node.sgctl(&[&["detach"], &iface[..]].concat())?;
    }
    let row = Record::of(stream.name, "%", &shares, None);
    Ok(row.noted(format!(
        "of one core, while {:.1} million packets a second are sent that it drops, and {:.0} lines a \
         second are shown",
        sent / seconds / 1e6,
        shown as f64 / seconds
    )))
}
