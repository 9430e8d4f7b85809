//! How Go writes numbers, durations and quoted strings, since etcd's flags, etcdctl's output and scripts that read it
//! depend on it.

mod duration;
mod quote;

pub use duration::{format_duration, parse_duration};
pub use quote::{quote, unquote, unquote_prefix};

/// A signed integer in `radix`, or Go's text for why it is none.
///
/// # Errors
/// The text of Go's `strconv.ParseInt`.
pub fn parse_int(text: &str, radix: u32) -> Result<i64, String> {
    parse(text, "ParseInt", |t| i64::from_str_radix(t, radix))
}

/// An unsigned integer in `radix`, or Go's text for why it is none.
///
/// # Errors
/// The text of Go's `strconv.ParseUint`.
pub fn parse_uint(text: &str, radix: u32) -> Result<u64, String> {
    match text.starts_with('+') {
        true => Err(syntax_error("ParseUint", text)),
        false => parse(text, "ParseUint", |t| u64::from_str_radix(t, radix)),
    }
}

/// A truth value in any of Go's spellings.
///
/// # Errors
/// The text of Go's `strconv.ParseBool`.
pub fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(syntax_error("ParseBool", text)),
    }
}

fn parse<T>(
    text: &str,
    function: &str,
    parse: impl Fn(&str) -> Result<T, std::num::ParseIntError>,
) -> Result<T, String> {
    use std::num::IntErrorKind::{NegOverflow, PosOverflow};
    parse(text).map_err(|error| match error.kind() {
        PosOverflow | NegOverflow => {
            format!("strconv.{function}: parsing {}: value out of range", quote(text.as_bytes()))
        }
        _ => syntax_error(function, text),
    })
}

fn syntax_error(function: &str, text: &str) -> String {
    format!("strconv.{function}: parsing {}: invalid syntax", quote(text.as_bytes()))
}

/// A byte count in units of 1000 with at most one decimal, as `20 kB` or `2.1 GB`.
pub fn format_size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 10 {
        return format!("{bytes} B");
    }
    let (mut unit, mut scale) = (0, 1u128);
    while unit + 1 < UNITS.len() && u128::from(bytes) >= scale * 1000 {
        unit += 1;
        scale *= 1000;
    }
    // Tenths, rounded half up; a value of ten or more is shown without them.
    let tenths = (u128::from(bytes) * 10 + scale / 2) / scale;
    match tenths < 100 {
        true => format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit]),
        false => format!("{} {}", (u128::from(bytes) + scale / 2) / scale, UNITS[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_a_person_writes_them() {
        let sizes = [
            (0, "0 B"),
            (9, "9 B"),
            (10, "10 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (24_576, "25 kB"),
            (2_147_483_648, "2.1 GB"),
        ];
        for (bytes, text) in sizes {
            assert_eq!(format_size(bytes), text);
        }
        assert_eq!(format_size(u64::MAX), "18 EB");
    }

    #[test]
    fn bad_numbers_are_refused_in_gos_words() {
        assert_eq!(parse_int("x", 10).unwrap_err(), r#"strconv.ParseInt: parsing "x": invalid syntax"#);
        assert_eq!(parse_int("", 10).unwrap_err(), r#"strconv.ParseInt: parsing "": invalid syntax"#);
        assert_eq!(
            parse_int("9223372036854775808", 10).unwrap_err(),
            r#"strconv.ParseInt: parsing "9223372036854775808": value out of range"#
        );
        assert_eq!(parse_int("-7fffffffffffffff", 16), Ok(-i64::MAX));
        assert_eq!(parse_uint("+1", 16).unwrap_err(), r#"strconv.ParseUint: parsing "+1": invalid syntax"#);
        assert_eq!(parse_bool("yes").unwrap_err(), r#"strconv.ParseBool: parsing "yes": invalid syntax"#);
    }
}
