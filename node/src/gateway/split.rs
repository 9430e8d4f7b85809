//! A stream of bytes cut into the JSON objects it consists of.

use axum::body::Bytes;
use bytes::{Buf as _, BytesMut};

use crate::status::{Code, Status};

/// Finds where objects end; whether they are well-formed inside is for the parser.
///
/// What was found leaves the buffer without a copy of what comes behind it: a frame of nothing but blanks, or of thousands
/// of tiny objects, takes time by its length alone.
pub(super) struct Splitter {
    buffer: BytesMut,
    /// `buffer[..seen]` has been looked at.
    seen: usize,
    /// Braces and brackets that are open at `seen`.
    depth: usize,
    /// Whether `seen` is within a string, and right behind a backslash there.
    string: Option<Escape>,
    bytes_max: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Escape {
    No,
    Yes,
}

impl Splitter {
    /// Refuses objects of more than `bytes_max`.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { buffer: BytesMut::new(), seen: 0, depth: 0, string: None, bytes_max }
    }

    /// More of the stream.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next object, once all of it is there.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, Status> {
        while let Some(&byte) = self.buffer.get(self.seen) {
            self.seen += 1;
            match (self.string, byte) {
                (Some(Escape::Yes), _) => self.string = Some(Escape::No),
                (Some(Escape::No), b'\\') => self.string = Some(Escape::Yes),
                (Some(Escape::No), b'"') => self.string = None,
                (Some(Escape::No), _) => {}
                (None, b'{' | b'[') if self.depth > 0 || byte == b'{' => self.depth += 1,
                (None, b'}' | b']') if self.depth > 0 => self.depth -= 1,
                (None, b'"') if self.depth > 0 => self.string = Some(Escape::No),
                (None, _) if self.depth > 0 => {}
                // Between objects.
                (None, byte) if byte.is_ascii_whitespace() => {
                    self.buffer.advance(self.seen);
                    self.seen = 0;
                    continue;
                }
                (None, byte) => {
                    let text = format!("proto: syntax error: unexpected token {:?}", char::from(byte));
                    return Err(Status::new(Code::InvalidArgument, text));
                }
            }
            if self.depth == 0 {
                let object = self.buffer.split_to(std::mem::take(&mut self.seen));
                return Ok(Some(object.freeze()));
            }
        }
        if self.buffer.len() > self.bytes_max {
            return Err(Status::new(Code::ResourceExhausted, "a JSON object is larger than any request may be"));
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objects(splitter: &mut Splitter) -> Vec<String> {
        let next = |it: &mut Splitter| it.next().unwrap().map(|text| String::from_utf8(text.to_vec()).unwrap());
        std::iter::from_fn(|| next(splitter)).collect()
    }

    #[test]
    fn objects_are_found_wherever_the_stream_is_cut() {
        let text = r#" {"a":"}\"{"}{} {"b":[{"c":"\\"}]}
            {"d":1}"#;
        let expected = [r#"{"a":"}\"{"}"#, "{}", r#"{"b":[{"c":"\\"}]}"#, r#"{"d":1}"#];
        for cut in 0..text.len() {
            let mut splitter = Splitter::new(100);
            let mut found = Vec::new();
            for part in [&text[..cut], &text[cut..]] {
                splitter.push(part.as_bytes());
                found.extend(objects(&mut splitter));
            }
            assert_eq!(found, expected, "cut at {cut}");
        }
    }

    #[test]
    fn what_was_pushed_is_not_moved_however_much_of_it_is_blank_or_tiny() {
        let mut splitter = Splitter::new(100);
        splitter.push(&[&[b' '; 1 << 20][..], &b"{} ".repeat(100_000)].concat());
        let pushed = splitter.buffer.as_ptr() as usize;
        for n in 0..100_000 {
            let object = splitter.next().unwrap().unwrap();
            assert_eq!(object, "{}");
            assert_eq!(object.as_ptr() as usize - pushed, (1 << 20) + 3 * n, "object {n} was copied");
        }
        assert_eq!(splitter.next().unwrap(), None);
        assert!(splitter.buffer.is_empty());
    }

    #[test]
    fn what_is_no_object_or_endless_is_refused() {
        for bad in ["[", "\"a\"", "1", "}", "{} x"] {
            let mut splitter = Splitter::new(100);
            splitter.push(bad.as_bytes());
            let status = std::iter::repeat_with(|| splitter.next()).find_map(Result::err).unwrap();
            assert_eq!(status.code, Code::InvalidArgument, "{bad}");
        }
        let mut splitter = Splitter::new(100);
        splitter.push(&[b'{'; 101]);
        assert_eq!(splitter.next().unwrap_err().code, Code::ResourceExhausted);
    }
}
