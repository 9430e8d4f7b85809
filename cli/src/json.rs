//! JSON in the order and with the escapes of Go's `encoding/json`.

use std::fmt::Display;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// A JSON object under construction; its members keep the order in which they were added.
#[derive(Clone, Debug, Default)]
pub struct Object {
    text: String,
}

impl Object {
    /// An object without members.
    pub fn new() -> Object {
        Object::default()
    }

    /// Adds member `name`; `json` must be JSON.
    pub fn raw(mut self, name: &str, json: impl Display) -> Object {
        let comma = if self.text.is_empty() { "" } else { "," };
        self.text.push_str(&format!("{comma}{}:{json}", string(name)));
        self
    }

    /// Adds `json` if there is any.
    pub fn some(self, name: &str, json: Option<impl Display>) -> Object {
        match json {
            Some(json) => self.raw(name, json),
            None => self,
        }
    }

    /// Adds a number that is not zero.
    pub fn number(self, name: &str, number: impl Into<i128>) -> Object {
        let number = number.into();
        self.some(name, (number != 0).then_some(number))
    }

    /// Adds a truth value that is true.
    pub fn flag(self, name: &str, flag: bool) -> Object {
        self.some(name, flag.then_some(true))
    }

    /// Adds a text that is not empty.
    pub fn string(self, name: &str, text: &str) -> Object {
        self.some(name, (!text.is_empty()).then(|| string(text)))
    }

    /// Adds bytes that are not empty, in base64.
    pub fn bytes(self, name: &str, data: &[u8]) -> Object {
        self.some(name, (!data.is_empty()).then(|| bytes(data)))
    }

    /// Adds a list that is not empty; every item must be JSON.
    pub fn list(self, name: &str, items: impl IntoIterator<Item = impl Display>) -> Object {
        let items = list(items);
        self.some(name, (items != "[]").then_some(items))
    }

    /// The object's text.
    pub fn build(self) -> String {
        format!("{{{}}}", self.text)
    }
}

/// A list of JSON `items`.
pub fn list(items: impl IntoIterator<Item = impl Display>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    format!("[{}]", items.join(","))
}

/// `data` as a JSON string in base64.
pub fn bytes(data: &[u8]) -> String {
    format!("\"{}\"", STANDARD.encode(data))
}

/// `text` as a JSON string, safe inside HTML as Go's is.
pub fn string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\0'..' ' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                out.push_str(&format!("\\u{:04x}", c as u32));
            }
            _ => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_keep_their_order_and_zero_values_are_left_out() {
        let json = Object::new()
            .number("b", 1u64)
            .number("zero", 0i64)
            .flag("no", false)
            .string("s", "<a&b>\n\"\u{1}")
            .string("empty", "")
            .bytes("k", b"foo")
            .list("l", ["1", "2"])
            .list("none", Vec::<String>::new())
            .raw("a", "null")
            .build();
        assert_eq!(json, r#"{"b":1,"s":"\u003ca\u0026b\u003e\n\"\u0001","k":"Zm9v","l":[1,2],"a":null}"#);
        assert_eq!(Object::new().build(), "{}");
    }
}
