//! Texts of a policy, as errors quote them.

use std::borrow::Cow;

/// Whether a terminal obeys a character where it should show it.
pub fn is_obeyed(c: char) -> bool {
    c.is_control() || moves_text(c)
}

/// Whether a character that is no control character reorders the text around it (Unicode Standard
/// Annex 9, section 2) or ends its line.
pub fn moves_text(c: char) -> bool {
    matches!(
        c,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    )
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
