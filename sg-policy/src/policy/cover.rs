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

    pub(crate) fn whole_v4(&self) -> bool {
        self.v4 == [(0, u128::from(u32::MAX))]
    }

    pub(crate) fn whole_v6(&self) -> bool {
        self.v6 == [(0, u128::MAX)]
    }

    /// These addresses and those of `others`.
    pub(crate) fn and(self, others: &[Cover]) -> Cover {
        if others.is_empty() {
            return self;
        }
        let (mut v4, mut v6) = (self.v4, self.v6);
        for other in others {
            v4.extend_from_slice(&other.v4);
            v6.extend_from_slice(&other.v6);
        }
        v4.sort_unstable();
        v6.sort_unstable();
        Cover {
            v4: merge(v4.into_iter()),
            v6: merge(v6.into_iter()),
        }
    }

    /// All other addresses.
    pub(crate) fn complement(&self) -> Cover {
        Cover {
            v4: gaps(&self.v4, u128::from(u32::MAX)),
            v6: gaps(&self.v6, u128::MAX),
        }
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

/// What lies between `ranges`, up to `end`.
fn gaps(ranges: &[(u128, u128)], end: u128) -> Vec<(u128, u128)> {
    let mut out = Vec::new();
    let mut next = Some(0);
    for (first, last) in ranges {
        if let Some(next) = next
            && next < *first
        {
            out.push((next, first - 1));
        }
        next = last.checked_add(1).filter(|next| *next <= end);
    }
    out.extend(next.map(|next| (next, end)));
    out
}

fn holds_all(outer: &[(u128, u128)], inner: &[(u128, u128)]) -> bool {
    inner.iter().all(|(first, last)| {
        let after = outer.partition_point(|(start, _)| start <= first);
        let holder = after.checked_sub(1).and_then(|i| outer.get(i));
        holder.is_some_and(|(_, end)| last <= end)
    })
}

/// True when the remote has every address of a family, or of both.
pub(crate) fn is_whole_family(remote: &Remote) -> bool {
    /// A longer list is not examined: no policy writes "everything" like that.
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
    fn a_complement_is_everything_else() {
        let ten = Remote {
            v4: vec![Prefix {
                bits: 10 << 24,
                len: 8,
            }],
            v6: Vec::new(),
        };
        let ten = Cover::of(&ten);
        let others = ten.complement();
        let end = u128::from(u32::MAX);
        assert_eq!(others.v4, [(0, (10 << 24) - 1), (11 << 24, end)]);
        assert!(others.whole_v6() && others.complement() == ten);
        let all = ten.and(std::slice::from_ref(&others));
        assert!(all.whole_v4() && all.complement() == Cover::default());
    }

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
