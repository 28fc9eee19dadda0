//! Which texts an expression of the code can be: a literal, a `format!` with names in the place of
//! what is only known at run time, a `match` with a text in each arm, a constant, a local variable
//! or a function that returns one of those.

use std::collections::HashMap;

use proc_macro2::TokenStream;
use syn::{
    Block, Expr, ExprCall, ExprClosure, ExprLit, ExprReturn, File, FnArg, Item, ItemFn, Lit,
    LitStr, Pat, Stmt, Token,
    parse::Parser as _,
    punctuated::Punctuated,
    visit::{self, Visit},
};

use super::template::{Argument, Format, Piece, pieces, placeholder, shown};

/// The most texts that one expression is taken to be.
const MOST: usize = 12;

/// How deep functions and variables are followed.
const DEPTH: usize = 6;

/// What is known of the names in one file.
#[derive(Default)]
pub(super) struct Names {
    constants: HashMap<String, Expr>,
    /// `None` for a name that several methods have.
    methods: HashMap<String, Option<Function>>,
    functions: HashMap<String, Function>,
}

/// What a function or a closure is called with, and what it does with that.
#[derive(Clone)]
pub(super) struct Function {
    /// The names of its parameters, without `self`. One that is no name is empty.
    parameters: Vec<String>,
    pub(super) body: Expr,
}

impl Function {
    fn of<'a>(inputs: impl Iterator<Item = &'a FnArg>, block: &Block) -> Function {
        let patterns = inputs.filter_map(|input| match input {
            FnArg::Typed(parameter) => Some(&*parameter.pat),
            FnArg::Receiver(_) => None,
        });
        Function {
            parameters: patterns.map(name_of).collect(),
            body: Expr::Block(syn::ExprBlock {
                attrs: Vec::new(),
                label: None,
                block: block.clone(),
            }),
        }
    }

    fn of_closure(closure: &ExprClosure) -> Function {
        Function {
            parameters: closure.inputs.iter().map(name_of).collect(),
            body: (*closure.body).clone(),
        }
    }
}

/// The name that a pattern gives, such as that of a parameter. Empty if it is more than a name.
fn name_of(pattern: &Pat) -> String {
    match pattern {
        Pat::Ident(name) => name.ident.to_string(),
        Pat::Type(typed) => name_of(&typed.pat),
        _ => String::new(),
    }
}

/// The local variables of a function, as far as they are texts or closures.
#[derive(Clone, Default)]
pub(super) struct Locals {
    texts: HashMap<String, Vec<String>>,
    closures: HashMap<String, Function>,
}

impl Locals {
    pub(super) fn insert(&mut self, name: &str, texts: Option<Vec<String>>) {
        match texts {
            Some(texts) => self.texts.insert(name.to_owned(), texts),
            None => self.texts.remove(name),
        };
    }

    pub(super) fn closure(&self, name: &str) -> Option<&Function> {
        self.closures.get(name)
    }
}

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
                Item::Fn(ItemFn { sig, block, .. }) => {
                    let function = Function::of(sig.inputs.iter(), block);
                    self.functions.insert(sig.ident.to_string(), function);
                }
                Item::Impl(item) => {
                    for item in &item.items {
                        if let syn::ImplItem::Fn(syn::ImplItemFn { sig, block, .. }) = item {
                            let function = Function::of(sig.inputs.iter(), block);
                            self.methods
                                .entry(sig.ident.to_string())
                                .and_modify(|known| *known = None)
                                .or_insert(Some(function));
                        }
                    }
                }
                _ => {}
            }
        }
    }

    pub(super) fn function(&self, name: &str) -> Option<&Function> {
        self.functions.get(name)
    }

    pub(super) fn method(&self, name: &str) -> Option<&Function> {
        self.methods.get(name)?.as_ref()
    }

    /// What a function knows that is called with these arguments, beside what it has `captured`.
    pub(super) fn given<'e>(
        &self,
        function: &Function,
        arguments: impl Iterator<Item = &'e Expr>,
        locals: &Locals,
        captured: Locals,
    ) -> Locals {
        self.given_at(function, arguments, locals, captured, DEPTH)
    }

    fn given_at<'e>(
        &self,
        function: &Function,
        arguments: impl Iterator<Item = &'e Expr>,
        locals: &Locals,
        mut captured: Locals,
        depth: usize,
    ) -> Locals {
        for (name, argument) in function.parameters.iter().zip(arguments) {
            captured.insert(name, self.at(argument, locals, depth));
        }
        captured
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
                match locals.texts.get(&name) {
                    Some(known) => known.clone(),
                    None => self.at(self.constants.get(&name)?, &Locals::default(), depth)?,
                }
            }
            Expr::Call(call) => self.of_call(call, locals, depth)?,
            _ => return None,
        };
        let mut found: Vec<String> = found.into_iter().filter(|text| !text.is_empty()).collect();
        found.dedup();
        found.truncate(MOST);
        (!found.is_empty()).then_some(found)
    }

    fn of_call(&self, call: &ExprCall, locals: &Locals, depth: usize) -> Option<Vec<String>> {
        let Expr::Path(path) = &*call.func else {
            return None;
        };
        let name = path.path.segments.last()?.ident.to_string();
        if let ("Some" | "Ok" | "from", Some(inner)) = (name.as_str(), call.args.first()) {
            return self.at(inner, locals, depth + 1);
        }
        let (function, captured) = match locals.closure(&name) {
            Some(closure) => (closure, locals.clone()),
            None => (self.function(&name)?, Locals::default()),
        };
        let arguments = call.args.iter();
        let inside = self.given_at(function, arguments, locals, captured, depth);
        let mut returns = Returns::default();
        returns.visit_expr(&function.body);
        let mut found = self.all(returns.0.iter(), &inside, depth);
        found.extend(self.at(&function.body, &inside, depth).unwrap_or_default());
        Some(found)
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

    /// The texts that a block can end in, where the variables that it declares are known.
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
        let name = name_of(&local.pat);
        if let Expr::Closure(closure) = &*init.expr {
            locals.closures.insert(name, Function::of_closure(closure));
            return;
        }
        let texts = match &*init.expr {
            // An empty one among them is one that may stay away.
            Expr::Match(inner) => {
                Some(self.all(inner.arms.iter().map(|arm| &*arm.body), locals, depth))
                    .filter(|texts| !texts.is_empty())
            }
            other => self.at(other, locals, depth),
        };
        locals.insert(&name, texts);
    }

    /// Notes the name in `if let Some(name) = …`, if it is a text.
    pub(super) fn note_let(&self, binding: &syn::ExprLet, locals: &mut Locals) {
        if let Pat::TupleStruct(pattern) = &*binding.pat
            && let Some(inner) = pattern.elems.first()
        {
            locals.insert(&name_of(inner), self.texts(&binding.expr, locals));
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
        } = Format::read(tokens)?;
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
                        None => locals.texts.get(&name).cloned(),
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

/// The `Some` that a function may return before its end. Closures return for themselves.
#[derive(Default)]
struct Returns(Vec<Expr>);

impl<'ast> Visit<'ast> for Returns {
    fn visit_expr_return(&mut self, returned: &'ast ExprReturn) {
        if let Some(Expr::Call(call)) = returned.expr.as_deref()
            && matches!(&*call.func, Expr::Path(path) if path.path.is_ident("Some"))
        {
            self.0.push(Expr::Call(call.clone()));
        }
        visit::visit_expr_return(self, returned);
    }

    fn visit_expr_closure(&mut self, _: &'ast ExprClosure) {}
}

/// Calls that leave a text as it is.
fn is_the_same(method: &str) -> bool {
    ["into", "to_owned", "to_string", "clone", "as_str", "as_ref"].contains(&method)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(file: &str, expr: &str) -> Option<Vec<String>> {
        let names = Names::of(&syn::parse_str(file).unwrap());
        names.texts(&syn::parse_str(expr).unwrap(), &Locals::default())
    }

    #[test]
    fn what_can_be_said_is_found() {
        let file = "const LONG: &str = \"a constant\";
            fn how(link: Option<u32>, n: u32) -> String {
                let ours = match n { 0 => \"ours, \", _ => \"\" };
                let how = match link { None => format!(\"off {n}\"), Some(id) => format!(\"detach {id}\") };
                format!(\"{ours}{how}\")
            }
            fn early(n: u32) -> Option<String> {
                let then = |what: &str| format!(\"{what}, in the end\");
                let Some(n) = later(n) else { return Some(\"at once\".into()); };
                Some(then(\"two\"))
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
            ("early(1)", some(&["at once", "two, in the end"])),
            (
                "format!(\"this has {}\", mounted(*.is_mounted, path))",
                some(&["this has IS-MOUNTED"]),
            ),
            ("unknown(1)", None),
            ("self.reason", None),
        ] {
            assert_eq!(texts(file, expr), expected, "{expr}");
        }
    }
}
