//! Lines of `txn` and `watch -i` taken apart into words.

use crate::go;

/// The words of `line`: bare, in single quotes as they are, or in double quotes with Go's escapes.
///
/// A quote without its partner is left out, and what follows it is bare.
pub fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        let inside = &rest[first.len_utf8()..];
        match first {
            '"' => {
                if let Some(end) = closing_quote(inside) {
                    let (quoted, tail) = rest.split_at(1 + end + 1);
                    let bytes = go::unquote(quoted).unwrap_or_default();
                    words.push(String::from_utf8_lossy(&bytes).into_owned());
                    rest = tail;
                    continue;
                }
            }
            '\'' => {
                if let Some((quoted, tail)) = inside.split_once('\'') {
                    words.push(quoted.to_owned());
                    rest = tail;
                    continue;
                }
            }
            _ if !first.is_whitespace() => {
                let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
                words.push(rest[..end].to_owned());
                rest = &rest[end..];
                continue;
            }
            _ => {}
        }
        rest = inside;
    }
    words
}

/// Where in `text` the double quote stands that no backslash protects.
fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'"' if !escaped => return Some(at),
            b'\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn words_are_bare_or_quoted() {
        assert_eq!(split(r#"put  k1 "v1 \n x""#), ["put", "k1", "v1 \n x"]);
        assert_eq!(split(r#"put 'a "b' "c \"d\"" --lease=1"#), ["put", r#"a "b"#, r#"c "d""#, "--lease=1"]);
        assert_eq!(split(r#"get """#), ["get", ""]);
        assert_eq!(split(r#"put a "x"#), ["put", "a", "x"]);
        assert_eq!(split("  "), Vec::<String>::new());
        assert_eq!(split("a\"b c"), ["a\"b", "c"]);
    }
}
