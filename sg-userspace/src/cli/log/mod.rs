//! `sgctl log`: the events of what is attached, as lines, as JSON or as a capture. It needs no
//! policy file and changes nothing; any number of them run side by side.

mod capture;
mod choice;
mod output;
mod pcapng;
mod session;
mod sources;

use std::time::Duration;

use clap::{ArgGroup, Args};

use self::capture::{Capture, Rotation};
use self::choice::{Choice, file_size, files, last, snap, time};
use self::session::{Asked, Session};
use self::sources::{Mode, Sources};
use super::attachment::to_read;
use super::context::{Context, Ifaces, Json};
use super::failure::Failure;
use super::filters::Filters;

/// How many bytes of each packet are written to a capture.
const SNAP: u32 = 128;

/// Dropped and logged packets, as they come or the newest ones
#[derive(Args)]
#[command(group = ArgGroup::new("rotation").multiple(true), after_help = "\
With --follow every dropped packet leaves an event for as long as this runs, whether or not a rule says
`log`. Without it, what is still there is printed: what the policy logs (`log: true` of a rule, and
`log-no-match` of what no rule matches), and what was dropped while somebody followed. So no event is no
proof that no packet was dropped: `sgctl counters` counts every one.

Each rule and each reason gets its first event of each half second through; under a flood the
rest is counted and not shown, and at the end it is said how many and of what. `sgctl counters` has
the exact numbers.

A capture has the first bytes of each packet, the verdict of the hook, and the rule or reason as its
comment. VLAN tags that the device has taken out of a received frame before XDP are not in it.

Examples:
  sgctl log --follow --verdict drop
  sgctl log --follow --proto tcp --port 3306 --from 203.0.113.0/24
  sgctl log --last 100 --reason no-match --json
  sgctl log --write drops.pcapng --snap 128 --rotate-size 100M --files 5
  sgctl log --write - | wireshark -k -i -

Exit codes: 0 done or ended by Ctrl-C, 1 nothing is attached or the state is wrong, 2 usage, 3 not
permitted or the kernel refused.")]
pub(super) struct Log {
    #[command(flatten)]
    ifaces: Ifaces,
    /// Print events as they come, until Ctrl-C
    #[arg(short, long)]
    follow: bool,
    /// Print the newest events that are still there; 20 unless --follow is given
    #[arg(short = 'n', long, value_name = "N", value_parser = last)]
    last: Option<usize>,
    #[command(flatten)]
    json: Json,
    #[command(flatten)]
    choice: Choice,
    #[command(flatten)]
    filters: Filters,
    /// Write a capture (pcapng) as packets come, until Ctrl-C; `-` is standard output
    #[arg(long, value_name = "FILE", help_heading = "Captures")]
    write: Option<String>,
    /// The first bytes of each packet that are captured, at most 256
    #[arg(long, value_name = "BYTES", requires = "write", default_value_t = SNAP, value_parser = snap,
          help_heading = "Captures")]
    snap: u32,
    /// Begin another file when one is as large, such as 100M
    #[arg(long, value_name = "SIZE", requires = "write", group = "rotation", value_parser = file_size,
          help_heading = "Captures")]
    rotate_size: Option<u64>,
    /// Begin another file when one is as old, such as 1h
    #[arg(long, value_name = "TIME", requires = "write", group = "rotation", value_parser = time,
          help_heading = "Captures")]
    rotate_time: Option<Duration>,
    /// Keep so many files of those that --rotate-size and --rotate-time begin, counting those of
    /// an earlier run
    #[arg(long, value_name = "N", requires = "rotation", default_value_t = 10, value_parser = files,
          help_heading = "Captures")]
    files: usize,
}

impl Log {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let rotates = self.rotate_size.is_some() || self.rotate_time.is_some();
        if self.write.as_deref() == Some("-") && (rotates || self.json.json) {
            let message = "`--write -` needs standard output for one capture: name a file with \
                           --rotate-size, --rotate-time and --json";
            return Err(Failure::usage::<Log>("log", message));
        }
        if self.write.as_deref() == Some("-") && context.out.terminal {
            let message = "`--write -` writes a capture, which is no text for a terminal: pipe it \
                           to a program, such as `| wireshark -k -i -`, or name a file";
            return Err(Failure::usage::<Log>("log", message));
        }
        let follows = self.follow || (self.write.is_some() && self.last.is_none());
        let mode = match (follows, self.last.is_some()) {
            (false, _) => Mode::Newest,
            (true, true) => Mode::NewestAndWatch,
            (true, false) => Mode::Watch,
        };
        let snap = if self.write.is_some() { self.snap } else { 0 };
        let found = to_read(context, &self.ifaces)?;
        self.filters.refuse_unknown::<Log>("log", &found)?;
        let sources = Sources::open(found, self.ifaces, mode, snap)?;
        let capture = match &self.write {
            None => None,
            Some(path) => {
                let rotation = Rotation {
                    size: self.rotate_size,
                    time: self.rotate_time,
                    files: self.files,
                };
                let names = sources.names();
                Some(Capture::create(path, self.snap, rotation, &names)?)
            }
        };
        let asked = Asked {
            filter: self.filters.filter(),
            choice: self.choice,
            last: self.last,
            json: self.json.json,
        };
        let mut session = Session::new(context, asked, sources, capture);
        if follows {
            session.follow()
        } else {
            session.newest()
        }
    }
}
