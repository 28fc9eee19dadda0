//! The same policies for nftables, each in the form that suits it best: on the ingress hook of the
//! interface, before the network stack, addresses and ports in one set, counted where the policy
//! counts; flows behind its connection tracking.

use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::rig;

/// What nftables does in place of the enforcer.
pub(crate) enum Ruleset {
    /// On the ingress hook: rules, and the sets that they name. What no rule decides is dropped.
    Ingress { sets: String, rules: String },
    /// Connection tracking and, right behind it, one rule for established flows, which drops them:
    /// what comes behind the filter is not measured.
    Established,
}

/// Loads the ruleset onto the receiving interface.
pub(crate) fn install(ruleset: &Ruleset, interface: &str, folder: &Path) -> Result<()> {
    let text = match ruleset {
        Ruleset::Ingress { sets, rules } => format!(
            "table netdev bench_{interface} {{\n{sets}\n\
             chain ingress {{\n\
             type filter hook ingress device {interface} priority 0; policy drop;\n\
             {rules}\ncounter drop\n}}\n}}\n"
        ),
        Ruleset::Established => format!(
            "table ip bench_{interface} {{\n\
             chain prerouting {{\n\
             type filter hook prerouting priority -150; policy drop;\n\
             ct state established counter drop\ncounter drop\n}}\n}}\n"
        ),
    };
    let path = folder.join(format!("{interface}.nft"));
    std::fs::write(&path, text).with_context(|| path.display().to_string())?;
    rig::run("nft", &format!("-f {}", path.display()))
}

/// The share of packets that belonged to an established flow.
pub(crate) fn established_share(interface: &str) -> Result<f64> {
    let listed = rig::read(
        "nft",
        &format!("list chain ip bench_{interface} prerouting"),
    )?;
    let counts: Vec<f64> = listed
        .split("counter packets ")
        .skip(1)
        .filter_map(|rest| rest.split_whitespace().next()?.parse().ok())
        .collect();
    let [established, others] = counts[..] else {
        bail!("nft lists no counters:\n{listed}");
    };
    Ok(established / (established + others).max(1.0))
}

/// A short list of rules.
pub(crate) fn list(rules: &str) -> Ruleset {
    Ruleset::Ingress {
        sets: String::new(),
        rules: rules.to_owned(),
    }
}

/// One set, and the rule that looks it up.
pub(crate) fn set(kind: &str, elements: &[String], rule: &str) -> Ruleset {
    Ruleset::Ingress {
        sets: format!(
            "set listed {{\ntype {kind}; flags interval; {}\nelements = {{ {} }}\n}}",
            // The kernel does not merge the elements of a concatenation.
            if kind.contains(" . ") {
                ""
            } else {
                "auto-merge;"
            },
            elements.join(",\n")
        ),
        rules: rule.to_owned(),
    }
}
