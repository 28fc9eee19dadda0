//! The same policies for nftables, each in the form that suits it best: on the ingress hook of the
//! interface, before the network stack, addresses and ports in one set, counted where the policy
//! counts.

use std::path::Path;

use anyhow::{Context as _, Result};

use crate::rig;

/// A chain's rules, and the sets that they name.
pub(crate) struct Ruleset {
    pub(crate) sets: String,
    pub(crate) rules: String,
}

/// Loads the ruleset onto `interface`.
pub(crate) fn install(ruleset: &Ruleset, interface: &str, folder: &Path) -> Result<()> {
    let Ruleset { sets, rules } = ruleset;
    let text = format!(
        "table netdev bench_{interface} {{\n{sets}\n\
         chain ingress {{\n\
         type filter hook ingress device {interface} priority 0; policy drop;\n\
         {rules}\ncounter drop\n}}\n}}\n"
    );
    let path = folder.join(format!("{interface}.nft"));
    std::fs::write(&path, text).with_context(|| path.display().to_string())?;
    rig::run("nft", &format!("-f {}", path.display()))
}

/// A list of rules that are few.
pub(crate) fn list(rules: &str) -> Ruleset {
    Ruleset {
        sets: String::new(),
        rules: rules.to_owned(),
    }
}

/// One set, and what happens to what it contains.
pub(crate) fn set(kind: &str, elements: &[String], rule: &str) -> Ruleset {
    Ruleset {
        sets: format!(
            "set listed {{\ntype {kind}; flags interval; {}\nelements = {{ {} }}\n}}",
            // A concatenation cannot be merged, and need not be.
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
