//! The flow table: set-associative, in two arrays, without locks. One algorithm for the packet
//! path, for userspace and for the tests; each brings its own atomic words.
//!
//! A *group* is one cache line of tags and one page of entries. Its eight words hold eight
//! one-byte tags each: six words for established flows, two for half-open ones, so that a flood
//! of opening packets evicts its like only. A flow's hash names its group, one word of each half
//! of the established ones, of which the emptier is taken (two choices even the load out: with
//! twice the room that flows need, next to none is evicted), a half-open word, and the tag. That
//! there is no flow is known from one line of tags.
//!
//! Beside them there are counts of flows by their local ports: see `flow_ports`.
//!
//! Who may write an entry is decided by its tag alone:
//!
//! - 0 is free, [`BUSY`] belongs to whoever swapped it in, any other is the tag of a flow. A way is
//!   claimed by a compare-and-swap of the whole word, which succeeds only if nothing in the word
//!   has changed since it was looked through. So is a new flow's tag published: of two CPUs that
//!   enter the same flow at once into one word the later one finds the other, and gives its way
//!   back. Where they have chosen different words, each looks into both after publishing, and
//!   whoever sees it twice takes out the one in the second word.
//! - An entry's head has another version for each flow, and is marked while it is written. A reader
//!   takes what it has read only if the head is then still of the flow that it began with; whoever
//!   changes a head does so from the value that it has read.
//!
//! Nothing waits: every loop is bounded, and who loses goes without an entry.

#[cfg(not(target_arch = "bpf"))]
use core::sync::atomic::Ordering::{Acquire, Release, SeqCst};

use crate::flow::FlowKind;
use crate::flow_entry::{
    ADDRESSES, BEGUN, Contents, ENTRY_WORDS, FlowKey, HEAD, Head, NAME, RULE, age,
};
use crate::flow_ports::{PORT_COUNTS, count_of};
use crate::tcp;

/// Words of a line of tags.
pub const LINE_WORDS: usize = 8;
/// Entries of a word.
pub const WAYS: usize = 8;
const ESTABLISHED_WORDS: usize = 6;
const HALF: u32 = ESTABLISHED_WORDS as u32 / 2;
const HALF_OPEN_WORDS: u32 = (LINE_WORDS - ESTABLISHED_WORDS) as u32;

/// The tag of a way that is being written.
pub const BUSY: u64 = 1;
/// Tags of flows begin here.
const FIRST_TAG: u32 = 2;
const TAGS: u32 = 256 - FIRST_TAG;

const LOW_BITS: u64 = 0x0101_0101_0101_0101;
const HIGH_BITS: u64 = LOW_BITS << 7;

/// Attempts before a contended word is given up.
const ATTEMPTS: u64 = 2;

/// How many flows of one word may have the same tag, so that looking among them is soon over. A
/// fourth one, which there is once in some ten thousand full words, takes the place of another.
const SAME_TAG: u64 = 3;

/// Groups of a table in which `flows` established flows find room: it has twice as many ways.
pub const fn groups_for(flows: u32) -> u32 {
    const WAYS_OF_GROUP: u64 = (ESTABLISHED_WORDS * WAYS) as u64;
    let groups = (2 * flows as u64).div_ceil(WAYS_OF_GROUP);
    if groups == 0 { 1 } else { groups as u32 }
}

/// A word of memory that several CPUs read and write.
pub trait Word {
    /// Reads it; what is read later is not older.
    fn load(&self) -> u64;
    /// A load that does not overtake the one which returned `earlier`.
    fn load_after(&self, earlier: u64) -> u64;
    /// Writes it; what was written earlier is seen with it.
    fn store(&self, value: u64);
    /// Swaps, as a full barrier.
    fn swap(&self, value: u64) -> u64;
    /// Writes `new` where `old` is, as a full barrier; true if it was.
    fn replace(&self, old: u64, new: u64) -> bool;
    /// Adds, and tells nothing.
    fn add(&self, value: u64);

    /// Hides from the compiler what it knows of a number. It then leaves arithmetic as it is
    /// written, instead of making branches of it which are two ways for the verifier, and loops
    /// as well.
    #[inline(always)]
    fn opaque(value: u64) -> u64 {
        value
    }

    /// As [`Word::opaque`], and the verifier too loses what it knows. `unknown` is any number of
    /// which it knows nothing.
    #[inline(always)]
    fn forget(value: u64, _unknown: u64) -> u64 {
        value
    }

    /// Hides that a key has been read before: the compiler would keep all of it on a short stack.
    #[inline(always)]
    fn unread(key: &FlowKey) -> &FlowKey {
        key
    }
}

#[cfg(not(target_arch = "bpf"))]
impl Word for core::sync::atomic::AtomicU64 {
    #[inline]
    fn load(&self) -> u64 {
        self.load(Acquire)
    }

    #[inline]
    fn load_after(&self, _earlier: u64) -> u64 {
        self.load(Acquire)
    }

    #[inline]
    fn store(&self, value: u64) {
        self.store(value, Release);
    }

    #[inline]
    fn swap(&self, value: u64) -> u64 {
        self.swap(value, SeqCst)
    }

    #[inline]
    fn replace(&self, old: u64, new: u64) -> bool {
        self.compare_exchange(old, new, SeqCst, SeqCst).is_ok()
    }

    #[inline]
    fn add(&self, value: u64) {
        self.fetch_add(value, SeqCst);
    }
}

/// The tags of a group: eight words of eight tags, one cache line.
pub type Line<W> = [W; LINE_WORDS];
/// One flow, one cache line: see `flow_entry` for its words.
pub type Entry<W> = [W; ENTRY_WORDS];
/// The entries of a group.
pub type Page<W> = [[Entry<W>; WAYS]; LINE_WORDS];

/// Where a flow may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spot {
    /// The group.
    pub group: u32,
    /// The tag, a byte.
    pub tag: u64,
    /// Words of the line: two for an established flow, one in each half, and one for a half-open
    /// one.
    pub first: u32,
    /// The word of the second half.
    pub second: u32,
    /// The word for a half-open flow.
    pub half_open: u32,
}

impl Spot {
    /// Each step takes what is left of the hash below the last one, so that all are independent.
    #[inline(always)]
    pub const fn of(hash: u32, groups: u32) -> Spot {
        const LEFT: u64 = 0xffff_ffff;
        let group = hash as u64 * groups as u64;
        let first = (group & LEFT) * HALF as u64;
        let second = (first & LEFT) * HALF as u64;
        let tag = ((second & LEFT) * (TAGS * HALF_OPEN_WORDS) as u64) >> 32;
        Spot {
            group: (group >> 32) as u32,
            tag: FIRST_TAG as u64 + (tag >> 1),
            first: (first >> 32) as u32,
            second: HALF + (second >> 32) as u32,
            half_open: ESTABLISHED_WORDS as u32 + (tag as u32 & 1),
        }
    }
}

/// Which kind of flow a word holds.
#[inline(always)]
pub const fn kind_of_word(word: u32) -> FlowKind {
    if word < ESTABLISHED_WORDS as u32 {
        FlowKind::Established
    } else {
        FlowKind::HalfOpen
    }
}

/// `tag` in every byte.
#[inline(always)]
pub const fn spread(tag: u64) -> u64 {
    tag * LOW_BITS
}

/// The high bit of every byte of `word` that equals that of `spread`, and no other bit.
#[inline(always)]
pub const fn matches(word: u64, spread: u64) -> u64 {
    let differs = word ^ spread;
    !(((differs & !HIGH_BITS) + !HIGH_BITS) | differs) & HIGH_BITS
}

/// Not zero if any byte of `word` equals that of `spread`; which ones it does not say.
#[inline(always)]
pub const fn has_match(word: u64, spread: u64) -> u64 {
    let differs = word ^ spread;
    differs.wrapping_sub(LOW_BITS) & !differs & HIGH_BITS
}

/// The number of the lowest byte in a result of [`matches()`] that is not zero.
#[inline(always)]
pub const fn lowest(matches: u64) -> u32 {
    let bit = (matches & matches.wrapping_neg()) >> 7;
    (bit.wrapping_mul(0x0001_0203_0405_0607) >> 56) as u32
}

/// How many bytes a result of [`matches()`] has.
#[inline(always)]
const fn count(matches: u64) -> u64 {
    (matches >> 7).wrapping_mul(LOW_BITS) >> 56
}

/// A way of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// Its group.
    pub group: u32,
    /// The word of the group's line.
    pub word: u32,
    /// Which way of that word.
    pub way: u32,
}

/// A flow that was found, as it was then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Found {
    /// What its entry says.
    pub contents: Contents,
    /// The group that it was found in.
    pub group: u32,
    /// The word times [`WAYS`], and the way.
    pub at: u32,
}

impl Found {
    /// All zero.
    pub const NOTHING: Found = Found {
        contents: Contents {
            head: Head(0),
            rule: 0,
            begun: 0,
        },
        group: 0,
        at: 0,
    };

    /// Completes what has been found in a way of a word.
    #[inline(always)]
    pub const fn set_place(&mut self, group: u32, word: u32, way: u32) {
        self.group = group;
        self.at = word * WAYS as u32 + way;
    }

    /// The word of the group's line.
    #[inline(always)]
    pub const fn word(&self) -> u32 {
        self.at / WAYS as u32
    }

    /// Which kind of flow it was found among.
    #[inline(always)]
    pub const fn kind(&self) -> FlowKind {
        kind_of_word(self.word())
    }

    /// Where it was found.
    pub const fn place(&self) -> Place {
        Place {
            group: self.group,
            word: self.word(),
            way: self.at % WAYS as u32,
        }
    }
}

/// The memory of a table, and what else the algorithm has to ask for. `find_in`, `has` and
/// `victim` loop over the ways of a word: the packet path overrides them, to have each verified
/// once.
pub trait Table {
    /// How its words are read and written.
    type Word: Word;

    /// The tags of a group; `None` where there is no such group.
    fn line(&self, group: u32) -> Option<&Line<Self::Word>>;
    /// The entries of a group; `None` where there is no such group.
    fn page(&self, group: u32) -> Option<&Page<Self::Word>>;

    /// How many flows there are at which local ports, or more: see `flow_ports`.
    fn port_counts(&self) -> Option<&[Self::Word; PORT_COUNTS]>;

    /// The age at which a flow in `state` has expired: see [`crate::flow_entry::time_out`].
    fn time_out(&self, state: u8) -> u32;

    /// Looks for `key` among the `candidates` of one word, a result of [`matches()`]: its way, or
    /// [`NO_WAY`].
    #[inline(always)]
    fn find_in(
        &self,
        group: u32,
        word: u32,
        candidates: u64,
        key: &FlowKey,
        out: &mut Contents,
    ) -> u32 {
        match look(self, group, word, candidates, key) {
            Some((way, contents)) => {
                *out = contents;
                way
            }
            None => NO_WAY,
        }
    }

    /// Whether `key` is there.
    #[inline(always)]
    fn has(&self, group: u32, word: u32, candidates: u64, key: &FlowKey) -> bool {
        look(self, group, word, candidates, key).is_some()
    }

    /// Gives back a way that was claimed and written. Rarely asked for: the packet path has it
    /// apart, for the stack is short.
    #[inline(always)]
    fn give_back(&self, group: u32, word: u32, way: u32) {
        give_back(self, group, word, way);
    }

    /// The way of a word, which holds these tags, whose flow has to go, or [`NO_WAY`].
    #[inline(always)]
    fn victim(&self, group: u32, word: u32, tags: u64, clock: u32) -> u32 {
        victim(self, group, word, tags, clock)
    }
}

/// Instead of a way.
pub const NO_WAY: u32 = WAYS as u32;

/// One word of a line.
#[inline(always)]
pub fn tags_of<W: Word>(line: &Line<W>, word: u32) -> u64 {
    word_of(line, word).load()
}

#[inline(always)]
fn word_of<W>(line: &Line<W>, word: u32) -> &W {
    &line[(word % LINE_WORDS as u32) as usize]
}

#[inline(always)]
fn entry_of<W>(page: &Page<W>, word: u32, way: u32) -> &Entry<W> {
    &page[(word % LINE_WORDS as u32) as usize][(way % WAYS as u32) as usize]
}

/// The words of an entry, as they were after its head was read.
pub struct Words<'a, W> {
    entry: &'a Entry<W>,
    before: u64,
}

impl<W: Word> Words<'_, W> {
    /// One of them; `index` is below [`ENTRY_WORDS`].
    #[inline(always)]
    pub fn get(&self, index: usize) -> u64 {
        self.entry[index].load_after(self.before)
    }
}

/// Reads an entry if `differs` finds in its words what it looks for, and says zero. What is
/// returned belongs together.
#[inline(always)]
pub fn read_if<W: Word>(
    entry: &Entry<W>,
    differs: impl FnOnce(&Words<'_, W>) -> u64,
) -> Option<Contents> {
    let before = entry[HEAD].load();
    let words = Words { entry, before };
    let mut differs = differs(&words);
    let (rule, begun) = (words.get(RULE), words.get(BEGUN));
    let after = entry[HEAD].load_after(rule ^ begun ^ differs);
    // One condition for all of it: the verifier walks each way.
    differs |= Head::moved(before, after);
    if W::opaque(differs) != 0 {
        return None;
    }
    Some(Contents {
        head: Head(after),
        rule,
        begun,
    })
}

/// Reads an entry if it holds `key`.
#[inline(always)]
pub fn read<W: Word>(entry: &Entry<W>, key: &FlowKey) -> Option<Contents> {
    read_if(entry, |words| {
        let key = W::unread(key);
        let mut differs = words.get(NAME) ^ key.name;
        for (i, address) in key.addresses.into_iter().enumerate() {
            differs |= words.get(ADDRESSES + i) ^ address;
        }
        differs
    })
}

/// Reads whatever flow an entry holds, if it can be read whole.
pub fn read_any<W: Word>(entry: &Entry<W>) -> Option<(FlowKey, Contents)> {
    let key = FlowKey {
        name: entry[NAME].load(),
        addresses: [
            entry[ADDRESSES].load(),
            entry[ADDRESSES + 1].load(),
            entry[ADDRESSES + 2].load(),
            entry[ADDRESSES + 3].load(),
        ],
    };
    Some((key, read(entry, &key)?))
}

/// Ways of the two words for an established flow that have its tag: one bit of each byte for
/// those of the first word, the next one for those of the second.
#[inline(always)]
pub fn in_both(first: u64, second: u64, spread: u64) -> u64 {
    matches(first, spread) >> 7 | matches(second, spread) >> 6
}

/// The first way of a result of [`in_both`] that is not zero, and its word: it holds the flow, or
/// no other one does in all but one of fifty cases. Without a branch, since either word is as
/// likely.
#[inline(always)]
pub fn choose(spot: &Spot, both: u64) -> (u32, u32) {
    let lowest = both & both.wrapping_neg();
    let in_second = lowest >> 1 & LOW_BITS;
    let way = ((lowest & LOW_BITS) | in_second).wrapping_mul(0x0001_0203_0405_0607) >> 56;
    let is_second = (in_second.wrapping_mul(LOW_BITS) >> 56) as u32;
    (
        spot.first + is_second * (spot.second - spot.first),
        way as u32,
    )
}

/// Which of the `candidates` of a word holds `key`, and what is in it.
#[inline(always)]
pub fn look<T: Table + ?Sized>(
    table: &T,
    group: u32,
    word: u32,
    candidates: u64,
    key: &FlowKey,
) -> Option<(u32, Contents)> {
    let page = table.page(group)?;
    let mut candidates = candidates;
    let mut left = T::Word::opaque(SAME_TAG);
    while left != 0 && candidates != 0 {
        left -= 1;
        let way = lowest(candidates);
        candidates &= candidates.wrapping_sub(1);
        if let Some(contents) = read(entry_of(page, word, way), key) {
            return Some((way, contents));
        }
    }
    None
}

/// Whether there may be a flow at a local port.
#[inline(always)]
pub fn may_have<T: Table + ?Sized>(table: &T, local_port: u64) -> bool {
    match table.port_counts() {
        Some(counts) => counts[count_of(local_port)].load() != 0,
        None => true,
    }
}

/// A flow of this name comes.
#[inline(always)]
fn count_in<T: Table + ?Sized>(table: &T, name: u64) {
    add_to_count(table, name, 1);
}

/// A flow of this name has gone, or has not come.
#[inline(always)]
fn count_out<T: Table + ?Sized>(table: &T, name: u64) {
    add_to_count(table, name, 1u64.wrapping_neg());
}

#[inline(always)]
fn add_to_count<T: Table + ?Sized>(table: &T, name: u64, number: u64) {
    if let Some(counts) = table.port_counts() {
        counts[count_of(name)].add(number);
    }
}

/// Looks for a flow, for a half-open one first: when one goes from one kind to the other it is
/// entered there before it leaves here, so that whoever does not find it here any more finds it
/// there.
#[inline(always)]
pub fn find<T: Table + ?Sized>(table: &T, spot: &Spot, key: &FlowKey, out: &mut Found) -> bool {
    let Some(line) = table.line(spot.group) else {
        return false;
    };
    let tags = spread(spot.tag);
    // One number for the three of them, four bits for each, in their order.
    let mut words = 0u64;
    for word in [spot.second, spot.first, spot.half_open] {
        words = words << 4 | word as u64;
    }
    let mut left = T::Word::opaque(3);
    while left != 0 {
        left -= 1;
        let word = words as u32 & 7;
        words >>= 4;
        let candidates = matches(word_of(line, word).load(), tags);
        if candidates == 0 {
            continue;
        }
        let way = table.find_in(spot.group, word, candidates, key, &mut out.contents);
        if way != NO_WAY {
            out.set_place(spot.group, word, way);
            return true;
        }
    }
    false
}

/// Looks for a flow among those of one kind.
pub fn find_kind<T: Table + ?Sized>(
    table: &T,
    spot: &Spot,
    key: &FlowKey,
    kind: FlowKind,
) -> Option<Found> {
    let words: &[u32] = match kind {
        FlowKind::Established => &[spot.first, spot.second],
        FlowKind::HalfOpen => &[spot.half_open],
    };
    let line = table.line(spot.group)?;
    let mut found = Found::NOTHING;
    for &word in words {
        let candidates = matches(word_of(line, word).load(), spread(spot.tag));
        let way = table.find_in(spot.group, word, candidates, key, &mut found.contents);
        if way != NO_WAY {
            found.set_place(spot.group, word, way);
            return Some(found);
        }
    }
    None
}

/// See [`Table::victim`]: a flow that has expired, else one that is closing, and of several such,
/// or else of all, the one seen least recently.
#[inline(always)]
pub fn victim<T: Table + ?Sized>(table: &T, group: u32, word: u32, tags: u64, clock: u32) -> u32 {
    // Not one that is free, or that somebody is writing: its tag is less than any flow's. By the
    // tags that the claim will compare: with others, a way that somebody is writing could be
    // claimed again.
    let mut unfit = (matches(tags, 0) | matches(tags, spread(BUSY))) >> 7;
    let mut best = 0u64;
    let mut next = T::Word::opaque(0);
    let Some(page) = table.page(group) else {
        return NO_WAY;
    };
    while next < WAYS as u64 {
        let is_fit = T::Word::opaque((unfit & 1).wrapping_sub(1));
        let head = Head(entry_of(page, word, next as u32)[HEAD].load());
        let age = age(clock, head.last_seen()) as u64;
        let left = (table.time_out(head.state()) as u64).wrapping_sub(age);
        let expired = T::Word::opaque(left) >> 63;
        let closing = tcp::is_closing(head.state()) as u64;
        // From the highest bit on: expired or not, closing or not, its age, and the way, with 1
        // for there being one. Not a call for each: an eviction would take a third longer.
        let rank = (expired << 37 | closing << 36 | age << 4 | WAYS as u64 | next) & is_fit;
        unfit >>= 8;
        next += 1;
        // The larger one of two numbers below 2^63.
        let less = best.wrapping_sub(rank);
        let is_less = T::Word::opaque((less as i64 >> 63) as u64);
        best = best.wrapping_sub(less & is_less);
    }
    if best == 0 {
        NO_WAY
    } else {
        best as u32 % WAYS as u32
    }
}

/// The word for a new flow: of an established one the emptier of two. By arithmetic, for the
/// verifier's sake.
#[inline(always)]
fn word_for<W: Word>(line: &Line<W>, spot: &Spot, kind: u32) -> u32 {
    let free = |word| count(matches(word_of(line, word).load(), 0));
    let (first, second) = (free(spot.first), free(spot.second));
    // Where both are as full, half of the flows go to either.
    let second = 2 * second + (spot.tag & 1);
    let is_second = W::opaque(W::opaque((2 * first).wrapping_sub(second)) >> 63) as u32;
    let emptier = spot.first + is_second * (spot.second - spot.first);
    let half_open = spot.half_open;
    let kind = W::opaque(kind.into()) as u32;
    half_open.wrapping_sub((half_open - emptier).wrapping_mul(kind))
}

/// A way that has been claimed, and belongs to whoever claimed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The group.
    pub group: u32,
    /// The tag of the flow that it was claimed for.
    pub tag: u64,
    /// The word of the group's line.
    pub word: u32,
    /// Which way of that word.
    pub way: u32,
    /// 1 if another flow has gone for it.
    pub evicted: u32,
}

/// Why no way has been claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unclaimed {
    /// The flow is there, or there is no room for it.
    Settled,
    /// Another CPU has changed the word meanwhile: it is worth another attempt.
    Raced,
}

/// Claims a way for a flow of `kind` (a [`FlowKind`] as a number), unless it is in the word that
/// it would go to. Then [`publish`] is to be called, and nothing else.
pub fn claim<T: Table + ?Sized>(
    table: &T,
    spot: &Spot,
    key: &FlowKey,
    kind: u32,
    clock: u32,
) -> Option<Claim> {
    for _ in 0..ATTEMPTS {
        match try_claim(table, spot, key, kind, clock) {
            Ok(claim) => return Some(claim),
            Err(Unclaimed::Settled) => return None,
            Err(Unclaimed::Raced) => (),
        }
    }
    None
}

/// One attempt of [`claim`].
#[inline(always)]
pub fn try_claim<T: Table + ?Sized>(
    table: &T,
    spot: &Spot,
    key: &FlowKey,
    kind: u32,
    clock: u32,
) -> Result<Claim, Unclaimed> {
    let group = spot.group;
    let line = table.line(group).ok_or(Unclaimed::Settled)?;
    let word = word_for(line, spot, kind);
    let tags = word_of(line, word);
    // The tag itself need not be kept, then.
    let spread = T::Word::opaque(spread(spot.tag));
    let seen = tags.load();
    let candidates = matches(seen, spread);
    if candidates != 0 && table.has(group, word, candidates, key) {
        return Err(Unclaimed::Settled);
    }
    // By arithmetic, for the verifier's sake: of the flows with the same tag if they are too
    // many, else of the free ways. All bits set if they are.
    const _: () = assert!(SAME_TAG + 5 == WAYS as u64 && WAYS == 8);
    let is_crowded = 0u64.wrapping_sub((count(candidates) + 5) >> 3);
    let free = matches(seen, 0) & !is_crowded;
    let choice = T::Word::forget(free | candidates & is_crowded, seen);
    let way = if choice != 0 {
        lowest(choice)
    } else {
        table.victim(group, word, seen, clock)
    };
    let way = T::Word::forget(way.into(), seen) as u32;
    if way == NO_WAY {
        return Err(Unclaimed::Settled);
    }
    let shift = way % WAYS as u32 * 8;
    let is_free = T::Word::opaque(free >> shift >> 7) & 1;
    let page = table.page(group).ok_or(Unclaimed::Settled)?;
    count_in(table, key.name);
    if !tags.replace(seen, seen & !(0xff << shift) | BUSY << shift) {
        count_out(table, key.name);
        return Err(Unclaimed::Raced);
    }
    if is_free == 0 {
        // Still that of the flow which had the way.
        count_out(table, entry_of(page, word, way)[NAME].load());
    }
    Ok(Claim {
        group,
        tag: spread & 0xff,
        word,
        way,
        evicted: is_free as u32 ^ 1,
    })
}

/// Writes a flow into the way that was claimed for it; false if another CPU was faster, or if too
/// many others write to the word. The way has been given back then. After an established flow
/// [`settle`] is to be called.
#[inline(always)]
pub fn publish<T: Table + ?Sized>(
    table: &T,
    claim: &Claim,
    key: &FlowKey,
    contents: &Contents,
) -> bool {
    let Claim {
        group, word, way, ..
    } = *claim;
    let (Some(line), Some(page)) = (table.line(group), table.page(group)) else {
        return false;
    };
    let tags = word_of(line, word);
    let shift = way % WAYS as u32 * 8;
    let entry = entry_of(page, word, way);
    let busy = Head(entry[HEAD].load()).next_busy();
    entry[HEAD].swap(busy.0);
    entry[NAME].store(key.name);
    entry[RULE].store(contents.rule);
    let [a, b, c, d] = key.addresses;
    entry[ADDRESSES].store(a);
    entry[ADDRESSES + 1].store(b);
    entry[ADDRESSES + 2].store(c);
    entry[ADDRESSES + 3].store(d);
    entry[BEGUN].store(contents.begun);
    entry[HEAD].swap(contents.head.of_version(busy).0);
    let mut left = T::Word::opaque(ATTEMPTS);
    while left != 0 {
        left -= 1;
        let seen = tags.load();
        let candidates = matches(seen, spread(claim.tag));
        if count(candidates) >= SAME_TAG
            || candidates != 0 && table.has(group, word, candidates, key)
        {
            break;
        }
        if tags.replace(seen, seen.wrapping_add((claim.tag - BUSY) << shift)) {
            return true;
        }
    }
    table.give_back(group, word, way);
    false
}

/// See [`Table::give_back`].
#[inline(always)]
pub fn give_back<T: Table + ?Sized>(table: &T, group: u32, word: u32, way: u32) {
    let (Some(line), Some(page)) = (table.line(group), table.page(group)) else {
        return;
    };
    let entry = entry_of(page, word, way);
    let (head, name) = (&entry[HEAD], entry[NAME].load());
    head.swap(Head(head.load()).next_busy().0);
    let shift = way % WAYS as u32 * 8;
    word_of(line, word).add((BUSY << shift).wrapping_neg());
    count_out(table, name);
}

/// Of an established flow that two CPUs have entered into both its words at once, the one in the
/// second word, which is then to be removed. Each of them asks after it has entered its own, so
/// that the last one sees both.
#[inline(always)]
pub fn settle<T: Table + ?Sized>(table: &T, spot: &Spot, key: &FlowKey) -> Option<Found> {
    let mut found = Found::NOTHING;
    let line = table.line(spot.group)?;
    let candidates = |word| matches(word_of(line, word).load(), spread(spot.tag));
    let (first, second) = (candidates(spot.first), candidates(spot.second));
    if first == 0 || second == 0 || !table.has(spot.group, spot.first, first, key) {
        return None;
    }
    let way = table.find_in(spot.group, spot.second, second, key, &mut found.contents);
    if way == NO_WAY {
        return None;
    }
    found.set_place(spot.group, spot.second, way);
    Some(found)
}

/// Takes a flow out; false if it has gone by itself, or if too many others write to its word.
#[inline(always)]
pub fn remove<T: Table + ?Sized>(table: &T, found: &Found) -> bool {
    let (Some(line), Some(page)) = (table.line(found.group), table.page(found.group)) else {
        return false;
    };
    let (word, way) = (found.word(), found.at % WAYS as u32);
    let tags = word_of(line, word);
    let shift = way * 8;
    let entry = entry_of(page, word, way);
    let mut left = T::Word::opaque(ATTEMPTS);
    while left != 0 {
        left -= 1;
        let seen = tags.load();
        let tag = seen >> shift & 0xff;
        let is_there = || Head(entry[HEAD].load()).is_same_flow(found.contents.head);
        if tag <= BUSY || !is_there() {
            return false;
        }
        if !tags.replace(seen, seen & !(0xff << shift) | BUSY << shift) {
            continue;
        }
        // Ours; unless the word has come to hold the same tags again in between.
        if !is_there() {
            tags.add((tag - BUSY) << shift);
            return false;
        }
        let name = entry[NAME].load();
        entry[HEAD].swap(found.contents.head.next_busy().0);
        tags.add((BUSY << shift).wrapping_neg());
        count_out(table, name);
        return true;
    }
    false
}

/// Changes a flow's head from what was found; `None` if it was, or else what it is now.
#[inline(always)]
pub fn change<T: Table + ?Sized>(table: &T, found: &Found, head: Head) -> Option<Head> {
    let page = table.page(found.group)?;
    let word = &entry_of(page, found.word(), found.at)[HEAD];
    if word.replace(found.contents.head.0, head.0) {
        return None;
    }
    Some(Head(word.load()))
}

/// Gives back a way whose owner is gone: a process that was killed. `was_busy` is what its head
/// was some time ago, when the way was busy already; no living owner takes that long. Which flows
/// it has counted nobody knows, so that a count stays too high.
pub fn reclaim<T: Table + ?Sized>(table: &T, place: Place, was_busy: Head) -> bool {
    let (Some(line), Some(page)) = (table.line(place.group), table.page(place.group)) else {
        return false;
    };
    let tags = word_of(line, place.word);
    let shift = place.way % WAYS as u32 * 8;
    let entry = entry_of(page, place.word, place.way);
    let seen = tags.load();
    seen >> shift & 0xff == BUSY
        && entry[HEAD].load() == was_busy.0
        && tags.replace(seen, seen & !(0xff << shift))
}

/// Changes the head of an entry, if it still is what was read.
#[inline(always)]
pub fn change_head<W: Word>(entry: &Entry<W>, from: Head, to: Head) {
    entry[HEAD].replace(from.0, to.0);
}

/// Puts another rule in the place of the one that was found.
#[inline(always)]
pub fn change_rule<T: Table + ?Sized>(table: &T, found: &Found, rule: u64) {
    if let Some(page) = table.page(found.group) {
        entry_of(page, found.word(), found.at)[RULE].replace(found.contents.rule, rule);
    }
}

/// Puts another word in the place of the [`BEGUN`] that was found. The entry may be another
/// flow's by now, and is changed all the same if that began in the same tick and waits for the
/// same number: then nothing is wrong with it but that it waits for another segment.
#[inline(always)]
pub fn change_begun<T: Table + ?Sized>(table: &T, found: &Found, begun: u64) {
    if let Some(page) = table.page(found.group) {
        entry_of(page, found.word(), found.at)[BEGUN].replace(found.contents.begun, begun);
    }
}

/// Makes a TCP flow a cut one, unless it has gone: see [`crate::flow::CUT`].
pub fn cut<T: Table + ?Sized>(table: &T, found: &Found, tick: u32) {
    let mut found = *found;
    for _ in 0..ATTEMPTS {
        let head = found.contents.head;
        match change(table, &found, head.cut().seen_at(tick)) {
            Some(current) if current.is_same_flow(head) => found.contents.head = current,
            _ => return,
        }
    }
}
