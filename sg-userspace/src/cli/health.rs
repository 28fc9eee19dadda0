//! Warnings about an interface that does not enforce its policy. All commands that print a policy
//! print them first.

use sg_policy::policy::AuditScope;
use sg_userspace::kernel::Fault;
use sg_userspace::observe::status::{Health, Standing};

use super::placed::placed;
use super::screen::{Paint, Screen, wrapped};
use super::units::clean;

/// The word for the health, with its colour.
pub(super) fn word(health: Health) -> (&'static str, Paint) {
    match health {
        Health::Enforcing => ("enforcing", Paint::Green),
        Health::Auditing => ("auditing", Paint::Magenta),
        Health::Interrupted => ("interrupted", Paint::Yellow),
        Health::Incomplete => ("incomplete", Paint::Red),
        Health::Preceded => ("preceded", Paint::Red),
        Health::InterfaceGone => ("interface gone", Paint::Red),
        Health::Unprotected => ("unprotected", Paint::Red),
        Health::Unverified => ("unverified", Paint::Yellow),
        Health::Undone => ("undone", Paint::Yellow),
        Health::Damaged => ("damaged", Paint::Red),
    }
}

/// What passes that a policy would drop, and how that ends. `rules` is how many of its rules are
/// audited.
pub(super) fn auditing(audit: Option<AuditScope>, rules: usize) -> Option<String> {
    let (what, how) = match audit? {
        AuditScope::Rules => (
            match rules {
                1 => "what 1 of its rules would drop passes".to_owned(),
                n => format!("what {n} of its rules would drop passes"),
            },
            "take `audit` out of the rules and apply the policy again",
        ),
        AuditScope::Policy => (
            "what the policy would drop passes, but for malformed packets".to_owned(),
            "apply the policy without --audit",
        ),
        AuditScope::All => (
            "what the policy would drop passes, malformed packets too".to_owned(),
            "apply the policy without --audit",
        ),
    };
    Some(format!(
        "auditing: {what}, and is counted and logged as audit; to enforce it, {how}"
    ))
}

/// A line for each fault, one if what is to be dropped passes, and one if the interface is in
/// another namespace, no longer than the terminal. There are none if the interface is enforcing, or
/// if that cannot be checked from here, which `status` reports.
pub(super) fn warnings(screen: &Screen, standing: &Standing) -> String {
    let Standing {
        interface,
        health,
        faults,
        elsewhere,
        ..
    } = standing;
    let mut out = String::new();
    if let Some(place) = elsewhere {
        let note = screen.paint(Paint::Yellow, "note");
        out.push_str(&format!(
            "{note}: {} is now in the network namespace {}\n",
            clean(interface),
            clean(place)
        ));
    }
    if *health == Health::Auditing {
        out.push_str(&format!(
            "{}: {} is auditing: what its policy would drop passes, all of it or some (`sgctl status`)\n",
            screen.paint(Paint::Magenta, "warning"),
            clean(interface),
        ));
    }
    if *health != Health::Unverified {
        let (word, paint) = word(*health);
        for Fault { message, help, .. } in faults {
            out.push_str(&format!(
                "{}: {} is not enforcing ({word}): {}; {}\n",
                screen.paint(paint, "warning"),
                clean(interface),
                clean(message),
                clean(help)
            ));
        }
    }
    let out = placed(&out);
    match screen.width {
        Some(width) => wrapped(&out, width),
        None => out.into_owned(),
    }
}
