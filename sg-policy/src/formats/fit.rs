//! A template with its sets replaced, comments and all.

use super::scalar;
use crate::policy::{Builtin, SetOverride};

/// The template as a policy file in which the sets have the contents of `overrides`. They must be
/// ones with which the template can be loaded.
pub fn fit(template: &Builtin, overrides: &[SetOverride]) -> String {
    let mut out = String::with_capacity(template.text.len());
    for line in template.text.lines() {
        // A template defines each set in a line of its own.
        let name = line
            .strip_prefix("  ")
            .and_then(|rest| rest.split_once(": ["));
        let given = name.and_then(|(name, _)| overrides.iter().find(|it| it.name == name));
        match given {
            None => out.push_str(line),
            Some(given) => {
                let values = given.values.iter().map(|value| scalar::entry(value));
                let values = values.collect::<Vec<_>>().join(", ");
                out.push_str(&format!("  {}: [{values}]", given.name));
            }
        }
        out.push('\n');
    }
    out
}
