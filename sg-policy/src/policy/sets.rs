//! Named sets of one policy file: definition, override, nesting without cycles, resolution.
//! Resolved sets are shared; the errors of a set are reported once, however many rules name it.

use std::collections::HashMap;
use std::sync::Arc;

use super::clip::clip;
use super::dialect::Place;
use super::errors::{At, Problem};
use super::fields::{self, Fields, suggest, words};
use super::input::SetOverride;
use super::items::{self, Meaning, article, bad_set_name};
use super::kind::{self, Kind};
use super::loading::Ctx;
use super::model::NamedSet;
use super::set_name::is_set_name;
use super::setfile;
use super::yaml::{Node, Value};

/// The sets of one kind in one file, by name.
#[derive(Debug)]
pub(crate) struct Sets<K: Kind> {
    slots: HashMap<String, Slot<K>>,
    /// Names in the order of the file.
    order: Vec<String>,
}

#[derive(Debug)]
struct Slot<K: Kind> {
    at: At,
    content: Content<K>,
    /// The elements as they are written, joined by commas.
    text: Arc<str>,
    used: bool,
}

#[derive(Debug)]
enum Content<K: Kind> {
    Entries {
        literals: Vec<K::Literal>,
        names: Vec<(At, String)>,
        /// False when an element was wrong; the names are checked nevertheless.
        good: bool,
    },
    File(At, String),
    Ready(Arc<K::Value>),
    /// It has an error, which was reported.
    Broken,
}

impl<K: Kind> Default for Sets<K> {
    fn default() -> Self {
        Sets {
            slots: HashMap::new(),
            order: Vec::new(),
        }
    }
}

/// The result of looking up a name.
pub(crate) enum Lookup<V> {
    Found(Arc<V>),
    /// It has an error, which was reported.
    Broken,
    Unknown,
}

impl<K: Kind> Sets<K> {
    /// Reads the definitions under `address-sets` or `port-sets`. A set that `overridden` names is
    /// not read: its contents come from the command line.
    pub(crate) fn define(
        ctx: &mut Ctx<'_>,
        node: &Node<'_>,
        overridden: &[SetOverride],
    ) -> Sets<K> {
        let mut sets = Sets::default();
        let what = format!("`{}`", K::KEY);
        let Some(pairs) = fields::pairs(ctx, node, &what, "the names of sets as keys") else {
            return sets;
        };
        for (name, at, node) in pairs {
            if !is_set_name(name) {
                ctx.error(at, bad_set_name(name));
                continue;
            }
            let (content, text) = match overridden.iter().find(|o| o.name == name) {
                Some(given) => (overriding::<K>(ctx, given), given.values.join(",").into()),
                None => definition::<K>(ctx, name, node),
            };
            let slot = Slot {
                at,
                content,
                text,
                used: false,
            };
            sets.slots.insert(name.to_owned(), slot);
            sets.order.push(name.to_owned());
        }
        sets
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.order.iter().map(String::as_str)
    }

    /// The sets as a loaded policy keeps them. One that has an error, so that nothing is loaded, is
    /// empty.
    pub(crate) fn resolved(&self) -> Vec<NamedSet<K::Value>> {
        let of = |name: &String| {
            let slot = self.slots.get(name)?;
            Some(NamedSet {
                name: name.clone(),
                entries: Arc::clone(&slot.text),
                value: match &slot.content {
                    Content::Ready(value) => Arc::clone(value),
                    _ => Arc::default(),
                },
            })
        };
        self.order.iter().filter_map(of).collect()
    }

    pub(crate) fn defined_at(&self, name: &str) -> Option<At> {
        self.slots.get(name).map(|slot| slot.at)
    }

    /// Names that no rule and no other set uses.
    pub(crate) fn unused(&self) -> impl Iterator<Item = (&str, At)> {
        self.order.iter().filter_map(|name| {
            let slot = self.slots.get(name).filter(|slot| !slot.used)?;
            Some((name.as_str(), slot.at))
        })
    }

    /// The resolved set `name`; only after [`Sets::resolve`].
    pub(crate) fn get(&mut self, name: &str) -> Lookup<K::Value> {
        let Some(slot) = self.slots.get_mut(name) else {
            return Lookup::Unknown;
        };
        slot.used = true;
        match &slot.content {
            Content::Ready(value) => Lookup::Found(Arc::clone(value)),
            _ => Lookup::Broken,
        }
    }

    /// Resolves every set: reads files, joins nested sets, reports cycles and unknown names.
    pub(crate) fn resolve(&mut self, ctx: &mut Ctx<'_>) {
        for name in self.inner_first(ctx) {
            let Some(slot) = self.slots.get_mut(&name) else {
                continue;
            };
            let mut text = None;
            let content = match std::mem::replace(&mut slot.content, Content::Broken) {
                Content::Entries {
                    literals,
                    names,
                    good,
                } => {
                    let at = slot.at;
                    let joined = self.join(ctx, at, literals, names);
                    joined.filter(|_| good)
                }
                Content::File(at, path) => setfile::load::<K>(ctx, at, &path).map(|file| {
                    text = Some(file.text);
                    file.value
                }),
                Content::Ready(value) => Some(value),
                Content::Broken => None,
            };
            if let (Some(value), Some(slot)) = (content, self.slots.get_mut(&name)) {
                slot.content = Content::Ready(value);
                slot.text = text.unwrap_or_else(|| Arc::clone(&slot.text));
            }
        }
    }

    /// The names in an order in which every set comes after the sets it contains. Depth first with
    /// a stack of its own, since sets may nest as deep as the file is long.
    fn inner_first(&self, ctx: &mut Ctx<'_>) -> Vec<String> {
        let mut done: HashMap<&str, bool> = HashMap::new();
        let mut order = Vec::with_capacity(self.order.len());
        for root in self.names() {
            let mut path: Vec<(&str, usize)> = Vec::new();
            if !done.contains_key(root) {
                done.insert(root, false);
                path.push((root, 0));
            }
            while let Some((name, next)) = path.last_mut() {
                let inner = match self.slots.get(*name).map(|s| &s.content) {
                    Some(Content::Entries { names, .. }) => names.get(*next),
                    _ => None,
                };
                *next += 1;
                let Some((at, inner)) = inner else {
                    done.insert(name, true);
                    order.push((*name).to_owned());
                    path.pop();
                    continue;
                };
                match done.get(inner.as_str()) {
                    Some(true) => {}
                    Some(false) if ctx.loading.report.is_full() => {}
                    Some(false) => {
                        let cycle = path.iter().map(|(name, _)| *name);
                        let cycle = cycle
                            .skip_while(|name| name != inner)
                            .chain([inner.as_str()]);
                        let mut cycle = cycle.collect::<Vec<_>>();
                        if cycle.len() > 20 {
                            cycle.splice(10..cycle.len() - 9, ["..."]);
                        }
                        let cycle = cycle.join(" → ");
                        let problem =
                            Problem::new("set-cycle", format!("a set contains itself: {cycle}"))
                                .expected("sets that nest without a cycle")
                                .help(format!(
                                    "write the contents of `{}` here instead of its name",
                                    clip(inner)
                                ));
                        ctx.error(*at, problem);
                    }
                    None if self.slots.contains_key(inner) => {
                        done.insert(inner, false);
                        path.push((inner, 0));
                    }
                    None => {
                        let problem = self.unknown(ctx, inner);
                        ctx.error(*at, problem);
                    }
                }
            }
        }
        order
    }

    /// The value of a list of literals and of sets that are resolved already.
    fn join(
        &mut self,
        ctx: &mut Ctx<'_>,
        at: At,
        literals: Vec<K::Literal>,
        names: Vec<(At, String)>,
    ) -> Option<Arc<K::Value>> {
        let mut parts = Vec::with_capacity(names.len());
        let mut complete = true;
        for (_, name) in &names {
            match self.get(name) {
                Lookup::Found(value) => parts.push(value),
                Lookup::Broken | Lookup::Unknown => complete = false,
            }
        }
        if !complete {
            return None;
        }
        combine::<K>(ctx, at, &literals, parts)
    }

    /// The error of a name that is no set, with the names that are.
    pub(crate) fn unknown(&self, ctx: &Ctx<'_>, name: &str) -> Problem {
        let problem = Problem::new(
            "unknown-set",
            format!("unknown {} set `{}`", K::NOUN, clip(name)),
        );
        if ctx.loading.report.is_full() {
            return problem;
        }
        if let Some(help) = K::hint(name) {
            return problem
                .expected(match self.order.is_empty() {
                    true => "a literal: no such sets are defined".to_owned(),
                    false => format!("a literal, or one of {}", words(self.names())),
                })
                .help(help);
        }
        if self.order.is_empty() {
            return problem
                .expected("a literal: no such sets are defined")
                .help(format!("define `{}` under `{}`", clip(name), K::KEY));
        }
        let problem = problem.expected(format!("one of {}", words(self.names())));
        match suggest(name, self.names()) {
            Some(close) => problem.help(format!("did you mean `{close}`?")),
            None => problem.help(format!("define `{}` under `{}`", clip(name), K::KEY)),
        }
    }
}

/// Joins literals and resolved sets. One set alone is shared and not copied.
pub(crate) fn combine<K: Kind>(
    ctx: &mut Ctx<'_>,
    at: At,
    literals: &[K::Literal],
    mut parts: Vec<Arc<K::Value>>,
) -> Option<Arc<K::Value>> {
    parts.sort_unstable_by_key(|part| Arc::as_ptr(part).addr());
    parts.dedup_by(|a, b| Arc::ptr_eq(a, b));
    if let ([], [one]) = (literals, parts.as_slice()) {
        return Some(Arc::clone(one));
    }
    // What is known to be too large is refused before it is built.
    let size = parts.iter().map(|part| K::size(part)).sum::<usize>();
    let mut value = K::Value::default();
    if size <= K::limit() && *K::used(ctx.loading) <= K::limit() {
        for part in &parts {
            K::merge(&mut value, part);
        }
        for literal in literals {
            K::add(&mut value, *literal);
        }
        K::finish(&mut value);
        match kind::charge::<K>(ctx.loading, &value) {
            Ok(()) => return Some(Arc::new(value)),
            Err(problem) => ctx.error(at, problem),
        }
    } else {
        ctx.error(at, kind::too_many::<K>());
    }
    None
}

/// Reads the definition of a set: a list, one element, or `{file: PATH}`. The text of a list comes
/// with it.
fn definition<K: Kind>(ctx: &mut Ctx<'_>, name: &str, node: &Node<'_>) -> (Content<K>, Arc<str>) {
    let nothing = || Arc::<str>::from("");
    let what = format!("set `{name}`");
    if let Value::Map(_) = node.value {
        let read = |ctx: &mut Ctx<'_>| {
            let fields = Fields::read(ctx, node, &what, Place::Elsewhere, &["file"])?;
            let Some(node) = fields.get("file") else {
                let problem = Problem::new("missing-key", format!("{what} has no `file`"))
                    .expected("a list, or `file: PATH`")
                    .help("an empty set is `[]`");
                ctx.error(fields.at, problem);
                return None;
            };
            let path = fields::scalar(ctx, node, "`file`", "the path of a set file")?;
            Some((node.at, path.to_owned()))
        };
        return match read(ctx) {
            Some((at, path)) => (Content::File(at, path), nothing()),
            None => (Content::Broken, nothing()),
        };
    }
    if node.is_null() {
        let problem = Problem::new("missing-value", format!("{what} has no contents"))
            .expected(format!(
                "a list, {} literal, or `file: PATH`",
                article::<K>()
            ))
            .help("an empty set is `[]`");
        ctx.error(node.at, problem);
        return (Content::Broken, nothing());
    }
    let (items, good) = items::read::<K>(ctx, node, &what);
    let text = items::joined(&items).into();
    let (mut literals, mut names) = (Vec::with_capacity(items.len()), Vec::new());
    for item in items {
        match item.meaning {
            Meaning::Literal(literal) => literals.push(literal),
            Meaning::Named(name) => names.push((item.at, name)),
        }
    }
    let content = Content::Entries {
        literals,
        names,
        good,
    };
    (content, text)
}

/// The contents that `--set` gives: literals only.
fn overriding<K: Kind>(ctx: &mut Ctx<'_>, given: &SetOverride) -> Content<K> {
    let source = given.source();
    let mut literals = Vec::with_capacity(given.values.len());
    let mut good = true;
    for (text, at) in given.values.iter().zip(given.places()) {
        let read = match is_set_name(text) {
            true => Err(
                Problem::new("bad-set-argument", format!("`{}` is a name", clip(text)))
                    .expected(format!("{} literal", article::<K>()))
                    .help("`--set` takes literals; nest sets in the policy file"),
            ),
            false if text.starts_with(['@', '/', '.']) => Err(Problem::new(
                "bad-set-argument",
                format!("`{}` is not a literal", clip(text)),
            )
            .expected(format!("{} literal", article::<K>()))
            .help("`--set` reads no files; write `NAME: {file: PATH}` in the policy")),
            false => kind::literal::<K>(text),
        };
        match read {
            Ok(literal) => literals.push(literal),
            Err(problem) => {
                good = false;
                ctx.loading.report.push(&source, at, problem);
            }
        }
    }
    Content::Entries {
        literals,
        names: Vec::new(),
        good,
    }
}
