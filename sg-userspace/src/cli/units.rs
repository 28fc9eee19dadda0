//! Numbers for people: thousands, bytes, rates, durations. JSON has the exact numbers instead.

use std::path::Path;

use jiff::Timestamp;
use sg_policy::policy::{Location, is_obeyed};

/// `1234567` as `1,234,567`.
pub(super) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Three significant digits and a binary unit: `1.21 MiB`.
pub(super) fn bytes(number: u64) -> String {
    if number < 1024 {
        return format!("{number} B");
    }
    scaled(
        number as f64,
        1024.0,
        &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"],
    )
}

/// Three significant digits and a decimal unit: `1.21 M`.
pub(super) fn short(number: f64) -> String {
    match number {
        n if n < 1000.0 => format!("{n:.0}"),
        n => scaled(n, 1000.0, &["", "k", "M", "G", "T", "P", "E"]),
    }
}

/// Packets per second: `1.21 k/s`.
pub(super) fn packet_rate(rate: f64) -> String {
    format!("{}/s", short(rate))
}

/// Bits per second: `1.21 Mbit/s`.
pub(super) fn bit_rate(rate: f64) -> String {
    match rate {
        r if r < 1000.0 => format!("{r:.0} bit/s"),
        r => format!("{}bit/s", short(r)),
    }
}

fn scaled(mut value: f64, step: f64, units: &[&str]) -> String {
    let mut units = units.iter();
    let mut unit = units.next().copied().unwrap_or_default();
    // A value that would be printed as 1000 goes to the next unit.
    while value >= step.min(999.5) {
        match units.next() {
            Some(next) => (value, unit) = (value / step, next),
            None => break,
        }
    }
    match value {
        v if v < 9.995 => format!("{v:.2} {unit}"),
        v if v < 99.95 => format!("{v:.1} {unit}"),
        v => format!("{v:.0} {unit}"),
    }
}

/// A duration in its largest unit: `3 min`.
pub(super) fn span(seconds: u64) -> String {
    match seconds {
        s @ 0..120 => format!("{s} s"),
        s @ 120..7200 => format!("{} min", s / 60),
        s @ 7200..172_800 => format!("{} h", s / 3600),
        s => format!("{} d", s / 86_400),
    }
}

/// A duration in its largest unit, to the nearest: of five days less a second `5 d`.
pub(super) fn nearly(seconds: u64) -> String {
    let unit = match seconds {
        0..120 => 1,
        120..7200 => 60,
        7200..172_800 => 3600,
        _ => 86_400,
    };
    span((seconds + unit / 2) / unit * unit)
}

/// What is left of a time, rounded up, so that it begins as it was given.
pub(super) fn left(seconds: f64) -> String {
    match seconds.ceil() as u64 {
        whole @ 0..=120 => span(whole),
        whole => span(whole.div_ceil(60) * 60),
    }
}

/// How long ago `at` (RFC 3339) was: `3 min ago`. Text that is no such time is returned as it is.
pub(super) fn ago(at: &str) -> String {
    since(at, Timestamp::now())
}

/// How long before `now` it was.
pub(super) fn since(at: &str, now: Timestamp) -> String {
    match at.parse::<Timestamp>() {
        Err(_) => at.to_owned(),
        Ok(time) => match now.as_second() - time.as_second() {
            // The clock was set back since then.
            ..1 => "just now".to_owned(),
            seconds => format!("{} ago", span(seconds.unsigned_abs())),
        },
    }
}

/// A time in RFC 3339, to the second.
pub(super) fn seconds_of(at: &str) -> String {
    match at.parse::<Timestamp>() {
        Err(_) => at.to_owned(),
        Ok(time) => time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    }
}

/// `1 rule`, `2 rules`.
pub(super) fn count(number: usize, what: &str) -> String {
    let number = number as u64;
    match number {
        1 => format!("1 {what}"),
        n => format!("{} {what}s", thousands(n)),
    }
}

/// The first digits of a digest, enough to tell policies apart by eye.
pub(super) fn short_digest(digest: &str) -> &str {
    let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
    hex.get(..12).unwrap_or(hex)
}

/// A place in a policy file, `p.yaml:12`, relative to the working directory if it is in there.
pub(super) fn place(location: &Location) -> String {
    let path = Path::new(&location.file);
    let here = std::env::current_dir().ok();
    let inside = here.and_then(|here| path.strip_prefix(here).ok());
    let file = inside.unwrap_or(path).display();
    format!("{file}:{}", location.line)
}

/// Text from policies and the kernel, without characters that would move the cursor, break a line
/// or reorder one.
pub(super) fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if is_obeyed(c) { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_right() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1024), "1.00 KiB");
        assert_eq!(bytes(1 << 20), "1.00 MiB");
        assert_eq!(bytes(1_024_000), "0.98 MiB");
        assert_eq!(bytes(u64::MAX), "16.0 EiB");
        assert_eq!(packet_rate(12.4), "12/s");
        assert_eq!(packet_rate(1_210_000.0), "1.21 M/s");
        assert_eq!(bit_rate(1_000_000.0), "1.00 Mbit/s");
        assert_eq!(short(999.4), "999");
        assert_eq!(short(1e6), "1.00 M");
        assert_eq!(span(119), "119 s");
        assert_eq!(span(7199), "119 min");
        assert_eq!(span(400_000), "4 d");
        assert_eq!(nearly(119), "119 s");
        assert_eq!(nearly(3570), "60 min");
        assert_eq!(nearly(7199), "2 h");
        assert_eq!(nearly(5 * 86_400 - 1), "5 d");
        assert_eq!(nearly(4 * 86_400 + 3600), "4 d");
        assert_eq!(left(9.2), "10 s");
        assert_eq!(left(3599.3), "60 min");
        assert_eq!(left(7199.9), "2 h");
    }

    #[test]
    fn text_cannot_move_the_cursor() {
        assert_eq!(clean("a\x1b[2Jb\nc"), "a [2Jb c");
        assert_eq!(clean("a\u{202e}b\u{2066}c\u{200f}d"), "a b c d");
    }
}
