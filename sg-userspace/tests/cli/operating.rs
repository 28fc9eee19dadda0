//! docs/operating.md, docs/seeing.md and docs/quick-start.md: every command on a page is run, in
//! the order of the page and in a world of its own, and prints what the page shows.
//!
//! - A block that begins with ```` ```yaml NAME ```` is a file of that name in the working
//!   directory.
//! - In a block that begins with ```` ```console ````, a line that begins with `# ` or `$ ` is run
//!   on the node, and one that begins with `client$ ` on a host at the other end of the node's
//!   `eth0`. What follows, up to the next command, is what it prints. A line `…` there stands for
//!   any lines.
//! - A command fails the test if it exits with another code than 0, unless the next command is
//!   `echo $?`.
//!
//! What differs from run to run is compared by its kind: see [`normal`]. So the page has real
//! output. `SG_WRITE_DOC=1` writes what the commands print into the page where it differs.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use regex::Regex;
use sg_testbed::{Host, Mount, Namespace, mounts, require_root};

/// The addresses of the node and of the host at the other end of its eth0, which know each other,
/// so that no packet is sent but by the commands.
const NODE: &str = "192.0.2.10";
const CLIENT: &str = "192.0.2.99";

/// How often the page is tried: on a busy machine a packet may be sent again, and is counted then.
const TRIES: u32 = 3;

/// A page, and what there is on its node.
#[derive(Clone, Copy)]
struct Page {
    name: &'static str,
    /// The TCP ports at which something listens.
    listening: &'static [u16],
    /// A server by its name, which some commands print, and its TCP port.
    server: Option<(&'static str, u16)>,
}

const OPERATING: Page = Page {
    name: "operating.md",
    listening: &[22, 443, 5432],
    server: None,
};
const QUICK_START: Page = Page {
    name: "quick-start.md",
    listening: &[22, 443, 5432],
    server: None,
};

const SEEING: Page = Page {
    name: "seeing.md",
    listening: &[22],
    server: Some(("mysqld", 3306)),
};

/// What stands for any lines of an output.
const ANY: &str = "…";

/// What begins a command, and whether it is the client's.
const PROMPTS: [(&str, bool); 3] = [("# ", false), ("$ ", false), ("client$ ", true)];

#[derive(Debug, PartialEq, Eq)]
struct Step {
    /// As the page has it, with the prompt.
    line: String,
    is_clients: bool,
    command: String,
    /// The lines of the page that it prints: from, and to.
    shown: (usize, usize),
}

#[derive(Debug, PartialEq, Eq)]
enum Part {
    File { name: String, text: String },
    Step(Step),
}

/// The files and commands of a page, in its order.
fn parts(page: &str) -> Vec<Part> {
    let lines: Vec<&str> = page.lines().collect();
    let mut parts = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let Some(info) = lines[at].strip_prefix("```") else {
            at += 1;
            continue;
        };
        let from = at + 1;
        let length = lines[from..].iter().position(|line| *line == "```");
        let to = from + length.unwrap_or_else(|| panic!("line {from}: the block does not end"));
        match info.split_once(' ') {
            Some(("yaml", name)) => parts.push(Part::File {
                name: name.to_owned(),
                text: lines[from..to].join("\n") + "\n",
            }),
            None if info == "console" => parts.extend(steps(&lines, from, to).map(Part::Step)),
            _ => {}
        }
        at = to + 1;
    }
    parts
}

/// The commands of one block.
fn steps<'a>(lines: &'a [&str], from: usize, to: usize) -> impl Iterator<Item = Step> + 'a {
    let prompt = |line: &str| {
        let mut prompts = PROMPTS.iter();
        prompts.find_map(|(prompt, is_clients)| {
            Some((line.strip_prefix(prompt)?.to_owned(), *is_clients))
        })
    };
    let begins: Vec<usize> = (from..to)
        .filter(|at| prompt(lines[*at]).is_some())
        .collect();
    assert_eq!(
        begins.first(),
        Some(&from),
        "line {from}: a block begins with a command"
    );
    let ends: Vec<usize> = begins.iter().copied().skip(1).chain([to]).collect();
    begins.into_iter().zip(ends).filter_map(move |(at, end)| {
        let (command, is_clients) = prompt(lines[at])?;
        Some(Step {
            line: lines[at].to_owned(),
            is_clients,
            command,
            shown: (at + 1, end),
        })
    })
}

/// The text with names in the place of what is another each time: times, durations, digests, and
/// numbers that the kernel gives. Spaces count as one, since columns are as wide as what is in
/// them.
fn normal(text: &str) -> Vec<String> {
    const KINDS: [(&str, &str); 15] = [
        (r"\d{4}-\d\d-\d\dT[0-9:.]+(Z|[+-]\d\d:\d\d)", "TIME"),
        (r"\(pid \d+\)", "(pid N)"),
        (r"\bmysqld \d+", "mysqld N"),
        (r"\b\d+ (d|h)\b", "DURATION"),
        (r"\b[0-9a-f]{64}\b", "DIGEST"),
        (r"\b[0-9a-f]{12}\b", "DIGEST"),
        (r"just now|\d+ (s|min|h) ago", "AGO"),
        (r"evaluated (from now on|for \d+ (s|min))", "evaluated AGO"),
        (r"\d+(\.\d+)? ?(ms|µs)\b", "DURATION"),
        (r"\b\d+(\.\d+)? (s|min|seconds)\b", "DURATION"),
        (r"[\d.]+ [KM]iB\b", "SIZE"),
        (r"\bid \d+", "id N"),
        (r"time=[\d.]+", "time=N"),
        // Of those that the kernel gives out.
        (r":[3-6]\d{4}\b", ":PORT"),
        (r"\s+", " "),
    ];
    let mut text: Vec<String> = text
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect();
    for (pattern, name) in KINDS {
        let kind = Regex::new(pattern).expect("a pattern");
        for line in &mut text {
            *line = kind.replace_all(line, name).into_owned();
        }
    }
    text
}

/// Whether an output is what the page shows.
fn is_shown(shown: &[String], printed: &[String]) -> bool {
    match shown.iter().position(|line| line.trim() == ANY) {
        None => shown == printed,
        Some(any) => {
            let rest = &shown[any + 1..];
            shown[..any] == printed[..any.min(printed.len())]
                && (any..=printed.len()).any(|from| is_shown(rest, &printed[from..]))
        }
    }
}

/// The node, the client, and a folder with the page's files.
struct World {
    client: Host,
    folder: tempfile::TempDir,
    path: String,
    /// Of the last command.
    code: i32,
    _listening: Vec<TcpListener>,
    server: Option<Child>,
    _mount: Mount,
    _pins: tempfile::TempDir,
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

impl World {
    /// Made on a thread whose namespaces are its own: the node's.
    fn enter(page: Page) -> World {
        Namespace::enter_new().expect("root may have a network of its own");
        mounts::make_private().expect("root may have mounts of its own");
        let pins = tempfile::tempdir().expect("a folder");
        let mount = Mount::bpffs(pins.path()).expect("a BPF file system of our own");
        let folder = tempfile::tempdir().expect("a folder");
        let (node, client) = (Host::here(), Host::new());
        node.hush();
        node.join("eth0", &client, "eth0");
        let ends = [(&node, NODE, 1), (&client, CLIENT, 2)];
        for (host, address, number) in ends {
            host.set("net/ipv6/conf/eth0/disable_ipv6", "1");
            host.ip(&format!(
                "link set eth0 address 02:00:00:00:00:0{number} up"
            ));
            host.ip(&format!("address add {address}/24 dev eth0"));
            let (_, other, other_number) = ends[2 - number];
            host.ip(&format!(
                "neighbour add {other} dev eth0 lladdr 02:00:00:00:00:0{other_number}"
            ));
        }
        node.wait_for_carrier("eth0");
        client.wait_for_carrier("eth0");
        let listen = |port: &u16| TcpListener::bind(("::", *port)).expect("a free port");
        let path = sgctl(folder.path(), pins.path());
        let serve = |(name, port)| serve(&folder.path().join(".bin").join(name), port);
        World {
            client,
            path,
            code: 0,
            _listening: page.listening.iter().map(listen).collect(),
            server: page.server.map(serve),
            folder,
            _mount: mount,
            _pins: pins,
        }
    }

    /// Runs a command as a shell does, and returns what it prints.
    fn run(&mut self, step: &Step) -> String {
        let (before, command) = (self.code, &step.command);
        let shell = || {
            // In one stream, as on a terminal.
            Command::new("bash")
                .args(["-c", &format!("exec 2>&1; (exit {before}); {command}")])
                .current_dir(self.folder.path())
                .env("PATH", &self.path)
                .env("SHELL", "/bin/bash")
                .env_remove("COLUMNS")
                .env_remove("SSH_CONNECTION")
                .stdin(Stdio::null())
                .output()
        };
        let output = match step.is_clients {
            true => self.client.inside(shell),
            false => shell(),
        };
        let output = output.expect("the tests need bash");
        self.code = output.status.code().unwrap_or(-1);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// Puts a `sgctl` that pins into the world's own file system at the head of the PATH.
fn sgctl(folder: &Path, pins: &Path) -> String {
    let programs = folder.join(".bin");
    fs::create_dir(&programs).expect("a folder");
    let program = programs.join("sgctl");
    let binary = env!("CARGO_BIN_EXE_sgctl");
    let script = format!(
        "#!/bin/sh\nexec {binary} --bpffs {} \"$@\"\n",
        pins.display()
    );
    fs::write(&program, script).expect("a file");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("our own file");
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{}:{path}", programs.display())
}

/// A server that listens at a port under the name of this path, and answers nothing.
fn serve(path: &Path, port: u16) -> Child {
    let programs = std::env::var_os("PATH").unwrap_or_default();
    let mut found = std::env::split_paths(&programs).map(|folder| folder.join("nc"));
    let netcat = found.find(|path| path.exists());
    let netcat = netcat.expect("the tests need netcat: `cargo xtask setup` installs it");
    std::os::unix::fs::symlink(netcat, path).expect("the folder is our own");
    let server = Command::new(path)
        .args(["-dlk", NODE, &port.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    server.expect("it starts")
}

/// Runs all of a page. Returns it with what its commands have printed, and what differs.
fn tried(page: Page, text: &str) -> (String, Vec<String>) {
    let lines: Vec<&str> = text.lines().collect();
    let mut world = World::enter(page);
    let (mut written, mut differences) = (Vec::new(), Vec::new());
    let mut done = 0;
    let parts = parts(text);
    for (number, part) in parts.iter().enumerate() {
        let step = match part {
            Part::File { name, text } => {
                fs::write(world.folder.path().join(name), text).expect("a file");
                continue;
            }
            Part::Step(step) => step,
        };
        let printed = world.run(step);
        let (from, to) = step.shown;
        let shown = lines[from..to].join("\n");
        written.extend_from_slice(&lines[done..from]);
        done = to;
        let asks_for_code =
            matches!(parts.get(number + 1), Some(Part::Step(next)) if next.command == "echo $?");
        if world.code != 0 && !asks_for_code {
            differences.push(format!(
                "`{}` exits with {}:\n{printed}",
                step.line, world.code
            ));
        }
        if is_shown(&normal(&shown), &normal(&printed)) {
            written.extend_from_slice(&lines[from..to]);
        } else {
            differences.push(format!(
                "line {from}: `{}` prints\n{printed}\nand the page shows\n{shown}\n",
                step.line
            ));
            // It lives as long as the test.
            let printed: &str = Box::leak(printed.into_boxed_str());
            written.extend(printed.lines().map(str::trim_end));
        }
    }
    written.extend_from_slice(&lines[done..]);
    (written.join("\n") + "\n", differences)
}

#[test]
fn every_command_on_the_page_prints_what_the_page_shows() {
    prints_what_it_shows(OPERATING);
}

/// "Port 3306 of the node does not answer" is solved by the commands of docs/seeing.md alone.
#[test]
fn every_command_about_seeing_prints_what_the_page_shows() {
    prints_what_it_shows(SEEING);
}

#[test]
fn the_quick_start_prints_what_it_shows() {
    prints_what_it_shows(QUICK_START);
}

fn prints_what_it_shows(page: Page) {
    require_root();
    let docs = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let path = docs.join(page.name);
    let text = fs::read_to_string(&path).expect("the page is there");
    let writes = std::env::var_os("SG_WRITE_DOC").is_some();
    let mut attempt = 0;
    let (written, differences) = loop {
        attempt += 1;
        let tried = thread::scope(|scope| scope.spawn(|| tried(page, &text)).join());
        let tried = tried.unwrap_or_else(|e| std::panic::resume_unwind(e));
        if tried.1.is_empty() || writes || attempt == TRIES {
            break tried;
        }
    };
    if writes {
        fs::write(&path, written).expect("the page can be written");
    }
    assert!(
        differences.is_empty(),
        "{}\nSG_WRITE_DOC=1 writes what is printed into the page: look at the difference",
        differences.join("\n")
    );
}

#[test]
fn a_page_is_read_in_its_order() {
    let page = "text\n```yaml web.yaml\nname: web\n```\n```text\n# no command\n```\n\
                ```console\n# sgctl a\none\n\ntwo\nclient$ b\n```\n";
    let step = |line: &str, is_clients, command: &str, shown| {
        Part::Step(Step {
            line: line.to_owned(),
            is_clients,
            command: command.to_owned(),
            shown,
        })
    };
    assert_eq!(
        parts(page),
        [
            Part::File {
                name: "web.yaml".to_owned(),
                text: "name: web\n".to_owned(),
            },
            step("# sgctl a", false, "sgctl a", (9, 12)),
            step("client$ b", true, "b", (13, 13)),
        ]
    );
}

/// A difference that matters is seen, and one of the moment is not.
#[test]
fn what_is_compared_is_what_stays() {
    let is_same = |shown: &str, printed: &str| is_shown(&normal(shown), &normal(printed));
    assert!(is_same(
        "applied 3 s ago, 1.20 ms",
        "applied just now,  13.4 ms"
    ));
    assert!(!is_same("generation 2", "generation 3"));
    assert!(!is_same("22 packets", "23 packets"));
    assert!(is_same("a\n…\nd", "a\nb\nc\nd"));
    assert!(is_same("a\n…", "a"));
    assert!(!is_same("a\n…\nd", "a\nb"));
    assert!(!is_same("a", "a\nb"));
    assert!(!is_same("", "an error"));
}
