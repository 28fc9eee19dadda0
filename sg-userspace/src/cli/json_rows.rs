//! JSON with long lists in it: indented, but with each entry of a list on one line, and written as
//! it is made. A million of them need neither the memory nor the lines that indenting them takes.

use std::io::{self, BufWriter, ErrorKind, Write};

use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter};

use super::failure::Failure;

/// How deep values are indented: what is deeper is an entry, and is on one line.
const INDENTED: usize = 3;

/// Prints one value on standard output.
pub(super) fn print(value: &impl Serialize) -> Result<(), Failure> {
    let mut out = BufWriter::with_capacity(1 << 16, io::stdout().lock());
    write(value, &mut out)
        .and_then(|()| out.flush())
        .map_err(|source| match source.kind() {
            ErrorKind::BrokenPipe => Failure::BrokenPipe,
            _ => Failure::Io {
                what: "writing to standard output",
                source,
            },
        })
}

fn write(value: &impl Serialize, mut out: impl Write) -> io::Result<()> {
    let rows = Rows {
        pretty: PrettyFormatter::new(),
        depth: 0,
    };
    let mut serializer = Serializer::with_formatter(&mut out, rows);
    value.serialize(&mut serializer)?;
    out.write_all(b"\n")
}

struct Rows {
    pretty: PrettyFormatter<'static>,
    depth: usize,
}

/// Does it indented or on one line, by the depth.
macro_rules! by_depth {
    ($rows:expr, $call:ident($($argument:expr),*)) => {
        if $rows.depth <= INDENTED {
            $rows.pretty.$call($($argument),*)
        } else {
            CompactFormatter.$call($($argument),*)
        }
    };
}

impl Formatter for Rows {
    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.depth += 1;
        by_depth!(self, begin_array(writer))
    }

    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        let done = by_depth!(self, end_array(writer));
        self.depth -= 1;
        done
    }

    fn begin_array_value<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        by_depth!(self, begin_array_value(writer, first))
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        by_depth!(self, end_array_value(writer))
    }

    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.depth += 1;
        by_depth!(self, begin_object(writer))
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        let done = by_depth!(self, end_object(writer));
        self.depth -= 1;
        done
    }

    fn begin_object_key<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        by_depth!(self, begin_object_key(writer, first))
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        by_depth!(self, begin_object_value(writer))
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        by_depth!(self, end_object_value(writer))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::write;

    #[test]
    fn entries_of_lists_are_lines() {
        let value =
            json!([{"a": [], "b": [{"x": 1, "y": [2, {}]}, {"x": null}], "c": {"d": true}}]);
        let mut out = Vec::new();
        write(&value, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
        let expected = "\
[
  {
    \"a\": [],
    \"b\": [
      {\"x\":1,\"y\":[2,{}]},
      {\"x\":null}
    ],
    \"c\": {
      \"d\": true
    }
  }
]
";
        assert_eq!(text, expected);
    }
}
