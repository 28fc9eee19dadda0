//! From a remote address to its address class.

use super::entry::{POINTER, is_pointer};
use super::hosts::class_of_host;
use super::number::{Addresses, walk16};
use super::tables::Tables;
use super::tree6::{
    INDEX_BITS6, LAST_KEYS, LAST_LEAVES, MAX_DEPTH, NODE_CHILDREN, NODE_KEYS, TREE_BITS6, up_to,
};

/// The leaf of a tree in whose range `number` lies.
#[inline(always)]
pub(super) fn leaf_of<T: Tables>(tables: &T, root: u32, depth: u32, number: u64) -> Option<u64> {
    let mut at = root;
    for level in 1..MAX_DEPTH {
        if level >= depth {
            break;
        }
        let node = tables.line(at)?;
        let child = up_to(&node.pairs()[..NODE_KEYS], number);
        at = node.0[NODE_CHILDREN].wrapping_add(child as u32);
    }
    let last = tables.line(at)?;
    let child = up_to(&last.pairs()[..LAST_KEYS], number);
    Some(last.0[(LAST_LEAVES + child) & 15].into())
}

/// The class of an IPv4 address.
#[inline(always)]
pub fn class4<T: Tables>(tables: &T, address: u32) -> Option<u32> {
    let entry = tables.root4((address >> 16) as u16);
    let class = walk16::<T, Addresses>(tables, entry, u64::from(address) & 0xffff)? as u32;
    if tables.host_buckets() == 0 {
        return Some(class);
    }
    class_of_host(tables, address, class)
}

/// The class of an IPv6 address, given as its two halves.
#[inline(always)]
pub fn class6<T: Tables>(tables: &T, high: u64, low: u64) -> Option<u32> {
    let tree = high >> TREE_BITS6;
    let mut root = tables.shape().root6(tree as usize);
    let depth = tables.shape().depth6;
    if depth == 0 {
        return Some(root);
    }
    if tables.shape().index6 != 0 && tree == 0 {
        let index = high >> (TREE_BITS6 - INDEX_BITS6);
        root = tables.word(tables.shape().index6.wrapping_add(index as u32))? as u32;
    }
    let mut entry = leaf_of(tables, root, depth, high & ((1 << TREE_BITS6) - 1))?;
    let low_depth = tables.shape().low_depth6;
    if low_depth != 0 && is_pointer(entry) {
        entry = leaf_of(tables, entry as u32 & !POINTER, low_depth, low >> 1)?;
        if is_pointer(entry) {
            entry = tables.word((entry as u32 & !POINTER) + (low & 1) as u32)?;
        }
    }
    Some(entry as u32)
}
