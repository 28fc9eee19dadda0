//! Which words can name a set.

/// The longest name of a set, in characters.
pub(crate) const SET_NAME: usize = 64;

/// Words that mean something else in a list.
pub(crate) const KEYWORDS: [&str; 12] = [
    "any", "all", "none", "file", "true", "false", "yes", "no", "on", "off", "null", "nobody",
];

/// True for `[a-z][a-z0-9_-]*` that is no keyword.
pub(crate) fn is_set_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.len() <= SET_NAME
        && text
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'))
        && !KEYWORDS.contains(&text)
}
