//! Go's quoted strings (`%q`): double quotes with escapes, or backquotes around raw text.

/// `bytes` in double quotes; what is not printable UTF-8 is escaped.
pub fn quote(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() + 2);
    out.push('"');
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            push_char(c, &mut out);
        }
        for byte in chunk.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out.push('"');
    out
}

fn push_char(c: char, out: &mut String) {
    match c {
        '"' | '\\' => out.extend(['\\', c]),
        '\x07' => out.push_str("\\a"),
        '\x08' => out.push_str("\\b"),
        '\x0c' => out.push_str("\\f"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\x0b' => out.push_str("\\v"),
        '\0'..' ' | '\x7f' => out.push_str(&format!("\\x{:02x}", c as u32)),
        _ if is_printable(c) => out.push(c),
        _ if (c as u32) < 0x1_0000 => out.push_str(&format!("\\u{:04x}", c as u32)),
        _ => out.push_str(&format!("\\U{:08x}", c as u32)),
    }
}

/// Whether Go prints `c` as it is: letters, marks, numbers, symbols, and of the blanks only the ASCII one.
fn is_printable(c: char) -> bool {
    if c.is_whitespace() && c != ' ' {
        return false;
    }
    // Behind a letter, the standard library escapes exactly what has no shape: a combining mark has one.
    let mut word = String::from("a");
    word.push(c);
    !word.escape_debug().any(|e| e == '{') || c == '{'
}

/// The bytes meant by `text`, a whole quoted string of either kind; `None` if it is none.
pub fn unquote(text: &str) -> Option<Vec<u8>> {
    match unquote_prefix(text)? {
        (bytes, "") => Some(bytes),
        _ => None,
    }
}

/// Reads a quoted string at the start of `text`: its bytes and what follows it. `None` if none is there.
pub fn unquote_prefix(text: &str) -> Option<(Vec<u8>, &str)> {
    if let Some(raw) = text.strip_prefix('`') {
        let (inside, rest) = raw.split_once('`')?;
        return Some((inside.bytes().filter(|&b| b != b'\r').collect(), rest));
    }
    let mut rest = text.strip_prefix('"')?;
    let mut bytes = Vec::new();
    loop {
        let c = rest.chars().next()?;
        rest = &rest[c.len_utf8()..];
        match c {
            '"' => return Some((bytes, rest)),
            '\n' => return None,
            '\\' => rest = unescape(rest, &mut bytes)?,
            _ => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

/// Decodes one escape, its backslash already read, and returns what follows it.
fn unescape<'a>(text: &'a str, bytes: &mut Vec<u8>) -> Option<&'a str> {
    let kind = *text.as_bytes().first()?;
    let simple = match kind {
        b'a' => Some(0x07),
        b'b' => Some(0x08),
        b'f' => Some(0x0c),
        b'n' => Some(b'\n'),
        b'r' => Some(b'\r'),
        b't' => Some(b'\t'),
        b'v' => Some(0x0b),
        b'\\' | b'"' => Some(kind),
        _ => None,
    };
    if let Some(byte) = simple {
        bytes.push(byte);
        return Some(&text[1..]);
    }
    let (start, length, radix) = match kind {
        b'x' => (1, 2, 16),
        b'u' => (1, 4, 16),
        b'U' => (1, 8, 16),
        b'0'..=b'7' => (0, 3, 8),
        _ => return None,
    };
    let digits = text.get(start..start + length)?;
    if !digits.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    let value = u32::from_str_radix(digits, radix).ok()?;
    match kind {
        b'u' | b'U' => bytes.extend_from_slice(char::from_u32(value)?.encode_utf8(&mut [0; 4]).as_bytes()),
        _ => bytes.push(u8::try_from(value).ok()?),
    }
    Some(&text[start + length..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_escapes_as_go_does() {
        let cases: [(&[u8], &str); 8] = [
            (b"plain {}", r#""plain {}""#),
            (b"a\"b\\c", r#""a\"b\\c""#),
            (b"\x07\x08\x0c\n\r\t\x0b\0\x7f", r#""\a\b\f\n\r\t\v\x00\x7f""#),
            (b"\xff\xfe", r#""\xff\xfe""#),
            ("ä日e\u{301}".as_bytes(), "\"ä日e\u{301}\""),
            ("\u{a0}\u{2028}\u{feff}".as_bytes(), r#""\u00a0\u2028\ufeff""#),
            ("'".as_bytes(), r#""'""#),
            ("\u{e0001}".as_bytes(), r#""\U000e0001""#),
        ];
        for (bytes, text) in cases {
            assert_eq!(quote(bytes), text);
            assert_eq!(unquote(text).as_deref(), Some(bytes), "{text}");
        }
    }

    #[test]
    fn unquoting_reads_every_escape_and_refuses_the_rest() {
        assert_eq!(unquote(r#""\x41\101\u0041\U00000041""#).as_deref(), Some(&b"AAAA"[..]));
        assert_eq!(unquote(r"`raw \n`").as_deref(), Some(&br"raw \n"[..]));
        for bad in
            [r#""open"#, r#""\q""#, r#""\x4""#, r#""\400""#, r#""\ud800""#, "\"a\nb\"", "bare", r#""a"b"#, "\"\\"]
        {
            assert_eq!(unquote(bad), None, "{bad}");
        }
        assert_eq!(unquote_prefix(r#""k") = "v""#), Some((b"k".to_vec(), r#") = "v""#)));
    }
}
