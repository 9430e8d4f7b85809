//! Asking for passwords: from a terminal without showing them, else a line of stdin.

use std::io::{self, IsTerminal as _, Read as _};

use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use crate::failure::{Failure, Result};
use crate::print::write_stdout;

/// Asks for a password once.
///
/// # Errors
/// Stdin or stdout is closed.
pub fn password(prompt: &str) -> Result<String> {
    write_stdout(prompt.as_bytes())?;
    let silence = Silence::begin();
    let line = line();
    drop(silence);
    write_stdout(b"\n")?;
    line
}

/// Asks for the password of `name` twice.
///
/// # Errors
/// It is empty, or not the same both times.
pub fn new_password(name: &str) -> Result<String> {
    let first = password(&format!("Password of {name}: "))?;
    if first.is_empty() {
        return Err(Failure::bad_args("empty password"));
    }
    if password(&format!("Type password of {name} again for confirmation: "))? != first {
        return Err(Failure::bad_args("given passwords are different"));
    }
    Ok(first)
}

/// The next word of stdin; nothing if there is none on its first line. (Go: fmt.Scanf)
///
/// # Errors
/// Stdin is closed.
pub fn word() -> Result<String> {
    Ok(line()?.split_whitespace().next().unwrap_or_default().to_owned())
}

/// A line, read byte by byte: what follows is for the next one who asks.
fn line() -> Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    let mut stdin = io::stdin().lock();
    loop {
        match stdin.read(&mut byte) {
            Ok(0) => break,
            Ok(_) if byte == *b"\n" => break,
            Ok(_) => line.push(byte[0]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Failure::bad_args(format!("failed to ask password: {error}"))),
        }
    }
    if line.ends_with(b"\r") {
        line.pop();
    }
    String::from_utf8(line).map_err(|_| Failure::bad_args("failed to ask password: it is not UTF-8"))
}

/// While it lives, the terminal does not show what is typed.
struct Silence(Option<rustix::termios::Termios>);

impl Silence {
    fn begin() -> Self {
        let stdin = io::stdin();
        let Some(before) = stdin.is_terminal().then(|| tcgetattr(&stdin).ok()).flatten() else { return Self(None) };
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        let _ = tcsetattr(&stdin, OptionalActions::Flush, &silent); // Then it is shown: better than not asked.
        Self(Some(before))
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = tcsetattr(io::stdin(), OptionalActions::Flush, before);
        }
    }
}
