//! Texts of a policy, as errors quote them.

use std::borrow::Cow;

/// A text short enough to be quoted in an error.
pub(crate) fn clip(text: &str) -> Cow<'_, str> {
    let one_line = |c: char| if c.is_control() { ' ' } else { c };
    match text.chars().count() {
        0..=80 if !text.contains(char::is_control) => Cow::Borrowed(text),
        0..=80 => Cow::Owned(text.chars().map(one_line).collect()),
        _ => Cow::Owned(text.chars().take(80).map(one_line).collect::<String>() + "…"),
    }
}
