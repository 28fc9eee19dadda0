//! Remotes as merged address ranges: which addresses a set covers, and whether one covers another.

use super::address::{mask4, mask6};
use super::model::{Prefix, Remote};

/// Sorted, disjoint, inclusive ranges that do not touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cover {
    pub(crate) v4: Vec<(u128, u128)>,
    pub(crate) v6: Vec<(u128, u128)>,
}

impl Cover {
    pub(crate) fn of(remote: &Remote) -> Cover {
        let v4 = |p: &Prefix<u32>| (u128::from(p.bits), u128::from(p.bits | !mask4(p.len)));
        let v6 = |p: &Prefix<u128>| (p.bits, p.bits | !mask6(p.len));
        Cover {
            v4: merge(remote.v4.iter().map(v4)),
            v6: merge(remote.v6.iter().map(v6)),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    pub(crate) fn whole_v4(&self) -> bool {
        self.v4 == [(0, u128::from(u32::MAX))]
    }

    pub(crate) fn whole_v6(&self) -> bool {
        self.v6 == [(0, u128::MAX)]
    }

    /// True when every address of `other` is one of these.
    pub(crate) fn covers(&self, other: &Cover) -> bool {
        holds_all(&self.v4, &other.v4) && holds_all(&self.v6, &other.v6)
    }
}

/// `ranges` come sorted by their lower end.
fn merge(ranges: impl Iterator<Item = (u128, u128)>) -> Vec<(u128, u128)> {
    let mut out: Vec<(u128, u128)> = Vec::new();
    for (first, last) in ranges {
        match out.last_mut() {
            Some(kept) if kept.1 == u128::MAX || first <= kept.1 + 1 => kept.1 = kept.1.max(last),
            _ => out.push((first, last)),
        }
    }
    out
}

fn holds_all(outer: &[(u128, u128)], inner: &[(u128, u128)]) -> bool {
    inner.iter().all(|(first, last)| {
        let after = outer.partition_point(|(start, _)| start <= first);
        let holder = after.checked_sub(1).and_then(|i| outer.get(i));
        holder.is_some_and(|(_, end)| last <= end)
    })
}

/// True when the remote is a whole family, or both.
pub(crate) fn is_whole_family(remote: &Remote) -> bool {
    /// A longer list is not looked at: nobody spells "everything" like that.
    const LONG: usize = 1 << 16;
    let plain = remote.v4.first().is_some_and(|p| p.len == 0)
        || remote.v6.first().is_some_and(|p| p.len == 0);
    if plain || remote.v4.len().max(remote.v6.len()) > LONG {
        return plain;
    }
    let cover = Cover::of(remote);
    cover.whole_v4() || cover.whole_v6()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_halves_are_the_whole() {
        let half = |bits| Prefix { bits, len: 1 };
        let remote = Remote {
            v4: vec![half(0), half(1 << 31)],
            v6: Vec::new(),
        };
        assert!(is_whole_family(&remote));
        let one = Remote {
            v4: vec![half(0)],
            v6: Vec::new(),
        };
        assert!(!is_whole_family(&one));
        assert!(Cover::of(&remote).covers(&Cover::of(&one)));
        assert!(!Cover::of(&one).covers(&Cover::of(&remote)));
    }
}
