//! The counters of an interface as one line, where there is no terminal for a table.

use std::fmt::Write as _;

use sg_userspace::observe::counters::{Counters, Totals};
use sg_userspace::observe::status::Health;

use crate::cli::health;
use crate::cli::rates::Rates;
use crate::cli::units::{packet_rate, thousands};

/// `eth0: inbound 1,234 packets (12/s), 3 dropped; outbound …`
pub(super) fn summary(now: &Counters, rates: &Rates) -> String {
    let mut out = format!("{}:", now.standing.interface);
    for (i, total) in now.totals.iter().enumerate() {
        let Totals {
            direction,
            packets,
            dropped,
            audited,
            ..
        } = total;
        let _ = write!(
            out,
            "{} {direction} {} packets ({}), {} dropped",
            if i > 0 { ";" } else { "" },
            thousands(*packets),
            packet_rate(rates.of_total(now, total).packets),
            thousands(*dropped),
        );
        if *audited > 0 {
            let _ = write!(out, ", {} audited", thousands(*audited));
        }
    }
    let health = now.standing.health;
    if health == Health::Auditing {
        out.push_str("; auditing");
    } else if !matches!(health, Health::Enforcing | Health::Unverified) {
        let _ = write!(out, "; NOT enforcing ({})", health::word(health).0);
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use sg_common::verdict::Direction;

    use super::*;
    use crate::fixtures;

    /// If the policy is not enforced, the summary of the counters says so.
    #[test]
    fn a_summary_says_what_is_not_enforced() {
        let mut now = fixtures::counters("nic");
        now.totals = vec![fixtures::totals(Direction::Inbound, 1200, 34)];
        let rates = Rates::since(None);
        let whole = "nic: inbound 1,234 packets (0/s), 34 dropped";
        for (health, more) in [
            (Health::Enforcing, ""),
            // `status` says why it cannot be checked.
            (Health::Unverified, ""),
            (Health::Auditing, "; auditing"),
            (Health::Preceded, "; NOT enforcing (preceded)"),
            (Health::InterfaceGone, "; NOT enforcing (interface gone)"),
        ] {
            now.standing.health = health;
            assert_eq!(summary(&now, &rates), format!("{whole}{more}\n"));
        }
    }
}
