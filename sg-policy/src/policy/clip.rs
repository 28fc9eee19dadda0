//! Texts of a policy, as errors quote them.

use std::borrow::Cow;

/// Whether a terminal obeys a character where it should show it: control characters, and those that
/// reorder the text around them (Unicode Standard Annex 9, section 2).
pub fn is_obeyed(c: char) -> bool {
    let reorders = matches!(
        c,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    reorders || c.is_control()
}

/// A text short enough to be quoted in an error.
pub(crate) fn clip(text: &str) -> Cow<'_, str> {
    let one_line = |c: char| if is_obeyed(c) { ' ' } else { c };
    match text.chars().count() {
        0..=80 if !text.contains(is_obeyed) => Cow::Borrowed(text),
        0..=80 => Cow::Owned(text.chars().map(one_line).collect()),
        _ => Cow::Owned(text.chars().take(80).map(one_line).collect::<String>() + "…"),
    }
}
