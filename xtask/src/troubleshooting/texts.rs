//! Which texts an expression of the code can be: a literal, a `format!` with names in the place of
//! what is only known at run time, a `match` with a text in each arm, a constant, a local variable
//! or a function that returns one of those.

use std::collections::HashMap;

use proc_macro2::{TokenStream, TokenTree};
use syn::{
    Block, Expr, ExprLit, File, Item, ItemFn, Lit, LitStr, Pat, Stmt, Token,
    parse::{Parse, ParseStream, Parser as _},
    punctuated::Punctuated,
};

/// The most texts that one expression is taken to be.
const MOST: usize = 12;

/// How deep functions and variables are followed.
const DEPTH: usize = 6;

/// What is known of the names in one file.
#[derive(Default)]
pub(super) struct Names {
    constants: HashMap<String, Expr>,
    functions: HashMap<String, ItemFn>,
}

/// The local variables of a function, as far as they are texts.
pub(super) type Locals = HashMap<String, Vec<String>>;

impl Names {
    pub(super) fn of(file: &File) -> Names {
        let mut names = Names::default();
        names.add(&file.items);
        names
    }

    fn add(&mut self, items: &[Item]) {
        for item in items {
            match item {
                Item::Const(item) => {
                    self.constants
                        .insert(item.ident.to_string(), (*item.expr).clone());
                }
                Item::Fn(item) => {
                    self.functions
                        .insert(item.sig.ident.to_string(), item.clone());
                }
                _ => {}
            }
        }
    }

    /// The texts that an expression can be. `None` if nothing is known of it.
    pub(super) fn texts(&self, expr: &Expr, locals: &Locals) -> Option<Vec<String>> {
        self.at(expr, locals, DEPTH)
    }

    fn at(&self, expr: &Expr, locals: &Locals, depth: usize) -> Option<Vec<String>> {
        let depth = depth.checked_sub(1)?;
        let found = match expr {
            Expr::Lit(ExprLit {
                lit: Lit::Str(text),
                ..
            }) => vec![text.value()],
            Expr::Paren(inner) => self.at(&inner.expr, locals, depth + 1)?,
            Expr::Group(inner) => self.at(&inner.expr, locals, depth + 1)?,
            Expr::Reference(inner) => self.at(&inner.expr, locals, depth + 1)?,
            Expr::Block(inner) => self.of_block(&inner.block, locals, depth)?,
            Expr::Macro(inner) if inner.mac.path.is_ident("format") => {
                self.format(inner.mac.tokens.clone(), locals, depth)?
            }
            Expr::Macro(inner) if inner.mac.path.is_ident("concat") => {
                let parts = Punctuated::<LitStr, Token![,]>::parse_terminated;
                let parts = parts.parse2(inner.mac.tokens.clone()).ok()?;
                vec![parts.iter().map(LitStr::value).collect()]
            }
            Expr::MethodCall(call) if is_the_same(&call.method.to_string()) => {
                self.at(&call.receiver, locals, depth + 1)?
            }
            Expr::Match(inner) => self.all(inner.arms.iter().map(|arm| &*arm.body), locals, depth),
            Expr::If(inner) => {
                let mut found = self
                    .of_block(&inner.then_branch, locals, depth)
                    .unwrap_or_default();
                if let Some((_, other)) = &inner.else_branch {
                    found.extend(self.at(other, locals, depth).unwrap_or_default());
                }
                found
            }
            Expr::Path(path) => {
                let name = path.path.segments.last()?.ident.to_string();
                match locals.get(&name) {
                    Some(known) => known.clone(),
                    None => self.at(self.constants.get(&name)?, &Locals::new(), depth)?,
                }
            }
            Expr::Call(call) => {
                let Expr::Path(path) = &*call.func else {
                    return None;
                };
                let name = path.path.segments.last()?.ident.to_string();
                match (name.as_str(), call.args.first()) {
                    ("Some" | "Ok" | "from", Some(inner)) => self.at(inner, locals, depth + 1)?,
                    _ => {
                        let function = self.functions.get(&name)?;
                        let mut inside = Locals::new();
                        for (parameter, given) in function.sig.inputs.iter().zip(&call.args) {
                            if let syn::FnArg::Typed(parameter) = parameter
                                && let Pat::Ident(name) = &*parameter.pat
                                && let Some(texts) = self.at(given, locals, depth)
                            {
                                inside.insert(name.ident.to_string(), texts);
                            }
                        }
                        self.of_block(&function.block, &inside, depth)?
                    }
                }
            }
            _ => return None,
        };
        let mut found: Vec<String> = found.into_iter().filter(|text| !text.is_empty()).collect();
        found.dedup();
        found.truncate(MOST);
        (!found.is_empty()).then_some(found)
    }

    fn all<'e>(
        &self,
        arms: impl Iterator<Item = &'e Expr>,
        locals: &Locals,
        depth: usize,
    ) -> Vec<String> {
        arms.flat_map(|arm| match arm {
            // Kept: an arm may leave out what others say.
            Expr::Lit(ExprLit {
                lit: Lit::Str(text),
                ..
            }) => vec![text.value()],
            arm => self.at(arm, locals, depth).unwrap_or_default(),
        })
        .collect()
    }

    /// The texts that a block ends in, with those of its variables.
    fn of_block(&self, block: &Block, locals: &Locals, depth: usize) -> Option<Vec<String>> {
        let mut locals = locals.clone();
        for statement in &block.stmts {
            match statement {
                Stmt::Local(local) => self.bind(local, &mut locals, depth),
                Stmt::Expr(expr, None) => return self.at(expr, &locals, depth),
                Stmt::Macro(last) if last.semi_token.is_none() => {
                    return self.format(last.mac.tokens.clone(), &locals, depth);
                }
                _ => {}
            }
        }
        None
    }

    /// Notes what a variable is, if it is a text.
    pub(super) fn note(&self, local: &syn::Local, locals: &mut Locals) {
        self.bind(local, locals, DEPTH);
    }

    fn bind(&self, local: &syn::Local, locals: &mut Locals, depth: usize) {
        let Some(init) = &local.init else { return };
        let texts = match &*init.expr {
            // An empty one among them is one that may stay away.
            Expr::Match(inner) => {
                Some(self.all(inner.arms.iter().map(|arm| &*arm.body), locals, depth))
                    .filter(|texts| !texts.is_empty())
            }
            other => self.at(other, locals, depth),
        };
        if let Pat::Ident(name) = &local.pat {
            match texts {
                Some(texts) => locals.insert(name.ident.to_string(), texts),
                None => locals.remove(&name.ident.to_string()),
            };
        }
    }

    /// The texts of `format!("…", …)`, or of an attribute that is written so.
    pub(super) fn format(
        &self,
        tokens: TokenStream,
        locals: &Locals,
        depth: usize,
    ) -> Option<Vec<String>> {
        let Format {
            template,
            arguments,
        } = syn::parse2(tokens).ok()?;
        let mut found = vec![String::new()];
        let mut next = 0;
        for piece in pieces(&template.value()) {
            let choices = match piece {
                Piece::Text(text) => vec![text],
                Piece::Hole(name) if name.is_empty() || name.starts_with(char::is_numeric) => {
                    let argument = arguments.get(name.parse().unwrap_or(next));
                    next += 1;
                    match argument {
                        Some(Argument { value, .. }) => self
                            .at(value, locals, depth.min(DEPTH))
                            .unwrap_or_else(|| vec![placeholder(value)]),
                        None => vec!["…".to_owned()],
                    }
                }
                Piece::Hole(name) => {
                    let named = arguments
                        .iter()
                        .find(|it| it.name.as_deref() == Some(&name));
                    let known = match named {
                        Some(Argument { value, .. }) => self.at(value, locals, depth.min(DEPTH)),
                        None => locals.get(&name).cloned(),
                    };
                    known.unwrap_or_else(|| vec![shown(&name)])
                }
            };
            found = found
                .iter()
                .flat_map(|before| {
                    choices
                        .iter()
                        .map(move |choice| format!("{before}{choice}"))
                })
                .take(MOST)
                .collect();
        }
        Some(found)
    }
}

/// Calls that leave a text as it is.
fn is_the_same(method: &str) -> bool {
    ["into", "to_owned", "to_string", "clone", "as_str", "as_ref"].contains(&method)
}

/// A name for what is only known at run time.
fn placeholder(expr: &Expr) -> String {
    match expr {
        Expr::Path(path) => path
            .path
            .segments
            .last()
            .map_or_else(|| "…".to_owned(), |last| shown(&last.ident.to_string())),
        Expr::Field(field) => match &field.member {
            syn::Member::Named(name) => shown(&name.to_string()),
            syn::Member::Unnamed(_) => placeholder(&field.base),
        },
        Expr::MethodCall(call) => {
            let method = call.method.to_string();
            match method.as_str() {
                "name" | "code" | "len" | "count" => match &*call.receiver {
                    Expr::MethodCall(_) => "…".to_owned(),
                    receiver => placeholder(receiver),
                },
                _ => placeholder(&call.receiver),
            }
        }
        Expr::Reference(inner) => placeholder(&inner.expr),
        Expr::Unary(inner) => placeholder(&inner.expr),
        Expr::Paren(inner) => placeholder(&inner.expr),
        Expr::Call(call) => match call.args.first() {
            Some(first) => placeholder(first),
            None => "…".to_owned(),
        },
        _ => "…".to_owned(),
    }
}

fn shown(name: &str) -> String {
    match name {
        "self" => "…".to_owned(),
        name => name
            .trim_start_matches('_')
            .to_uppercase()
            .replace('_', "-"),
    }
}

enum Piece {
    Text(String),
    /// With the name or number in it.
    Hole(String),
}

/// A template of `format!` in its pieces.
fn pieces(template: &str) -> Vec<Piece> {
    let mut found = Vec::new();
    let mut text = String::new();
    let mut chars = template.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '{' | '}' if chars.peek() == Some(&c) => {
                chars.next();
                text.push(c);
            }
            '{' => {
                let inside: String = chars.by_ref().take_while(|c| *c != '}').collect();
                let name = inside
                    .split(':')
                    .next()
                    .unwrap_or_default()
                    .trim()
                    .to_owned();
                found.push(Piece::Text(std::mem::take(&mut text)));
                found.push(Piece::Hole(name));
            }
            _ => text.push(c),
        }
    }
    found.push(Piece::Text(text));
    found
}

struct Format {
    template: LitStr,
    arguments: Vec<Argument>,
}

struct Argument {
    name: Option<String>,
    value: Expr,
}

impl Parse for Format {
    fn parse(input: ParseStream<'_>) -> syn::Result<Format> {
        let template = input.parse()?;
        let mut arguments = Vec::new();
        while input.parse::<Option<Token![,]>>()?.is_some() && !input.is_empty() {
            let name = match input.peek(syn::Ident) && input.peek2(Token![=]) {
                true => {
                    let name: syn::Ident = input.parse()?;
                    input.parse::<Token![=]>()?;
                    Some(name.to_string())
                }
                false => None,
            };
            // In an attribute of thiserror a field may be named by a dot.
            while input.peek(Token![.]) {
                input.parse::<Token![.]>()?;
            }
            match input.parse() {
                Ok(value) => arguments.push(Argument { name, value }),
                Err(_) => {
                    skip(input)?;
                    let value = syn::parse_str("unknown()")?;
                    arguments.push(Argument { name, value });
                }
            }
        }
        Ok(Format {
            template,
            arguments,
        })
    }
}

/// To the next comma.
fn skip(input: ParseStream<'_>) -> syn::Result<()> {
    while !input.is_empty() && !input.peek(Token![,]) {
        input.parse::<TokenTree>()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(file: &str, expr: &str) -> Option<Vec<String>> {
        let names = Names::of(&syn::parse_str(file).unwrap());
        names.texts(&syn::parse_str(expr).unwrap(), &Locals::new())
    }

    #[test]
    fn what_can_be_said_is_found() {
        let file = "const LONG: &str = \"a constant\";
            fn how(link: Option<u32>, n: u32) -> String {
                let ours = match n { 0 => \"ours, \", _ => \"\" };
                let how = match link { None => format!(\"off {n}\"), Some(id) => format!(\"detach {id}\") };
                format!(\"{ours}{how}\")
            }";
        let some = |texts: &[&str]| Some(texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>());
        for (expr, expected) in [
            ("\"plain\"", some(&["plain"])),
            ("\"plain\".into()", some(&["plain"])),
            ("LONG", some(&["a constant"])),
            ("Some(LONG.to_owned())", some(&["a constant"])),
            (
                "format!(\"no `{name}` at {}\", self.path.display())",
                some(&["no `NAME` at PATH"]),
            ),
            (
                "format!(\"{{{}}} mode {mode:04o}\", state.policy.name)",
                some(&["{NAME} mode MODE"]),
            ),
            ("if a { \"one\" } else { \"two\" }", some(&["one", "two"])),
            (
                "match a { 1 => \"one\".into(), _ => format!(\"{b} two\") }",
                some(&["one", "B two"]),
            ),
            (
                "how(link, 1)",
                some(&["ours, off N", "ours, detach ID", "off N", "detach ID"]),
            ),
            ("unknown(1)", None),
            ("self.reason", None),
        ] {
            assert_eq!(texts(file, expr), expected, "{expr}");
        }
    }
}
