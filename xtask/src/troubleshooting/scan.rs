//! Finds what the code says when it refuses, warns or names a fault, with the remedies beside it:
//!
//! - `Problem::new(CODE, MESSAGE).expected(…).help(…)`, the errors of a policy;
//! - `Finding::warning(Lint::CODE, MESSAGE).help(…)` and `note`, what `check` says of a valid one;
//! - `Fault::of(DIRECTION, CODE, MESSAGE, HELP)` and `Fault::new`, what `status` names;
//! - the variants of enums with `#[error(…)]` and `#[diagnostic(help(…))]`;
//! - `KernelError::VARIANT { what, reason, help }`, where a variant has no text of its own.
//!
//! A message that a function or a closure is called with stands at the call: it is read there, in
//! the same file.

use std::collections::{HashMap, HashSet};

use syn::{
    Attribute, Expr, ExprCall, ExprMethodCall, ExprStruct, File, Item, ItemFn, ItemMod, Local, Pat,
    Variant,
    parse::Parser as _,
    punctuated::Punctuated,
    spanned::Spanned as _,
    visit::{self, Visit},
};

use super::texts::{Function, Locals, Names};
use super::variants::{Codes, Forms, attribute, has_words, kebab};

/// What kind of thing says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Fault,
    Refusal,
    Policy,
    Finding,
}

/// A message and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) kind: Kind,
    /// As in JSON.
    pub(super) code: String,
    pub(super) messages: Vec<String>,
    pub(super) expected: Vec<String>,
    pub(super) help: Vec<String>,
    /// There is a remedy, whose words are only known when it is said.
    pub(super) has_other_help: bool,
    /// `file.rs:17`.
    pub(super) place: String,
}

impl Trouble {
    pub(super) fn has_remedy(&self) -> bool {
        !self.help.is_empty() || self.has_other_help
    }
}

/// What a file says.
pub(super) fn scan(name: &str, file: &File, codes: &Codes, forms: &Forms) -> Vec<Trouble> {
    let names = Names::of(file);
    let mut scanner = Scanner {
        name,
        names: &names,
        codes,
        forms,
        found: Vec::new(),
        by_place: HashMap::new(),
        locals: Locals::default(),
        held: HashMap::new(),
        unknown: HashSet::new(),
        looks_at_calls: false,
        call: None,
    };
    scanner.visit_file(file);
    // Which functions say what they are called with is known only now.
    scanner.looks_at_calls = true;
    scanner.visit_file(file);
    scanner.found()
}

/// Where an expression begins.
type Place = (usize, usize);

struct Scanner<'f> {
    name: &'f str,
    names: &'f Names,
    codes: &'f Codes,
    forms: &'f Forms,
    found: Vec<Trouble>,
    /// Which of them begins where, by which call, since the same expression is come by more than
    /// once.
    by_place: HashMap<(Place, Option<Place>), usize>,
    /// Of the function that is looked at.
    locals: Locals,
    /// Its variables that hold a trouble.
    held: HashMap<String, Vec<usize>>,
    /// Where a message is not known, if nothing is known of the call.
    unknown: HashSet<Place>,
    /// Whether functions are looked into where they are called.
    looks_at_calls: bool,
    /// The call whose function is looked at.
    call: Option<Place>,
}

impl Scanner<'_> {
    /// What was found. Where something is said at calls, it is not listed without its message too.
    fn found(self) -> Vec<Trouble> {
        let said_at_calls: HashSet<Place> = self
            .by_place
            .keys()
            .filter(|(_, call)| call.is_some())
            .map(|(place, _)| *place)
            .collect();
        let without: HashSet<usize> = self
            .by_place
            .iter()
            .filter(|((place, call), _)| call.is_none() && said_at_calls.contains(place))
            .map(|(_, index)| *index)
            .collect();
        let found = self.found.into_iter().enumerate();
        let found = found.filter(|(index, _)| !without.contains(index));
        found.map(|(_, trouble)| trouble).collect()
    }

    /// The troubles that an expression is, if it is any.
    fn troubles(&mut self, expr: &Expr) -> Vec<usize> {
        match expr {
            Expr::Call(call) => self.call(call),
            Expr::MethodCall(call) => self.method(call),
            Expr::Paren(inner) => self.troubles(&inner.expr),
            Expr::Path(path) => {
                let name = path.path.get_ident().map(ToString::to_string);
                name.and_then(|name| self.held.get(&name).cloned())
                    .unwrap_or_default()
            }
            Expr::Match(inner) => {
                let arms = inner.arms.iter().map(|arm| &*arm.body);
                arms.flat_map(|arm| self.troubles(arm)).collect()
            }
            Expr::Block(inner) => match inner.block.stmts.last() {
                Some(syn::Stmt::Expr(last, None)) => self.troubles(last),
                _ => Vec::new(),
            },
            Expr::If(inner) => {
                let mut found = match inner.then_branch.stmts.last() {
                    Some(syn::Stmt::Expr(last, None)) => self.troubles(last),
                    _ => Vec::new(),
                };
                if let Some((_, other)) = &inner.else_branch {
                    found.extend(self.troubles(other));
                }
                found
            }
            _ => Vec::new(),
        }
    }

    fn method(&mut self, call: &ExprMethodCall) -> Vec<usize> {
        let found = self.troubles(&call.receiver);
        let Some(argument) = call.args.first() else {
            return found;
        };
        let texts = self.names.texts(argument, &self.locals);
        for index in &found {
            let Some(trouble) = self.found.get_mut(*index) else {
                continue;
            };
            let list = match call.method.to_string().as_str() {
                "expected" => &mut trouble.expected,
                "help" => {
                    trouble.has_other_help |= texts.is_none();
                    &mut trouble.help
                }
                _ => continue,
            };
            for text in texts.iter().flatten() {
                if !list.contains(text) {
                    list.push(text.clone());
                }
            }
        }
        found
    }

    fn call(&mut self, call: &ExprCall) -> Vec<usize> {
        let Expr::Path(path) = &*call.func else {
            return Vec::new();
        };
        let segments: Vec<String> = path
            .path
            .segments
            .iter()
            .map(|part| part.ident.to_string())
            .collect();
        let words: Vec<&str> = segments
            .iter()
            .rev()
            .take(2)
            .rev()
            .map(String::as_str)
            .collect();
        let arguments: Vec<&Expr> = call.args.iter().collect();
        let (kind, code, message, help) = match (words.as_slice(), arguments.as_slice()) {
            (["Problem", "new"], [code, message]) => (Kind::Policy, *code, *message, None),
            (["Finding", "warning" | "note"], [code, message]) => {
                (Kind::Finding, *code, *message, None)
            }
            (["Fault", "new"], [code, message, help]) => {
                (Kind::Fault, *code, *message, Some(*help))
            }
            (["Fault", "of"], [_, code, message, help]) => {
                (Kind::Fault, *code, *message, Some(*help))
            }
            ([_, "Some"] | ["Some"] | ["Err"] | [_, "Err"], [inner]) => {
                return self.troubles(inner);
            }
            _ => return Vec::new(),
        };
        let Some(code) = self.code(kind, code) else {
            return Vec::new();
        };
        let help = help.map(|help| self.names.texts(help, &self.locals));
        let messages = self.names.texts(message, &self.locals);
        let trouble = Trouble {
            kind,
            code,
            messages: messages.unwrap_or_default(),
            expected: Vec::new(),
            has_other_help: matches!(help, Some(None)),
            help: help.flatten().unwrap_or_default(),
            place: String::new(),
        };
        self.add(call.span(), trouble).into_iter().collect()
    }

    /// Adds what is said at this place. Where its message is only known at calls, it is what is
    /// said at each of them.
    fn add(&mut self, span: proc_macro2::Span, trouble: Trouble) -> Option<usize> {
        let start = span.start();
        let place = (start.line, start.column);
        if let Some(known) = self.by_place.get(&(place, self.call)) {
            return Some(*known);
        }
        if trouble.messages.is_empty() && self.call.is_none() {
            self.unknown.insert(place);
        }
        if self.call.is_some() && (trouble.messages.is_empty() || !self.unknown.contains(&place)) {
            return None;
        }
        let index = self.found.len();
        self.found.push(Trouble {
            place: format!("{}:{}", self.name, start.line),
            ..trouble
        });
        self.by_place.insert((place, self.call), index);
        Some(index)
    }

    /// Looks into a function with what is known of its arguments.
    fn look_into<'e>(
        &mut self,
        call: proc_macro2::Span,
        function: &Function,
        arguments: impl Iterator<Item = &'e Expr>,
        captured: Locals,
    ) {
        if self.call.is_some() {
            return;
        }
        let known = self
            .names
            .given(function, arguments, &self.locals, captured);
        let start = call.start();
        self.call = Some((start.line, start.column));
        self.inside(|scanner| {
            scanner.locals = known;
            scanner.visit_expr(&function.body);
        });
        self.call = None;
    }

    /// Looks at a function, whose variables are its own.
    fn inside(&mut self, look: impl FnOnce(&mut Self)) {
        let before = (
            std::mem::take(&mut self.locals),
            std::mem::take(&mut self.held),
        );
        look(self);
        (self.locals, self.held) = before;
    }

    fn code(&self, kind: Kind, expr: &Expr) -> Option<String> {
        match expr {
            Expr::Lit(syn::ExprLit {
                lit: syn::Lit::Str(code),
                ..
            }) => Some(code.value()),
            Expr::Path(path) => {
                let name = path.path.segments.last()?.ident.to_string();
                match kind {
                    Kind::Fault => Some(kebab(&name)),
                    _ => self.codes.get(&name).cloned(),
                }
            }
            _ => None,
        }
    }
}

impl<'ast> Visit<'ast> for Scanner<'_> {
    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        if !is_of_tests(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast ItemFn) {
        if is_of_tests(&item.attrs) {
            return;
        }
        self.inside(|scanner| visit::visit_item_fn(scanner, item));
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.inside(|scanner| visit::visit_impl_item_fn(scanner, item));
    }

    fn visit_local(&mut self, local: &'ast Local) {
        self.names.note(local, &mut self.locals);
        if let (Pat::Ident(name), Some(init)) = (&local.pat, &local.init) {
            let held = self.troubles(&init.expr);
            self.held.insert(name.ident.to_string(), held);
        }
        visit::visit_local(self, local);
    }

    fn visit_expr_let(&mut self, binding: &'ast syn::ExprLet) {
        self.names.note_let(binding, &mut self.locals);
        visit::visit_expr_let(self, binding);
    }

    fn visit_expr_call(&mut self, call: &'ast ExprCall) {
        self.call(call);
        if let Expr::Path(path) = &*call.func
            && let Some(name) = path.path.get_ident().map(ToString::to_string)
        {
            if let Some(closure) = self.locals.closure(&name).cloned() {
                let captured = self.locals.clone();
                self.look_into(call.span(), &closure, call.args.iter(), captured);
            } else if let Some(function) = self.names.function(&name)
                && self.looks_at_calls
            {
                let none = Locals::default();
                self.look_into(call.span(), function, call.args.iter(), none);
            }
        }
        visit::visit_expr_call(self, call);
    }

    fn visit_expr_method_call(&mut self, call: &'ast ExprMethodCall) {
        self.method(call);
        let is_own = matches!(&*call.receiver, Expr::Path(path) if path.path.is_ident("self"));
        if let Some(method) = self.names.method(&call.method.to_string())
            && self.looks_at_calls
            && is_own
        {
            let none = Locals::default();
            self.look_into(call.span(), method, call.args.iter(), none);
        }
        visit::visit_expr_method_call(self, call);
    }

    fn visit_expr_struct(&mut self, expr: &'ast ExprStruct) {
        visit::visit_expr_struct(self, expr);
        let Some(variant) = of_kernel_error(&expr.path) else {
            return;
        };
        let Some(code) = self.codes.get(&variant).cloned() else {
            return;
        };
        let Some(form) = self.forms.get(&variant).cloned() else {
            return;
        };
        let mut fields = Locals::default();
        let (mut help, mut is_known) = (None, false);
        for field in &expr.fields {
            let syn::Member::Named(name) = &field.member else {
                continue;
            };
            let texts = self.names.texts(&field.expr, &self.locals);
            if name == "help" {
                help = Some(texts);
            } else {
                // What is done says nothing without what is wrong with it.
                is_known |= name != "what" && texts.is_some();
                fields.insert(&name.to_string(), texts);
            }
        }
        if !is_known {
            let start = expr.span().start();
            self.unknown.insert((start.line, start.column));
            return;
        }
        let messages = self.names.format(form, &fields, usize::MAX);
        let trouble = Trouble {
            kind: Kind::Refusal,
            code,
            messages: messages.unwrap_or_default(),
            expected: Vec::new(),
            has_other_help: matches!(help, Some(None)),
            help: help.flatten().unwrap_or_default(),
            place: String::new(),
        };
        self.add(expr.span(), trouble);
    }

    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        let code = self.codes.get(&item.ident.to_string()).cloned();
        if let (Some(code), Some(form)) = (code, attribute(&item.attrs, "error")) {
            let messages = self.names.format(form, &Locals::default(), usize::MAX);
            let trouble = Trouble {
                kind: Kind::Refusal,
                code,
                messages: messages.unwrap_or_default(),
                expected: Vec::new(),
                help: Vec::new(),
                has_other_help: false,
                place: String::new(),
            };
            self.add(item.span(), trouble);
        }
    }

    fn visit_variant(&mut self, variant: &'ast Variant) {
        let Some(message) = attribute(&variant.attrs, "error") else {
            return;
        };
        let Some(code) = self.codes.get(&variant.ident.to_string()).cloned() else {
            return;
        };
        let messages = self.names.format(message, &Locals::default(), usize::MAX);
        let help = attribute(&variant.attrs, "diagnostic").and_then(|tokens| {
            let help: syn::MetaList = syn::parse2(tokens).ok()?;
            help.path.is_ident("help").then_some(help.tokens)
        });
        let texts = help
            .clone()
            .and_then(|it| self.names.format(it, &Locals::default(), usize::MAX));
        // What is only a field is said elsewhere.
        let messages: Vec<String> = messages
            .into_iter()
            .flatten()
            .filter(|text| has_words(text))
            .collect();
        let texts: Vec<String> = texts
            .into_iter()
            .flatten()
            .filter(|text| has_words(text))
            .collect();
        if messages.is_empty() && texts.is_empty() {
            return;
        }
        let trouble = Trouble {
            kind: Kind::Refusal,
            code,
            messages,
            expected: Vec::new(),
            has_other_help: help.is_some() && texts.is_empty(),
            help: texts,
            place: String::new(),
        };
        self.add(variant.span(), trouble);
    }

    fn visit_macro(&mut self, mac: &'ast syn::Macro) {
        // What is inside of other macros is no code yet.
        if mac.path.is_ident("vec") {
            let elements = Punctuated::<Expr, syn::Token![,]>::parse_terminated;
            for element in elements.parse2(mac.tokens.clone()).iter().flatten() {
                self.visit_expr(element);
            }
        }
    }

    fn visit_item(&mut self, item: &'ast Item) {
        if !matches!(item, Item::Macro(_)) {
            visit::visit_item(self, item);
        }
    }
}

/// The variant, if a path names one of the errors that are printed.
fn of_kernel_error(path: &syn::Path) -> Option<String> {
    let mut segments = path.segments.iter().rev();
    let (variant, error) = (segments.next()?, segments.next()?);
    ["KernelError", "LabError"]
        .iter()
        .any(|name| error.ident == name)
        .then(|| variant.ident.to_string())
}

/// Whether what has these attributes is compiled for tests only.
fn is_of_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("test")
            || attribute
                .meta
                .require_list()
                .is_ok_and(|list| list.path.is_ident("cfg") && list.tokens.to_string() == "test")
    })
}
