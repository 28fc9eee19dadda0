//! What is said of an interface that does not enforce its policy: first, by every command that
//! prints what the policy would do.

use sg_userspace::kernel::Fault;
use sg_userspace::observe::attached::Health;

use super::screen::{Paint, Screen, wrapped};
use super::units::clean;

/// The word for it.
pub(super) fn word(health: Health) -> (&'static str, Paint) {
    match health {
        Health::Enforcing => ("enforcing", Paint::Green),
        Health::Interrupted => ("interrupted", Paint::Yellow),
        Health::Incomplete => ("incomplete", Paint::Red),
        Health::Preceded => ("preceded", Paint::Red),
        Health::InterfaceGone => ("interface gone", Paint::Red),
        Health::Unprotected => ("unprotected", Paint::Red),
        Health::Unverified => ("unverified", Paint::Yellow),
        Health::Damaged => ("damaged", Paint::Red),
    }
}

/// A line for each fault and one where the interface is elsewhere, no longer than the terminal.
/// Nothing where it is enforcing, or where that cannot be looked at from here, which `status`
/// says.
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
            "{note}: {} is in the network namespace {} by now\n",
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
