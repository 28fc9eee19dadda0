//! A document as a manual page: CommonMark with tables in, roff out. The first heading is the title
//! and is left out; what stands before the next one is the description. Links become their text.

use std::fmt::Write as _;

use pulldown_cmark::{Event, HeadingLevel, Options, Parser, Tag, TagEnd};

pub(super) struct Page<'a> {
    pub(super) name: &'a str,
    pub(super) section: &'a str,
    pub(super) about: &'a str,
    pub(super) date: &'a str,
    pub(super) see_also: &'a [&'a str],
}

pub(super) fn page(page: &Page<'_>, markdown: &str) -> String {
    // The first line lets `man` call tbl for the tables.
    let mut writer = Writer {
        out: format!(
            "'\\\" t\n.TH \"{}\" \"{}\" \"{}\" \"sgctl {}\" \"sgctl\"\n.SH NAME\n{} \\- {}\n\
             .SH DESCRIPTION\n",
            page.name.to_uppercase(),
            page.section,
            page.date,
            env!("CARGO_PKG_VERSION"),
            escaped(page.name),
            escaped(page.about),
        ),
        ..Writer::default()
    };
    for event in Parser::new_ext(markdown, Options::ENABLE_TABLES) {
        writer.take(event);
    }
    let mut out = writer.out;
    out.push_str(".SH \"SEE ALSO\"\n");
    let others: Vec<String> = page.see_also.iter().map(|other| escaped(other)).collect();
    let _ = writeln!(out, "{}", others.join(",\n"));
    out
}

#[derive(Default)]
struct Writer {
    out: String,
    /// The text of the block that is being read, with its fonts.
    text: String,
    /// The fonts in force, innermost last.
    fonts: Vec<char>,
    /// For each list around: the number of its next item, or none where it has none.
    lists: Vec<Option<u64>>,
    /// Whether the next paragraph is the first of its item, which begins behind its mark.
    begins_item: bool,
    is_code: bool,
    is_title: bool,
    /// The cells of the row that is being read.
    row: Vec<String>,
    columns: usize,
}

impl Writer {
    fn take(&mut self, event: Event<'_>) {
        match event {
            Event::Start(tag) => self.start(tag),
            Event::End(tag) => self.end(tag),
            Event::Text(text) if self.is_code => self.code(&text),
            Event::Text(text) => self.text.push_str(&escaped(&text)),
            Event::Code(text) => {
                self.font('B');
                self.text.push_str(&escaped(&text));
                self.font_back();
            }
            Event::SoftBreak => self.text.push('\n'),
            Event::HardBreak => self.text.push_str("\n.br\n"),
            Event::Rule
            | Event::Html(_)
            | Event::InlineHtml(_)
            | Event::InlineMath(_)
            | Event::DisplayMath(_)
            | Event::FootnoteReference(_)
            | Event::TaskListMarker(_) => {}
        }
    }

    fn start(&mut self, tag: Tag<'_>) {
        match tag {
            Tag::Heading { level, .. } => {
                self.flush();
                self.is_title = level == HeadingLevel::H1;
            }
            Tag::CodeBlock(_) => {
                self.flush();
                self.paragraph();
                self.out.push_str(".RS 4\n.nf\n");
                self.is_code = true;
            }
            Tag::List(first) => {
                self.flush();
                if !self.lists.is_empty() {
                    self.out.push_str(".RS 4\n");
                }
                self.lists.push(first);
            }
            Tag::Item => {
                self.flush();
                let mark = match self.lists.last_mut() {
                    Some(Some(number)) => {
                        *number += 1;
                        format!("{}.", *number - 1)
                    }
                    _ => "\\(bu".to_owned(),
                };
                let _ = writeln!(self.out, ".IP {mark} 3");
                self.begins_item = true;
            }
            Tag::Table(columns) => {
                self.flush();
                self.columns = columns.len();
                let others = "l ".repeat(columns.len().saturating_sub(1));
                let heads = "lb ".repeat(columns.len());
                self.paragraph();
                let heads = heads.trim_end();
                let _ = write!(self.out, ".TS\nallbox;\n{heads}\n{others}lx.\n");
            }
            Tag::Emphasis => self.font('I'),
            Tag::Strong => self.font('B'),
            _ => {}
        }
    }

    fn end(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::Heading(level) => {
                let text = std::mem::take(&mut self.text);
                if self.is_title {
                    self.is_title = false;
                    return;
                }
                // Fonts and lines of a heading are its own.
                let text = plain(&text);
                let _ = match level {
                    HeadingLevel::H2 => writeln!(self.out, ".SH \"{}\"", text.to_uppercase()),
                    _ => writeln!(self.out, ".SS \"{text}\""),
                };
            }
            TagEnd::Paragraph => self.flush(),
            TagEnd::CodeBlock => {
                self.is_code = false;
                self.out.push_str(".fi\n.RE\n");
            }
            TagEnd::Item => self.flush(),
            TagEnd::List(_) => {
                self.flush();
                self.lists.pop();
                if self.lists.is_empty() {
                    self.begins_item = false;
                } else {
                    self.out.push_str(".RE\n");
                }
            }
            TagEnd::Emphasis | TagEnd::Strong => self.font_back(),
            TagEnd::TableCell => {
                let cell = std::mem::take(&mut self.text);
                self.row.push(cell);
            }
            TagEnd::TableHead | TagEnd::TableRow => {
                let row = std::mem::take(&mut self.row);
                let cells: Vec<String> = row
                    .iter()
                    .map(|cell| format!("T{{\n{}\nT}}", guarded(cell)))
                    .collect();
                let _ = writeln!(self.out, "{}", cells.join("\t"));
            }
            TagEnd::Table => self.out.push_str(".TE\n"),
            _ => {}
        }
    }

    /// Writes the paragraph that has been read.
    fn flush(&mut self) {
        let text = std::mem::take(&mut self.text);
        let text = text.trim();
        if text.is_empty() {
            return;
        }
        if self.begins_item {
            self.begins_item = false;
        } else if self.lists.is_empty() {
            self.paragraph();
        } else {
            self.out.push_str(".IP\n");
        }
        let _ = writeln!(self.out, "{}", guarded(text));
    }

    /// Begins a paragraph. Behind a heading one has begun.
    fn paragraph(&mut self) {
        let last = self.out.lines().next_back().unwrap_or("");
        if !last.starts_with(".SH ") && !last.starts_with(".SS ") {
            self.out.push_str(".PP\n");
        }
    }

    fn code(&mut self, text: &str) {
        for line in text.lines() {
            let _ = writeln!(self.out, "{}", guarded(&escaped(line)));
        }
    }

    fn font(&mut self, font: char) {
        self.fonts.push(font);
        let _ = write!(self.text, "\\f{font}");
    }

    fn font_back(&mut self) {
        self.fonts.pop();
        let font = self.fonts.last().copied().unwrap_or('R');
        let _ = write!(self.text, "\\f{font}");
    }
}

/// Characters that mean something to roff, as themselves.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-")
}

/// No line of text is a request.
fn guarded(text: &str) -> String {
    let lines = text.lines().map(|line| {
        let is_request = line.starts_with(['.', '\'']) && line != ".br";
        match is_request {
            true => format!("\\&{line}"),
            false => line.to_owned(),
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Without fonts, in one line.
fn plain(text: &str) -> String {
    let mut out = text.replace('\n', " ").replace('"', "");
    for font in ["\\fB", "\\fI", "\\fR"] {
        out = out.replace(font, "");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: Page<'static> = Page {
        name: "sgctl-policy",
        section: "5",
        about: "a test",
        date: "2026-01-02",
        see_also: &["sgctl(1)"],
    };

    fn body(markdown: &str) -> String {
        let page = page(&PAGE, markdown);
        let (_, rest) = page.split_once(".SH DESCRIPTION\n").unwrap();
        let (body, _) = rest.split_once(".SH \"SEE ALSO\"").unwrap();
        body.to_owned()
    }

    #[test]
    fn a_page_has_a_head_and_an_end() {
        let page = page(&PAGE, "# The language\n\nWords.\n");
        assert!(page.starts_with("'\\\" t\n.TH \"SGCTL-POLICY\" \"5\" \"2026-01-02\""));
        assert!(page.contains("sgctl\\-policy \\- a test\n.SH DESCRIPTION\nWords.\n"));
        assert!(page.ends_with(".SH \"SEE ALSO\"\nsgctl(1)\n"), "{page}");
        assert!(!page.contains("The language"), "{page}");
    }

    #[test]
    fn headings_paragraphs_and_fonts() {
        assert_eq!(
            body("## A `key`\n\nSome *more* of **it**:\n`a-b` [there](x.md).\n\n### Sub\n\n.5 s\n"),
            ".SH \"A KEY\"\nSome \\fImore\\fR of \\fBit\\fR:\n\\fBa\\-b\\fR there.\n\
             .SS \"Sub\"\n\\&.5 s\n"
        );
    }

    #[test]
    fn lists_and_code() {
        assert_eq!(
            body("- one\n- two\n\n  more\n\n1. first\n\n```yaml\na: '\\'\n- b\n```\n"),
            ".IP \\(bu 3\none\n.IP \\(bu 3\ntwo\n.IP\nmore\n.IP 1. 3\nfirst\n\
             .PP\n.RS 4\n.nf\na: '\\e'\n\\- b\n.fi\n.RE\n"
        );
    }

    #[test]
    fn tables_are_for_tbl() {
        assert_eq!(
            body("| key | means |\n|---|---|\n| `a` | one |\n"),
            ".TS\nallbox;\nlb lb\nl lx.\nT{\nkey\nT}\tT{\nmeans\nT}\n\
             T{\n\\fBa\\fR\nT}\tT{\none\nT}\n.TE\n"
        );
    }
}
