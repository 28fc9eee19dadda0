//! One address literal: an address, a CIDR, a range or `any`; and ranges split into prefixes.
//! An error names the spelling that was probably meant.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::clip::clip;
use super::dialect;
use super::errors::Problem;
use super::model::Prefix;

/// A parsed address literal. Ranges include both ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// Both families.
    Any,
    Prefix4(Prefix<u32>),
    Prefix6(Prefix<u128>),
    Range4(u32, u32),
    Range6(u128, u128),
}

/// The canonical spelling: a whole-length prefix as the bare address.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (v4, v6) = (Ipv4Addr::from_bits, Ipv6Addr::from_bits);
        match *self {
            Address::Any => f.write_str("any"),
            Address::Prefix4(p) if p.len == 32 => write!(f, "{}", v4(p.bits)),
            Address::Prefix6(p) if p.len == 128 => write!(f, "{}", v6(p.bits)),
            Address::Prefix4(p) => write!(f, "{}/{}", v4(p.bits), p.len),
            Address::Prefix6(p) => write!(f, "{}/{}", v6(p.bits), p.len),
            Address::Range4(a, b) => write!(f, "{}-{}", v4(a), v4(b)),
            Address::Range6(a, b) => write!(f, "{}-{}", v6(a), v6(b)),
        }
    }
}

/// What may stand in a list.
pub(crate) const ELEMENT: &str =
    "an IPv4 or IPv6 address, a CIDR, a range `a-b`, `any` or a set's name";

/// Parses one literal.
pub(crate) fn parse(text: &str) -> Result<Address, Problem> {
    if text == "any" {
        return Ok(Address::Any);
    }
    if dialect::negates(text) {
        return Err(dialect::negation(&clip(text)));
    }
    if let Some(name) = dialect::sigil(text) {
        return Err(
            Problem::new("bad-address", format!("`{}` is not an address", clip(text)))
                .expected(ELEMENT)
                .help(format!("a set is named by its name alone: write `{name}`")),
        );
    }
    if let Some((first, last)) = text.split_once('-') {
        return range(text, first.trim(), last.trim());
    }
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    match one(address)? {
        One::V4(bits) => {
            let len = prefix_length(text, length, 32)?;
            let mask = mask4(len);
            if bits & !mask != 0 {
                return Err(host_bits(
                    text,
                    Address::Prefix4(Prefix {
                        bits: bits & mask,
                        len,
                    }),
                    Address::Prefix4(Prefix { bits, len: 32 }),
                    32,
                ));
            }
            Ok(Address::Prefix4(Prefix { bits, len }))
        }
        One::V6(bits) => {
            let len = prefix_length(text, length, 128)?;
            let mask = mask6(len);
            if bits & !mask != 0 {
                return Err(host_bits(
                    text,
                    Address::Prefix6(Prefix {
                        bits: bits & mask,
                        len,
                    }),
                    Address::Prefix6(Prefix { bits, len: 128 }),
                    128,
                ));
            }
            if len >= 96 {
                not_mapped(text, bits, length.map(|_| len - 96))?;
            }
            Ok(Address::Prefix6(Prefix { bits, len }))
        }
    }
}

/// The network mask of an IPv4 prefix length.
pub(crate) fn mask4(len: u8) -> u32 {
    u32::MAX
        .checked_shl(32 - u32::from(len.min(32)))
        .unwrap_or(0)
}

/// The network mask of an IPv6 prefix length.
pub(crate) fn mask6(len: u8) -> u128 {
    u128::MAX
        .checked_shl(128 - u32::from(len.min(128)))
        .unwrap_or(0)
}

enum One {
    V4(u32),
    V6(u128),
}

fn one(text: &str) -> Result<One, Problem> {
    if let Ok(v4) = text.parse::<Ipv4Addr>() {
        return Ok(One::V4(v4.to_bits()));
    }
    if let Ok(v6) = text.parse::<Ipv6Addr>() {
        return Ok(One::V6(v6.to_bits()));
    }
    let problem = Problem::new("bad-address", format!("`{}` is not an address", clip(text)))
        .expected(ELEMENT);
    let parts = text.split('.').count();
    let numeric = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    Err(if let Some((address, _)) = text.split_once('%') {
        problem.help(format!(
            "write `{}`: a policy holds for one interface, and zones (`%...`) name no other",
            clip(address)
        ))
    } else if text.starts_with('[') || text.matches(':').count() == 1 {
        problem.help("ports stand under `ports`, and IPv6 addresses need no brackets")
    } else if text.contains(':') {
        problem.help("eight groups of up to four hex digits, `::` once for a run of zeros")
    } else if matches!(text, "all" | "All" | "ALL" | "Any" | "ANY" | "*") {
        problem.help("every address is `any`; every IPv4 address is `0.0.0.0/0`")
    } else if matches!(text, "none" | "nobody") {
        problem.help("nobody is a set that is empty: define one as `[]`, and name it")
    } else if text.contains('*') {
        problem.help("write the network as a CIDR, such as `192.0.2.0/24`")
    } else if !numeric {
        problem.help("host names are not looked up: write the address")
    } else if parts == 4 && text.split('.').any(|p| p.len() > 1 && p.starts_with('0')) {
        problem.help("write the numbers without leading zeros (they look octal)")
    } else if parts < 4 {
        problem.help(format!(
            "an IPv4 address has four numbers, this has {parts}"
        ))
    } else {
        problem.help("an IPv4 address has four numbers from 0 to 255")
    })
}

fn prefix_length(text: &str, length: Option<&str>, width: u8) -> Result<u8, Problem> {
    let Some(length) = length else {
        return Ok(width);
    };
    if let Some(len) = decimal(length)
        .and_then(|n| u8::try_from(n).ok())
        .filter(|n| *n <= width)
    {
        return Ok(len);
    }
    let problem = Problem::new(
        "bad-address",
        format!("`{}` has a bad prefix length", clip(text)),
    )
    .expected(format!("a number from 0 to {width} after the `/`"));
    let mask = length.parse::<Ipv4Addr>().map(|m| m.to_bits());
    Err(match mask {
        Ok(mask) if width == 32 && mask.leading_ones() + mask.trailing_zeros() == 32 => {
            let address = text.split('/').next().unwrap_or_default();
            problem.help(format!(
                "write the mask as `{address}/{}`",
                mask.leading_ones()
            ))
        }
        _ if decimal(length).is_some() => problem.help(format!(
            "a single address is `{}/{width}`, and a network has fewer",
            clip(text.split('/').next().unwrap_or_default())
        )),
        _ => problem.help("write it as a decimal number without leading zeros"),
    })
}

/// A decimal number without sign or leading zeros.
pub(crate) fn decimal(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.len() <= 9 && text.bytes().all(|b| b.is_ascii_digit());
    if !digits || (text.len() > 1 && text.starts_with('0')) {
        return None;
    }
    text.parse().ok()
}

fn host_bits(text: &str, network: Address, host: Address, width: u8) -> Problem {
    Problem::new(
        "host-bits",
        format!(
            "`{}` has host bits set: they lie outside its prefix length",
            clip(text)
        ),
    )
    .expected("a network whose host bits are zero")
    .help(format!(
        "did you mean the network `{network}` or the single address `{host}/{width}`?"
    ))
}

/// Refuses the IPv6 spelling of an IPv4 address: no packet carries it.
fn not_mapped(text: &str, bits: u128, len: Option<u8>) -> Result<(), Problem> {
    let Some(v4) = Ipv6Addr::from_bits(bits).to_ipv4_mapped() else {
        return Ok(());
    };
    let meant = match len {
        Some(len) => format!("{v4}/{len}"),
        None => v4.to_string(),
    };
    Err(Problem::new(
        "mapped-address",
        format!(
            "`{}` is an IPv4 address in IPv6 notation; no packet on the wire carries it",
            clip(text)
        ),
    )
    .expected("the IPv4 spelling")
    .help(format!("write `{meant}`")))
}

fn range(text: &str, first: &str, last: &str) -> Result<Address, Problem> {
    if first.contains('/') || last.contains('/') {
        return Err(Problem::new(
            "bad-range",
            format!("`{}` is a range of networks", clip(text)),
        )
        .expected("a range of two addresses, `a-b`")
        .help("write the first and the last address, or list the networks"));
    }
    let reversed = |problem: Address| {
        Problem::new(
            "bad-range",
            format!("the range `{}` runs backwards", clip(text)),
        )
        .expected("the lower address first")
        .help(format!("did you mean `{problem}`?"))
    };
    match (one(first)?, one(last)?) {
        (One::V4(a), One::V4(b)) if a <= b => Ok(Address::Range4(a, b)),
        (One::V4(a), One::V4(b)) => Err(reversed(Address::Range4(b, a))),
        (One::V6(a), One::V6(b)) if a <= b => {
            not_mapped(first, a, None)?;
            not_mapped(last, b, None)?;
            Ok(Address::Range6(a, b))
        }
        (One::V6(a), One::V6(b)) => Err(reversed(Address::Range6(b, a))),
        _ => Err(Problem::new(
            "bad-range",
            format!("the range `{}` mixes IPv4 and IPv6", clip(text)),
        )
        .expected("two addresses of one family")
        .help("write one range for each family")),
    }
}

/// Calls `push` with the fewest prefixes that cover `first..=last` exactly, in order. `width` is
/// the bits of an address (32 or 128) and of both ends.
pub(crate) fn split(first: u128, last: u128, width: u8, mut push: impl FnMut(u128, u8)) {
    let mut at = first;
    while at <= last {
        // The largest prefix that starts at `at` and ends by `last`, as the logarithm of its size.
        let aligned = at.trailing_zeros().min(u32::from(width));
        let left = last - at;
        let fits = match left.checked_add(1) {
            Some(count) => count.ilog2(),
            None => 128,
        };
        let block = aligned.min(fits);
        push(at, width - block as u8);
        match 1u128
            .checked_shl(block)
            .and_then(|size| at.checked_add(size))
        {
            Some(next) => at = next,
            None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn help(text: &str) -> String {
        let problem = parse(text).unwrap_err();
        format!("{} | {}", problem.message, problem.help.unwrap())
    }

    /// Proves P4.
    #[test]
    fn every_kind_of_literal_prints_as_it_was_written() {
        for text in [
            "any",
            "10.0.0.0/8",
            "0.0.0.0/0",
            "1.2.3.4",
            "::/0",
            "fe80::/10",
            "2001:db8::1",
            "10.0.0.1-10.0.0.9",
            "::1-::f",
        ] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
        assert_eq!(parse("1.2.3.4/32").unwrap().to_string(), "1.2.3.4");
    }

    /// Proves P5.
    #[test]
    fn host_bits_name_the_network_and_the_host() {
        let text = help("10.1.2.3/8");
        assert!(
            text.contains("`10.0.0.0/8`") && text.contains("`10.1.2.3/32`"),
            "{text}"
        );
        let text = help("2001:db8::1/32");
        assert!(
            text.contains("`2001:db8::/32`") && text.contains("`2001:db8::1/128`"),
            "{text}"
        );
    }

    /// Proves P4.
    #[test]
    fn bad_literals_say_what_they_should_be() {
        for (text, needle) in [
            ("10.0.0.0/33", "a single address is `10.0.0.0/32`"),
            ("::/129", "a single address is `::/128`"),
            ("10.0.0.0/08", "without leading zeros"),
            ("10.0.0.0/255.0.0.0", "`10.0.0.0/8`"),
            ("10.0.0", "four numbers"),
            ("010.0.0.1", "leading zeros"),
            ("1.2.3.256", "0 to 255"),
            ("fe80::1%eth0", "zone"),
            ("1.2.3.4:80", "ports"),
            ("example.com", "host names"),
            ("::ffff:1.2.3.4", "`1.2.3.4`"),
            ("::ffff:1.2.3.0/120", "`1.2.3.0/24`"),
            ("10.0.0.9-10.0.0.1", "`10.0.0.1-10.0.0.9`"),
            ("10.0.0.1-::1", "each family"),
            ("10.0.0.0/8-11.0.0.0/8", "networks"),
        ] {
            let text_of = help(text);
            assert!(text_of.contains(needle), "{text}: {text_of}");
        }
    }

    #[test]
    fn a_whole_family_is_one_prefix() {
        let mut found = Vec::new();
        split(0, u128::MAX, 128, |bits, len| found.push((bits, len)));
        split(0, u128::from(u32::MAX), 32, |bits, len| {
            found.push((bits, len))
        });
        assert_eq!(found, [(0, 0), (0, 0)]);
    }

    proptest! {
        /// Proves P4.
        #[test]
        fn a_split_range_covers_exactly_the_range(a: u32, b: u32) {
            let (first, last) = (a.min(b), a.max(b));
            let mut next = Some(u64::from(first));
            split(u128::from(first), u128::from(last), 32, |bits, len| {
                let bits = bits as u64;
                assert_eq!(Some(bits), next, "prefixes follow each other without a gap");
                assert_eq!(bits as u32 & !mask4(len), 0, "no host bits");
                next = Some(bits + (1u64 << (32 - len)));
            });
            prop_assert_eq!(next, Some(u64::from(last) + 1));
        }

        #[test]
        fn a_split_ipv6_range_covers_exactly_the_range(a: u128, b: u128, shift in 0u32..128) {
            let (first, last) = ((a >> shift).min(b >> shift), (a >> shift).max(b >> shift));
            let mut covered = 0u128;
            let mut count = 0;
            split(first, last, 128, |bits, len| {
                assert_eq!(bits, first.wrapping_add(covered));
                assert_eq!(bits & !mask6(len), 0);
                covered = covered.wrapping_add(1u128.checked_shl(128 - u32::from(len)).unwrap_or(0));
                count += 1;
            });
            prop_assert_eq!(covered, (last - first).wrapping_add(1));
            prop_assert!(count <= 254);
        }
    }
}
