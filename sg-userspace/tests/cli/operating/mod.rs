//! docs/operating.md, docs/seeing.md, docs/quick-start.md and docs/two-nodes.md: every command on a
//! page is run, in the order of the page and in a world of its own, on a terminal of 80 columns,
//! and prints what the page shows. [`page`] says what is read of a page.
//!
//! A command fails the test if it exits with another code than 0, unless the next command is
//! `echo $?`.
//!
//! What differs from run to run is compared by its kind: see [`normal`]. So the page has real
//! output. `SG_WRITE_DOC=1` writes what the commands print into the page where it differs.

mod normal;
pub(crate) mod page;
mod two_nodes;
mod world;

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use sg_testbed::require_root;

use normal::{is_shown, normal};
use page::{Part, parts};
use world::World;

/// How often the page is tried: on a busy machine a packet may be sent again, and is counted then.
const TRIES: u32 = 3;

/// How long a Prometheus may take to have what it is asked for.
const PATIENCE: Duration = Duration::from_secs(60);

/// A page, and where its commands are run.
#[derive(Clone, Copy)]
struct Page {
    name: &'static str,
    place: Place,
}

#[derive(Clone, Copy)]
enum Place {
    /// On a node, with a client at the other end of its eth0.
    Node {
        /// The TCP ports at which something listens.
        ports: &'static [u16],
        /// A server by its name, which some commands print, and its TCP port.
        serves: Option<(&'static str, u16)>,
    },
    /// On a machine without a network, on which the page makes nodes.
    Machine,
}

const OPERATING: Page = Page {
    name: "operating.md",
    place: Place::Node {
        ports: &[22, 443, 5432],
        serves: None,
    },
};

const QUICK_START: Page = Page {
    name: "quick-start.md",
    place: Place::Node {
        ports: &[22, 443, 5432],
        serves: None,
    },
};

const SEEING: Page = Page {
    name: "seeing.md",
    place: Place::Node {
        ports: &[22],
        serves: Some(("mysqld", 3306)),
    },
};

const TWO_NODES: Page = Page {
    name: "two-nodes.md",
    place: Place::Machine,
};

/// Whether what a command prints may need some seconds to be so, for anybody who types it.
fn is_slow(command: &str) -> bool {
    command.contains("promtool query")
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
                world.write(name, text);
                continue;
            }
            Part::Note(name) => {
                differences.extend(two_nodes::look(name, &mut world));
                continue;
            }
            Part::Step(step) => step,
        };
        let (from, to) = step.shown;
        let shown = lines[from..to].join("\n");
        let mut printed = world.run(step);
        let deadline = Instant::now() + PATIENCE;
        while is_slow(&step.command)
            && !is_shown(&normal(&shown), &normal(&printed))
            && Instant::now() < deadline
        {
            thread::sleep(Duration::from_millis(500));
            printed = world.run(step);
        }
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

/// From nothing to two enforced nodes with a Prometheus that answers what the dashboard asks.
#[test]
fn the_walk_with_two_nodes_prints_what_it_shows() {
    prints_what_it_shows(TWO_NODES);
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
