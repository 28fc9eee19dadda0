//! Which characters the locale has: outside of UTF-8, text for people is ASCII alone. What programs
//! read stays as it is: JSON, CSV, metrics, policies.

use textwrap::core::display_width;

/// Whether the locale of the environment is one of UTF-8.
pub(super) fn is_unicode() -> bool {
    // The first of them that is set decides (locale(7)).
    let names = ["LC_ALL", "LC_CTYPE", "LANG"];
    let set = names.iter().find_map(|name| {
        let value = std::env::var(name).ok()?;
        (!value.is_empty()).then_some(value)
    });
    set.is_some_and(|locale| is_utf8(&locale))
}

fn is_utf8(locale: &str) -> bool {
    let locale = locale.to_ascii_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

/// The text in ASCII. Each character keeps its width, since the text may be laid out already.
pub(super) fn ascii(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut buffer = [0; 4];
    for c in text.chars() {
        match c {
            c if c.is_ascii() => out.push(c),
            // Where something was cut off.
            '…' => out.push('~'),
            '→' => out.push('>'),
            // The marks of `lab`.
            '✓' => out.push('+'),
            '✗' => out.push('x'),
            '↩' => out.push('<'),
            c => {
                let width = display_width(c.encode_utf8(&mut buffer));
                out.extend(std::iter::repeat_n('?', width));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locale_says_what_can_be_shown() {
        for (locale, expected) in [
            ("C.UTF-8", true),
            ("de_DE.utf8", true),
            ("C", false),
            ("POSIX", false),
            ("de_DE@euro", false),
        ] {
            assert_eq!(is_utf8(locale), expected, "{locale}");
        }
    }

    #[test]
    fn in_ascii_everything_keeps_its_width() {
        assert_eq!(ascii("a → b, cut o…"), "a > b, cut o~");
        assert_eq!(ascii("größe 東京"), "gr??e ????");
        assert_eq!(ascii("\u{1b}[2mdim\u{1b}[0m"), "\u{1b}[2mdim\u{1b}[0m");
    }
}
