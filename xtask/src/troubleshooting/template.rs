//! Reads what stands in `format!(…)`: the template in pieces, its arguments, and the names that
//! stand for those that are only known at run time.

use proc_macro2::{TokenStream, TokenTree};
use syn::{
    Expr, LitStr, Token,
    parse::{Parse, ParseStream},
};

/// A call of `format!`, without its name.
pub(super) struct Format {
    pub(super) template: LitStr,
    pub(super) arguments: Vec<Argument>,
}

impl Format {
    /// Reads one from a call, or from an attribute that is written so.
    pub(super) fn read(tokens: TokenStream) -> Option<Format> {
        syn::parse2(without_dots(tokens)).ok()
    }
}

pub(super) struct Argument {
    pub(super) name: Option<String>,
    pub(super) value: Expr,
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

/// In an attribute of thiserror a field may be named by a dot: `.path`. The code is read without.
fn without_dots(tokens: TokenStream) -> TokenStream {
    let mut is_in_value = false;
    let plain = tokens.into_iter().filter_map(|token| {
        let is_dot = matches!(&token, TokenTree::Punct(punct) if punct.as_char() == '.');
        let is_kept = !is_dot || is_in_value;
        is_in_value = !matches!(&token, TokenTree::Punct(punct) if punct.as_char() != '?');
        match token {
            TokenTree::Group(group) => {
                let inside = without_dots(group.stream());
                Some(proc_macro2::Group::new(group.delimiter(), inside).into())
            }
            token => is_kept.then_some(token),
        }
    });
    plain.collect()
}

/// A part of a template.
pub(super) enum Piece {
    Text(String),
    /// With the name or number in it.
    Hole(String),
}

/// A template of `format!` in its pieces.
pub(super) fn pieces(template: &str) -> Vec<Piece> {
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

/// A name for what is only known at run time.
pub(super) fn placeholder(expr: &Expr) -> String {
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

/// A name of the code, as it stands in the place of a value.
pub(super) fn shown(name: &str) -> String {
    match name {
        "self" => "…".to_owned(),
        name => name
            .trim_start_matches('_')
            .to_uppercase()
            .replace('_', "-"),
    }
}
