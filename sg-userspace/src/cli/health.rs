//! Warnings about an interface that does not enforce its policy. All commands that print a policy
//! print them first.

use sg_userspace::kernel::Fault;
use sg_userspace::observe::attached::Health;

use super::screen::{Paint, Screen, wrapped};
use super::units::clean;

/// The word for the health, with its colour.
pub(super) fn word(health: Health) -> (&'static str, Paint) {
    match health {
        Health::Enforcing => ("enforcing", Paint::Green),
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

/// A line for each fault, and one if the interface is in another namespace, no longer than the
/// terminal. There are none if the interface is enforcing, or if that cannot be checked from here,
/// which `status` reports.
pub(super) fn warnings(
    screen: &Screen,
    interface: &str,
    health: Health,
    faults: &[Fault],
    elsewhere: Option<&str>,
) -> String {
    let mut out = String::new();
    if let Some(place) = elsewhere {
        let note = screen.paint(Paint::Yellow, "note");
        out.push_str(&format!(
            "{note}: {} is now in the network namespace {}\n",
            clean(interface),
            clean(place)
        ));
    }
    if health != Health::Unverified {
        let (word, paint) = word(health);
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
    match screen.width {
        Some(width) => wrapped(&out, width),
        None => out,
    }
}
