//! A record's key: one field of its line, by the rules of CSV (RFC 4180) within one line.

use csv_core::{ReadFieldResult, Reader, ReaderBuilder};
use memchr::{memchr, memchr_iter};

use crate::exit::Failure;

/// Which field is the key.
#[derive(Debug)]
pub(crate) struct KeyField {
    /// Counting from 1.
    number: usize,
    delimiter: u8,
    reader: Reader,
    scratch: Vec<u8>,
}

/// A line without the field.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("has no field {wanted}, only {found}")]
pub(crate) struct MissingField {
    wanted: usize,
    found: usize,
}

impl KeyField {
    /// Field `number`, counting from 1, of fields set apart by `delimiter`.
    pub(crate) fn new(number: usize, delimiter: u8) -> Self {
        let reader = ReaderBuilder::new().delimiter(delimiter).build();
        Self { number, delimiter, reader, scratch: vec![0; 1024] }
    }

    /// The key of `line`; a slice of it unless quotes had to be undone.
    pub(crate) fn of<'a>(&'a mut self, line: &'a [u8]) -> Result<&'a [u8], MissingField> {
        // The CR of a CRLF belongs to the line's end, not to its last field.
        let fields = line.strip_suffix(b"\r").unwrap_or(line);
        if memchr(b'"', fields).is_some() {
            return self.quoted(fields);
        }
        let mut start = 0;
        let mut found = 0;
        for end in memchr_iter(self.delimiter, fields).chain([fields.len()]) {
            found += 1;
            if found == self.number {
                return Ok(&fields[start..end]);
            }
            start = end + 1;
        }
        Err(MissingField { wanted: self.number, found })
    }

    fn quoted(&mut self, mut input: &[u8]) -> Result<&[u8], MissingField> {
        self.reader.reset();
        // A field is never longer than its line.
        self.scratch.resize(input.len().max(self.scratch.len()), 0);
        let mut found = 0;
        let mut length = 0;
        loop {
            let (result, read, wrote) = self.reader.read_field(input, &mut self.scratch[length..]);
            input = &input[read..];
            length += wrote;
            match result {
                // Called again with nothing left, the reader ends the field it is in.
                ReadFieldResult::InputEmpty => {}
                ReadFieldResult::OutputFull => self.scratch.resize(self.scratch.len() * 2, 0),
                ReadFieldResult::Field { record_end } => {
                    found += 1;
                    if found == self.number {
                        return Ok(&self.scratch[..length]);
                    }
                    if record_end {
                        return Err(MissingField { wanted: self.number, found });
                    }
                    length = 0;
                }
                ReadFieldResult::End => return Err(MissingField { wanted: self.number, found }),
            }
        }
    }
}

/// A delimiter as people write it: one byte, or `\t`.
pub(crate) fn delimiter(text: &str) -> Result<u8, Failure> {
    match text.as_bytes() {
        b"\\t" => Ok(b'\t'),
        [b'"' | b'\n' | b'\r'] => {
            Err(Failure::usage("a quote or a line's end cannot set fields apart"))
        }
        [byte] => Ok(*byte),
        _ => Err(Failure::usage(format!("'{text}' is not one byte (or \\t)"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(line: &str, number: usize) -> Result<String, MissingField> {
        let mut field = KeyField::new(number, b',');
        field.of(line.as_bytes()).map(|key| String::from_utf8(key.to_vec()).unwrap())
    }

    #[test]
    fn fields_count_from_one() {
        assert_eq!(key("a,b,c", 1).unwrap(), "a");
        assert_eq!(key("a,b,c", 3).unwrap(), "c");
        assert_eq!(key("a,,c", 2).unwrap(), "");
        assert_eq!(key("", 1).unwrap(), "");
    }

    #[test]
    fn a_missing_field_is_told_with_what_there_is() {
        assert_eq!(key("a,b", 3), Err(MissingField { wanted: 3, found: 2 }));
        assert_eq!(key("\"a\",b", 3), Err(MissingField { wanted: 3, found: 2 }));
        assert_eq!(key("a", 2).unwrap_err().to_string(), "has no field 2, only 1");
    }

    #[test]
    fn quotes_are_undone() {
        assert_eq!(key("\"a,1\",b", 1).unwrap(), "a,1");
        assert_eq!(key("\"a,1\",b", 2).unwrap(), "b");
        assert_eq!(key("x,\"say \"\"hi\"\"\"", 2).unwrap(), "say \"hi\"");
        assert_eq!(key("x,\"never closed, to the end", 2).unwrap(), "never closed, to the end");
    }

    #[test]
    fn a_carriage_return_at_the_end_is_no_part_of_the_key() {
        assert_eq!(key("a,b\r", 2).unwrap(), "b");
        assert_eq!(key("a,\"b\"\r", 2).unwrap(), "b");
    }

    #[test]
    fn one_key_field_serves_line_after_line() {
        let mut field = KeyField::new(2, b';');
        let long = format!("\"{}\";k", "x;".repeat(5000));
        for (line, expected) in [("a;b", "b"), (long.as_str(), "k"), ("\"a\";\"b\"", "b")] {
            assert_eq!(field.of(line.as_bytes()).unwrap(), expected.as_bytes());
        }
    }

    #[test]
    fn a_delimiter_is_one_byte() {
        assert_eq!(delimiter("\\t").unwrap(), b'\t');
        assert_eq!(delimiter("|").unwrap(), b'|');
        for wrong in ["", ",,", "é", "\"", "\n"] {
            assert!(delimiter(wrong).is_err(), "{wrong:?}");
        }
    }
}
