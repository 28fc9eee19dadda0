//! Packets that a pair of rules decides, class by class → few products of numbers and addresses.

use std::collections::HashMap;
use std::net::IpAddr;

use sg_common::protocol::Kind;

use super::traffic::Numbers;
use crate::partition::{AddressRange, Family, example_of, is_of_a_host};

/// All packets with some numbers from or to some addresses.
pub(super) type Product = (Vec<Numbers>, Ranges);

/// Numbers, and the classes of addresses from or to which packets have them.
type Block = (Vec<Numbers>, Vec<usize>);

/// Up to so many pieces it is tried whether classes that have numbers in common make fewer rows
/// than numbers that have classes in common.
const TRIED: usize = 20_000;

/// Sorted ranges that do not touch, as numbers.
pub(super) type Ranges = Vec<(u128, u128)>;

/// The ranges of each class.
pub(super) fn by_class(ranges: impl Iterator<Item = AddressRange>) -> Vec<Ranges> {
    let bits = |address| match address {
        IpAddr::V4(a) => u128::from(u32::from(a)),
        IpAddr::V6(a) => u128::from(a),
    };
    let mut classes: Vec<Ranges> = Vec::new();
    for range in ranges {
        let index = range.class.index();
        if classes.len() <= index {
            classes.resize(index + 1, Vec::new());
        }
        if let Some(class) = classes.get_mut(index) {
            class.push((bits(range.first), bits(range.last)));
        }
    }
    classes
}

/// An address of the ranges to show: one that a host can have, if there is one among the first.
pub(super) fn example(family: Family, ranges: &[(u128, u128)]) -> IpAddr {
    let address = |bits: u128| match family {
        Family::V4 => IpAddr::V4((bits as u32).into()),
        Family::V6 => IpAddr::V6(bits.into()),
    };
    let of = |(first, last): &(u128, u128)| example_of(address(*first), address(*last));
    let mut examples = ranges.iter().take(64).map(of);
    let first = examples.next().unwrap_or(address(0));
    match is_of_a_host(first) {
        true => first,
        false => examples.find(|one| is_of_a_host(*one)).unwrap_or(first),
    }
}

/// Adds numbers that come after those that are there.
pub(super) fn add(numbers: &mut Vec<Numbers>, (kind, first, last): Numbers) {
    match numbers.last_mut() {
        Some((of, _, end)) if *of == kind && end.checked_add(1) == Some(first) => *end = last,
        _ => numbers.push((kind, first, last)),
    }
}

/// The packets of `classes`, each with its numbers, in few pieces. Each piece is a product: some
/// numbers together with some addresses.
pub(super) fn products(classes: Vec<(usize, Vec<Numbers>)>, ranges: &[Ranges]) -> Vec<Product> {
    let united = |blocks: Vec<Block>| -> Vec<Product> {
        let of = |(numbers, classes): Block| (numbers, union(&classes, ranges));
        blocks.into_iter().map(of).collect()
    };
    let pieces: usize = classes.iter().map(|(_, numbers)| numbers.len()).sum();
    let by_numbers = by_equal_numbers(&classes);
    if by_numbers.len() < 2 || pieces > TRIED {
        return united(by_numbers);
    }
    let by_addresses = united(by_equal_addresses(&classes));
    let by_numbers = united(by_numbers);
    let length = |blocks: &[Product]| -> usize {
        let of = |(numbers, ranges): &Product| numbers.len() + ranges.len();
        blocks.len() + blocks.iter().map(of).sum::<usize>()
    };
    match length(&by_addresses) < length(&by_numbers) {
        true => by_addresses,
        false => by_numbers,
    }
}

/// Joins classes that have the same numbers.
fn by_equal_numbers(classes: &[(usize, Vec<Numbers>)]) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut known: HashMap<&[Numbers], usize> = HashMap::new();
    for (class, numbers) in classes {
        let index = *known.entry(numbers).or_insert(blocks.len());
        match blocks.get_mut(index) {
            Some((_, classes)) => classes.push(*class),
            None => blocks.push((numbers.clone(), vec![*class])),
        }
    }
    blocks
}

/// Joins numbers that the same classes have.
fn by_equal_addresses(classes: &[(usize, Vec<Numbers>)]) -> Vec<Block> {
    // Where the numbers of a kind begin or end in any class.
    let mut bounds: Vec<(Kind, u32)> = classes
        .iter()
        .flat_map(|(_, numbers)| numbers)
        .flat_map(|&(kind, first, last)| [(kind, first.into()), (kind, u32::from(last) + 1)])
        .collect();
    bounds.sort_unstable_by_key(|(kind, number)| (*kind as u8, *number));
    bounds.dedup();
    let place = |kind: Kind, number: u32| {
        bounds.partition_point(|(k, n)| (*k as u8, *n) < (kind as u8, number))
    };
    let mut having: Vec<Vec<usize>> = vec![Vec::new(); bounds.len()];
    for (class, numbers) in classes {
        for &(kind, first, last) in numbers {
            let places = place(kind, first.into())..place(kind, u32::from(last) + 1);
            for classes in having.get_mut(places).into_iter().flatten() {
                classes.push(*class);
            }
        }
    }
    let mut blocks: Vec<Block> = Vec::new();
    let mut known: HashMap<Vec<usize>, usize> = HashMap::new();
    for (window, classes) in bounds.windows(2).zip(having) {
        let [(kind, first), (_, end)] = window else {
            continue;
        };
        if classes.is_empty() {
            continue;
        }
        let numbers = (*kind, *first as u16, (end - 1) as u16);
        let index = *known.entry(classes.clone()).or_insert(blocks.len());
        match blocks.get_mut(index) {
            Some((all, _)) => add(all, numbers),
            None => blocks.push((vec![numbers], classes)),
        }
    }
    blocks
}

/// The addresses of some classes.
fn union(classes: &[usize], ranges: &[Ranges]) -> Ranges {
    let of = |class: &usize| ranges.get(*class).into_iter().flatten().copied();
    let mut all: Ranges = classes.iter().flat_map(of).collect();
    all.sort_unstable();
    all.dedup_by(|next, kept| {
        let touches = kept.1.checked_add(1) == Some(next.0);
        if touches {
            kept.1 = next.1;
        }
        touches
    });
    all
}
