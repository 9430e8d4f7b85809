//! What a program is given to start with, as text: its arguments, and those variables that are meant for it.

use std::collections::BTreeMap;
use std::ffi::OsString;

/// Something that is not UTF-8, which no option or key of a command line can be here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not UTF-8: {1:?}")]
pub struct NotText(String, OsString);

/// A program's arguments, its name left out by the caller.
///
/// # Errors
/// The first one that is no text.
pub fn words(args: impl Iterator<Item = OsString>) -> Result<Vec<String>, NotText> {
    let text =
        |(n, arg): (usize, OsString)| arg.into_string().map_err(|arg| NotText(format!("argument {}", n + 1), arg));
    args.enumerate().map(text).collect()
}

/// The variables whose names begin with `prefix`. Others are nobody's business here, whatever they are.
///
/// # Errors
/// The first one whose value is no text.
pub fn variables(
    vars: impl Iterator<Item = (OsString, OsString)>,
    prefix: &str,
) -> Result<BTreeMap<String, String>, NotText> {
    let ours = vars.filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
    let ours = ours.filter(|(name, _)| name.starts_with(prefix));
    let text = |(name, value): (String, OsString)| match value.into_string() {
        Ok(value) => Ok((name, value)),
        Err(value) => Err(NotText(name, value)),
    };
    ours.map(text).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;

    fn os(bytes: &[u8]) -> OsString {
        OsString::from_vec(bytes.to_vec())
    }

    #[test]
    fn what_is_no_text_is_refused_and_never_altered() {
        let given = |args: &[&[u8]]| words(args.iter().map(|arg| os(arg)));
        assert_eq!(given(&[b"put", "ü".as_bytes()]).unwrap(), ["put", "ü"]);
        assert_eq!(given(&[b"put", b"k", b"\xff"]).unwrap_err().to_string(), r#"argument 3 is not UTF-8: "\xFF""#);
    }

    #[test]
    fn only_variables_of_ours_must_be_text() {
        let given =
            |vars: &[(&[u8], &[u8])]| variables(vars.iter().map(|(name, value)| (os(name), os(value))), "ETCD_");
        let found =
            given(&[(b"LS_COLORS", b"\xff"), (b"\xff", b"x"), (b"ETCD_NAME", b"a"), (b"PATH", b"/bin")]).unwrap();
        assert_eq!(found, [("ETCD_NAME".to_owned(), "a".to_owned())].into());
        let refused = given(&[(b"ETCD_NAME", b"\xff")]).unwrap_err();
        assert_eq!(refused.to_string(), r#"ETCD_NAME is not UTF-8: "\xFF""#);
    }
}
