//! Scalars of YAML: plain where every reader of YAML takes them for the text that they are, else in
//! double quotes.

use std::fmt::Write as _;

/// Words that some reader takes for something else than text.
const WORDS: [&str; 10] = [
    "true", "false", "yes", "no", "on", "off", "null", "y", "n", "nan",
];

/// Free text, such as a name or a description.
pub(super) fn text(text: &str) -> String {
    let starts = text.starts_with(|c: char| c.is_ascii_alphabetic());
    let is_plain = |c: char| c.is_alphanumeric() || " _-./+()'".contains(c);
    match starts && !text.ends_with(' ') && text.chars().all(is_plain) && !is_word(text) {
        true => text.to_owned(),
        false => quoted(text),
    }
}

/// An entry of a list of addresses or ports: a literal or the name of a set.
pub(super) fn entry(entry: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
    let starts = entry.starts_with(|c: char| c.is_ascii_alphanumeric());
    match starts && entry.chars().all(is_plain) && !is_word(entry) {
        true => entry.to_owned(),
        false => quoted(entry),
    }
}

fn is_word(text: &str) -> bool {
    WORDS.iter().any(|word| text.eq_ignore_ascii_case(word))
}

fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            // Control characters, and what YAML or an editor takes for a line break, a blank or
            // nothing at all.
            '\u{a0}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_quoted_where_a_reader_might_take_it_for_something_else() {
        for plain in [
            "web",
            "node ports (TCP)",
            "it's a test",
            "tke-minimal",
            "a.b/c+d",
        ] {
            assert_eq!(text(plain), plain);
        }
        for (written, expected) in [
            ("", r#""""#),
            ("no", r#""no""#),
            ("NULL", r#""NULL""#),
            ("22", r#""22""#),
            ("a: b", r#""a: b""#),
            ("a #b", r#""a #b""#),
            ("- a", r#""- a""#),
            ("a ", r#""a ""#),
            (r#"say "x\y""#, r#""say \"x\\y\"""#),
            ("a\u{2028}b\u{7f}", r#""a\u2028b\u007f""#),
            ("größe", "größe"),
            ("über", r#""über""#),
        ] {
            assert_eq!(text(written), expected);
        }
        assert_eq!(entry("10.0.0.0/8"), "10.0.0.0/8");
        assert_eq!(entry("30000-32767"), "30000-32767");
        assert_eq!(entry("::/0"), r#""::/0""#);
        assert_eq!(entry("y"), r#""y""#);
    }
}
