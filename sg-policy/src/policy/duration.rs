//! Durations: `90`, `90s`, `2m`, `1h`, `5d` → seconds.

use super::address::decimal;
use super::clip::clip;
use super::errors::Problem;

/// The longest timeout, in seconds: one year.
const LONGEST: u32 = 365 * 24 * 3600;

/// Parses a duration of 1 second to 365 days, in whole seconds.
pub(crate) fn parse(text: &str) -> Result<u32, Problem> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match text.get(digits.len()..).unwrap_or_default().trim() {
        "" | "s" => Some(1),
        "m" => Some(60),
        "h" => Some(3600),
        "d" => Some(24 * 3600),
        _ => None,
    };
    let seconds = decimal(digits)
        .zip(unit)
        .and_then(|(n, u)| n.checked_mul(u));
    match seconds {
        Some(seconds) if (1..=LONGEST).contains(&seconds) => Ok(seconds),
        _ => Err(
            Problem::new("bad-timeout", format!("`{}` is not a timeout", clip(text)))
                .expected("seconds, or a number with a unit: `30s`, `2m`, `1h`, `5d`")
                .help(remedy(digits, unit)),
        ),
    }
}

/// The seconds in a duration as policies write it, such as `90s` or `2m`. `None` if it is none.
pub fn seconds_in(text: &str) -> Option<u32> {
    parse(text).ok()
}

/// What to write instead.
fn remedy(digits: &str, unit: Option<u32>) -> String {
    let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let is_zero = digits.bytes().all(|b| b == b'0');
    match (is_number, unit) {
        (true, Some(_)) if is_zero => "the shortest timeout is 1 second: `1s`".to_owned(),
        (true, Some(_)) if digits.starts_with('0') => "write it without leading zeros".to_owned(),
        (true, Some(_)) => format!(
            "the longest timeout is {} days: `{}d`",
            LONGEST / (24 * 3600),
            LONGEST / (24 * 3600)
        ),
        (true, None) => "the units are `s`, `m`, `h` and `d`".to_owned(),
        (false, _) => "write one whole number and one unit, such as `90m`".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves K9.
    #[test]
    fn units_become_seconds() {
        for (text, seconds) in [
            ("90", 90),
            ("30s", 30),
            ("2m", 120),
            ("5d", 432_000),
            ("1 h", 3600),
        ] {
            assert_eq!(parse(text).unwrap(), seconds, "{text}");
        }
        for text in [
            "",
            "0",
            "s",
            "-1",
            "1.5m",
            "1w",
            "366d",
            "99999999999",
            "1h30m",
            "05",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
