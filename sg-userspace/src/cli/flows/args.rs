//! The arguments of `sgctl flows`, and which flows they mean.

use std::time::Duration;

use clap::Args;
use sg_userspace::observe::attached::Attached;
use sg_userspace::observe::flows::{Sort, StateChoice, Wanted};

use super::listed::{Listed, SHOWN, listed};
use crate::cli::attachment::to_read;
use crate::cli::context::{Context, Ifaces, Json, interval};
use crate::cli::failure::Failure;
use crate::cli::filters::Filters;

/// The flow table: flows that the policy admitted and whose replies need it
#[derive(Args)]
#[command(after_help = "\
A flow has no entry when the rules of the other direction accept its replies anyway. Half-open flows
(TCP until the handshake is complete, others until they are still answered after two seconds, pings)
live apart from established ones. Where there is no room a flow that has expired goes first, then
one that is closing, then the one seen least recently, and is counted. `tcp-cut` is a connection that
was revoked, flushed, cut or killed: its segments are dropped until a new one is opened that the rules
accept. OPENED is `unknown` of a connection whose beginning nobody has seen. LEFT is the time after
which a flow is forgotten, unless there is a packet of it before. The table has no packets and bytes of
single flows: they are counted by rule, see `sgctl counters`.

--kill cuts TCP connections and forgets all other flows: their next packet is judged as that of a new
one. Segments of a cut connection are dropped in both directions until a new one is opened that the
rules accept; its ends are not told. A packet that is being judged at that moment may still pass.
Flows are left alone that have come since the list was made.

Examples:
  sgctl flows
  sgctl flows --proto tcp --port 3306 --sort age
  sgctl flows --from 198.51.100.0/24 --rule ssh --state established
  sgctl flows --watch 2 --top 20
  sgctl flows --kill --from 203.0.113.9
  sgctl flows --iface eth0 --limit 0 --json

Exit codes: 0 done, 1 nothing is attached or the state is wrong, 2 usage, 3 not permitted.")]
pub(in crate::cli) struct Flows {
    #[command(flatten)]
    pub(super) ifaces: Ifaces,
    #[command(flatten)]
    pub(super) filters: Filters,
    /// Only in this state as it is listed, or of this kind: half-open, established; may be
    /// repeated
    #[arg(
        long,
        value_name = "STATE",
        value_delimiter = ',',
        value_parser = state,
        help_heading = "Filters"
    )]
    pub(super) state: Vec<StateChoice>,
    /// seen, age, left, proto, state, local, remote, port (to which it was opened), or rule
    #[arg(long, value_name = "COLUMN", value_parser = sort, default_value = "seen")]
    pub(super) sort: Sort,
    /// The last ones first
    #[arg(long)]
    pub(super) reverse: bool,
    /// The most flows to print, and with --kill to end: the first ones, or with 0 all. Without it
    /// 100 are printed, all with --json, and --kill ends all that fit
    #[arg(long, visible_alias = "top", value_name = "N")]
    pub(super) limit: Option<usize>,
    /// Print again every so many seconds (1 unless said otherwise)
    #[arg(
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        default_missing_value = "1",
        value_parser = interval
    )]
    pub(super) watch: Option<Duration>,
    /// End these flows, after asking; takes a filter or --all
    #[arg(long, conflicts_with = "watch")]
    pub(super) kill: bool,
    /// With --kill: every flow
    #[arg(long, requires = "kill")]
    pub(super) all: bool,
    /// With --kill: do not ask
    #[arg(short, long, requires = "kill")]
    pub(super) yes: bool,
    /// With --kill: also the connection through which you work
    #[arg(long, requires = "kill")]
    pub(super) force: bool,
    #[command(flatten)]
    pub(super) json: Json,
}

fn state(name: &str) -> Result<StateChoice, String> {
    StateChoice::of(name).ok_or_else(|| {
        let names: Vec<&str> = StateChoice::names().collect();
        format!("expected one of {}", names.join(", "))
    })
}

fn sort(name: &str) -> Result<Sort, String> {
    let known = Sort::ALL.into_iter().find(|(known, _)| *known == name);
    match (known, name) {
        (Some((_, sort)), _) => Ok(sort),
        // The name of its column.
        (None, "idle") => Ok(Sort::Seen),
        (None, "packets" | "bytes") => Err(
            "the table has no counts of single flows; packets and bytes are counted by rule: see \
             `sgctl counters`"
                .to_owned(),
        ),
        (None, _) => {
            let names = Sort::ALL.map(|(name, _)| name);
            Err(format!("expected one of {}", names.join(", ")))
        }
    }
}

impl Flows {
    /// How many flows are printed.
    pub(super) fn most(&self) -> usize {
        match (self.limit, self.json.json) {
            (Some(0), _) | (None, true) => usize::MAX,
            (Some(n), _) => n,
            (None, false) => SHOWN,
        }
    }

    pub(super) fn wanted(&self, most: usize) -> Wanted {
        Wanted {
            filter: self.filters.filter(),
            states: self.state.clone(),
            sort: self.sort,
            is_reversed: self.reverse,
            most,
        }
    }

    pub(super) fn read(&self, context: &Context, most: usize) -> Result<Vec<Listed>, Failure> {
        let wanted = self.wanted(most);
        let found = self.tables(context)?;
        found.iter().map(|one| listed(one, &wanted)).collect()
    }

    /// One interface of each attachment: the others share its table.
    pub(super) fn tables(&self, context: &Context) -> Result<Vec<Attached>, Failure> {
        let mut all: Vec<Attached> = Vec::new();
        for one in to_read(context, &self.ifaces)? {
            if !all.iter().any(|before| before.pins.shares_with(&one.pins)) {
                all.push(one);
            }
        }
        self.filters.refuse_unknown::<Flows>("flows", &all)?;
        Ok(all)
    }
}
